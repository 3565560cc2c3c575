"""Do more training sequences mend an error? A task's rows with an encoder, by how many there are.

    python benchmarks/more_data.py hopper --protocol extrapolation --train 1000 8000

What differs between columns is the number of sequences; networks, data and seed are those of
`tables.py` at its small scale. (Tasks that are simulated anew draw other test sequences, too.)
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from irregular_sines import write_json
from tables_errors import errors
from tables_figures import short, table
from tables_models import Cell
from tables_tasks import PROTOCOLS, TASKS, Sizes
from tables_train import train_encoder
from tqdm import tqdm


@dataclass(frozen=True)
class Larger(Cell):
    """A cell with a number of training sequences of its own."""

    train: int = 1000

    @property
    def sizes(self) -> Sizes:
        return replace(super().sizes, train=self.train)


def figures(cell: Larger) -> dict[str, Any]:
    """Errors of the rows by share, and their iterations."""
    torch.manual_seed(cell.seed)
    data = cell.data()
    found = {}
    for name, row in train_encoder(cell, data).items():
        torch.manual_seed(cell.seed)
        found[name] = {"iterations": row.trained["iterations"]} | {
            f"{share:g}": errors(cell, row, data, share)["mse"] for share in cell.of.given
        }
    return found


def rendered(report: dict[str, Any]) -> str:
    """Test errors x 100 and iterations, a column a number of sequences."""
    sizes = report["sizes"]
    lines = []
    for name, row in next(iter(sizes.values())).items():
        for figure in row:
            factor = 1 if figure == "iterations" else 100
            of = [short(factor * rows[name][figure]) for rows in sizes.values()]
            lines.append([name, figure, *of])
    return table(["row", "share given", *(f"{n} sequences" for n in sizes)], lines)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task", choices=[*TASKS])
    parser.add_argument("--protocol", choices=PROTOCOLS, default="extrapolation")
    parser.add_argument("--train", type=int, nargs="+", default=[1000, 8000])
    parser.add_argument("--seconds", type=float, default=900.0, help="of a processor, each row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--quick", action="store_true", help="tiny: a check that it runs")
    args = parser.parse_args()
    if min(args.train) < 1:
        parser.error(f"--train: expected positive numbers, got {min(args.train)}")
    torch.set_num_threads(1)
    seconds = min(args.seconds, 1.0) if args.quick else args.seconds
    cell = Larger(
        args.task,
        "encoder",
        args.protocol,
        args.seed,
        seconds,
        learning_rate=TASKS[args.task].learning_rate,
        quick=args.quick,
    )
    report: dict[str, Any] = {"task": args.task, "protocol": args.protocol, "sizes": {}}
    for train in tqdm(args.train, unit="training"):
        report["sizes"][str(train)] = figures(replace(cell, train=train))
        if args.json is not None:
            write_json(args.json, report)
    print(f"Squared errors x 100, seed {args.seed}.\n\n{rendered(report)}")


if __name__ == "__main__":
    main()
