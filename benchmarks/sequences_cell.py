"""One training of the sequences' benchmark and all that is measured of it: a worker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyro
from sequences_measure import measure
from sequences_rows import Cell, train
from side_by_side import Kept, work

KEPT = Kept("sequences_cell.py", ("sequences_tasks", "sequences_rows", "sequences_measure"))


def figures(cell: Cell, folder: Path) -> dict[str, Any]:
    """Train it, keep the model, and measure it."""
    data = cell.data()
    row = train(cell, data)
    row.model.save(folder / f"{cell.name}.pt")
    # A path that runs away under noise that no training had is a large error, and not the end.
    with pyro.validation_enabled(False):
        return measure(cell, data, row)


def main(arguments: Sequence[str] | None = None) -> None:
    """A cell, told by the command line."""
    work(KEPT, Cell, figures, arguments)


if __name__ == "__main__":
    main()
