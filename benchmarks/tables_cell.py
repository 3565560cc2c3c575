"""One training of the tables and all that is measured of its rows: a worker of `tables.py`.

Kept apart from the command so that trainings run side by side as processes of one thread each.
"""

from __future__ import annotations

import argparse
import json
import pickle
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from irregular_sines import write_json
from tables_measure import FULL, QUICK, background_log_p, measure
from tables_models import Cell
from tables_train import TRAININGS, Row

from pyro_lebm.checkpoint import CheckpointError, read_state, write_state


def run(cell: Cell, folder: Path) -> dict[str, Any]:
    """Train, or take up the trained rows; then measure each."""
    data = cell.data()
    rows = _trained(cell, folder)
    begin = time.perf_counter()
    if cell.group == "background":
        told = background_log_p(rows["background"], data, QUICK if cell.quick else FULL)
        write_state(folder / "background.pt", {"log_p": told}, kind="background")
        return {name: dict(row.trained) for name, row in rows.items()}
    background = _background(folder)
    found = {}
    for name, row in rows.items():
        torch.manual_seed(cell.seed)
        found[name] = measure(cell, row, data, background)
        found[name]["measured_seconds"] = time.perf_counter() - begin
        begin = time.perf_counter()
    return found


def _trained(cell: Cell, folder: Path) -> dict[str, Row]:
    """Kept beside the results: measuring again needs no training."""
    cell = cell.trained_as
    path = folder / f"{cell.name}.pkl"
    if path.exists():
        of, rows = pickle.loads(path.read_bytes())
        if of == asdict(cell):
            kept: dict[str, Row] = rows
            return kept
    torch.manual_seed(cell.seed)
    rows = TRAININGS[cell.group](cell, cell.data())
    beside = path.with_suffix(".part")
    beside.write_bytes(pickle.dumps((asdict(cell), rows)))
    beside.replace(path)
    for name, row in rows.items():
        row.model.save(folder / f"{name}_{cell.protocol}.pt")
    return rows


def _background(folder: Path) -> dict[str, torch.Tensor] | None:
    try:
        found: dict[str, torch.Tensor] = read_state(folder / "background.pt", kind="background")[
            "log_p"
        ]
    except CheckpointError:
        return None
    return found


def main() -> None:
    """Run one cell given as JSON and write its rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cell", help="a Cell as JSON")
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cell = Cell(**json.loads(args.cell))
    args.folder.mkdir(parents=True, exist_ok=True)
    rows = run(cell, args.folder)
    write_json(args.folder / f"{cell.name}.json", {"cell": asdict(cell), "rows": rows})


if __name__ == "__main__":
    main()
