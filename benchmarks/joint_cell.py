"""One training of the joint prior's benchmark and all that is measured of it: a worker."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from irregular_sines import write_json
from joint_measure import measure
from joint_models import Cell
from joint_ode import ODE_ROWS, ode_figures
from joint_train import train
from tables_kept import made

HERE = Path(__file__).parent
CODE = (
    "joint_data",
    "joint_models",
    "joint_train",
    "joint_measure",
    "joint_chains",
    "joint_ode",
    "tables_tasks",
)


def key(cell: Cell) -> dict[str, Any]:
    """What has to be the same for kept figures to stand for this cell."""
    digest = hashlib.sha256()
    for name in CODE:
        digest.update((HERE / f"{name}.py").read_bytes())
    return {**asdict(cell), "code": digest.hexdigest()[:16]}


def told(cell: Cell, folder: Path) -> dict[str, Any] | None:
    """The figures of this very cell, if they are there."""
    path = folder / f"{cell.name}.json"
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError:
        return None
    return found if found["key"] == key(cell) else None


def of_images(cell: Cell, folder: Path) -> dict[str, Any]:
    """Train a generator of images, keep it, and measure it."""
    images = cell.images()
    row = train(cell, images)
    row.model.save(folder / f"{cell.name}.pt")
    begin = time.perf_counter()
    torch.manual_seed(cell.seed)
    return {**measure(cell, row, images), "measured_seconds": time.perf_counter() - begin}


def main() -> None:
    """Train and measure a cell given as JSON, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cell", help="a Cell as JSON")
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cell = Cell(**json.loads(args.cell))
    with warnings.catch_warnings(record=True) as warned:
        figures = ode_figures(cell) if cell.row in ODE_ROWS else of_images(cell, args.folder)
    content: dict[str, Any] = {"key": key(cell), "made": made(cell), "row": figures}
    content["warnings"] = sorted({str(warning.message) for warning in warned})
    write_json(args.folder / f"{cell.name}.json", content)


if __name__ == "__main__":
    main()
