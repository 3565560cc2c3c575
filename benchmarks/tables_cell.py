"""One training of the tables, or all that is measured of its rows: a worker of `tables.py`.

Kept apart from the command so that trainings run side by side as processes of one thread each.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from tables_kept import put, take, tell, told
from tables_measure import measure
from tables_models import Cell
from tables_scores import background_log_p, effort_of
from tables_train import TRAININGS

from pyro_lebm.checkpoint import read_state, write_state


def train(cell: Cell, folder: Path) -> None:
    """Train, and keep the rows."""
    torch.manual_seed(cell.seed)
    rows = TRAININGS[cell.group](cell, cell.data())
    put(cell, folder, rows)
    for name, row in rows.items():
        row.model.save(folder / f"{name}_{cell.protocol}.pt")


def measured(cell: Cell, folder: Path, background: Cell | None) -> dict[str, Any]:
    """All figures of the rows; of the background model, what others are compared with."""
    data, rows = cell.data(), take(cell.trained_as, folder)
    torch.manual_seed(cell.seed)
    if cell.group == "background":
        log_p = background_log_p(rows["background"], data, effort_of(cell))
        write_state(_log_p(cell, folder), {"log_p": log_p}, kind="background")
        return {name: dict(row.trained) for name, row in rows.items()}
    known: dict[str, torch.Tensor] | None = None
    if background is not None:
        known = read_state(_log_p(background, folder), kind="background")["log_p"]
    found = {}
    for name, row in rows.items():
        torch.manual_seed(cell.seed)
        begin = time.perf_counter()
        found[name] = measure(cell, row, data, known)
        found[name]["measured_seconds"] = time.perf_counter() - begin
    return found


def _log_p(background: Cell, folder: Path) -> Path:
    return folder / f"{background.name}.log_p.pt"


def main() -> None:
    """Run one stage of a cell given as JSON, and write what became of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cell", help="a Cell as JSON")
    parser.add_argument("folder", type=Path)
    parser.add_argument("stage", choices=("train", "measure"))
    parser.add_argument("--background", help="the background model's Cell as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cell = Cell(**json.loads(args.cell))
    with warnings.catch_warnings(record=True) as warned:
        if args.stage == "train":
            train(cell, args.folder)
            content: dict[str, Any] = {}
        else:
            trained = told(cell.trained_as, "train", args.folder)
            assert trained is not None
            background = Cell(**json.loads(args.background)) if args.background else None
            rows = measured(cell, args.folder, background)
            content = {"trained": trained["made"], "rows": rows}
    content["warnings"] = sorted({str(warning.message) for warning in warned})
    tell(cell, args.stage, args.folder, **content)


if __name__ == "__main__":
    main()
