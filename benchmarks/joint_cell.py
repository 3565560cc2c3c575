"""One training of the joint prior's benchmark and all that is measured of it: a worker."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from joint_measure import measure
from joint_models import Cell
from joint_ode import ODE_ROWS, ode_figures
from joint_train import train
from side_by_side import Kept, work

KEPT = Kept(
    "joint_cell.py",
    (
        "joint_data",
        "joint_models",
        "joint_train",
        "joint_measure",
        "joint_chains",
        "joint_ode",
        "tables_tasks",
    ),
)


def figures(cell: Cell, folder: Path) -> dict[str, Any]:
    """Of a generator of images, which is kept, or of a latent ODE."""
    if cell.row in ODE_ROWS:
        return ode_figures(cell)
    images = cell.images()
    row = train(cell, images)
    row.model.save(folder / f"{cell.name}.pt")
    begin = time.perf_counter()
    torch.manual_seed(cell.seed)
    return {**measure(cell, row, images), "measured_seconds": time.perf_counter() - begin}


if __name__ == "__main__":
    work(KEPT, Cell, figures)
