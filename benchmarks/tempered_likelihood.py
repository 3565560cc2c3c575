"""Refined posteriors whose likelihood counts for less: does that mend their extrapolation?

    python benchmarks/tables.py hopper       # first: what it trained is taken up here
    python benchmarks/tempered_likelihood.py hopper

Draws of p(z | x) of the given part take the model at its word. Where it fits less well than its
own noise says, they may be narrower, and elsewhere, than what predicts best. Here the likelihood
is raised to a power, chosen for each row and share of points on validation data, and the errors on
test data stand beside those of power 1 and of the encoder's own draws.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from irregular_sines import write_json
from pyro.poutine.messenger import Messenger
from tables_errors import errors
from tables_figures import short, table
from tables_kept import take, told
from tables_models import Cell
from tables_scores import guide_of
from tables_tasks import TASKS, Data
from tables_train import Row
from tqdm import tqdm

from pyro_lebm.inference import EncoderGuide, RefinedGuide
from pyro_lebm.series import Series

POWERS = (1.0, 0.3, 0.1, 0.03, 0.01)
ROWS = ("latent_ode_refined", "ode_lebm_refined")


class Less(Messenger):
    """Raises the likelihood of the data to a power."""

    def __init__(self, power: float) -> None:
        super().__init__()
        self.power = power

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == "x":
            msg["scale"] = msg["scale"] * self.power


def tempered(model: Callable[[Series], Any], power: float) -> Callable[[Series], Any]:
    """The program whose likelihood counts for less."""

    def program(series: Series) -> Any:
        with Less(power):
            return model(series)

    return program


def refined(row: Row, data: Data, power: float) -> Row:
    """The row with draws of that program's posterior, from its own encoder; it predicts as ever."""
    encoder = guide_of(row, row.model, data).encoder
    guide = EncoderGuide(tempered(row.model, power), data.train, encoder)
    return replace(row, guide=RefinedGuide(guide))


def of_seed(
    cell: Cell,
    rows: dict[str, Row],
    given: Sequence[float],
    powers: Sequence[float],
    tell: Callable[..., object],
) -> Any:
    """Errors by row, share and power: of validation data for all powers, of test data."""
    kinds = {"validation": replace(cell, validation=True).data(), "test": cell.data()}
    found: dict[str, Any] = {}
    for name in ROWS:
        row, found[name] = rows[name], {}
        encoder = replace(row, guide=guide_of(row, row.model, kinds["test"]))
        for share in given:
            by = found[name][f"{share:g}"] = {}
            by["encoder"] = errors(cell, encoder, kinds["test"], share)["mse"]
            for kind, data in kinds.items():
                by[kind] = {}
                for power in powers:
                    torch.manual_seed(cell.seed)
                    less = refined(row, data, power)
                    by[kind][f"{power:g}"] = errors(cell, less, data, share)["mse"]
                    tell()
            by["chosen"] = min(by["validation"], key=by["validation"].get)
    return found


def rendered(report: dict[str, Any]) -> str:
    """Test errors x 100, means over seeds."""
    lines = []
    for name in ROWS:
        for share in next(iter(report["seeds"].values()))[name]:
            of = [seed[name][share] for seed in report["seeds"].values()]
            each = [(x["encoder"], x["test"]["1"], x["test"][x["chosen"]]) for x in of]
            means = [short(100 * sum(column) / len(of)) for column in zip(*each, strict=True)]
            lines.append([name, f"{float(share):.0%}", *means, ", ".join(x["chosen"] for x in of)])
    return table(["row", "given", "encoder", "power 1", "power chosen", "powers by seed"], lines)


def kept(task: str, quick: bool) -> list[tuple[Cell, Path]]:
    """What `tables.py` has trained with an encoder to extrapolate, and where it lies."""
    folder = Path("runs/tables") / f"{task}_small_{'quick' if quick else 'test'}"
    found = []
    for path in sorted(folder.glob("seed*/encoder_extrapolation.train.json")):
        about = json.loads(path.read_text())["key"]
        cell = Cell(**{field.name: about[field.name] for field in fields(Cell)})
        if told(cell, "train", path.parent) is not None:
            found.append((cell, path.parent))
    if not found:
        raise SystemExit(f"{folder}: expected trainings of this code; run tables.py {task} first")
    return found


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task", choices=[*TASKS])
    parser.add_argument("--powers", type=float, nargs="+", default=POWERS)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--quick", action="store_true", help="of trainings by tables.py --quick")
    parser.add_argument("--given", type=float, nargs="+", help="shares of points; default all")
    args = parser.parse_args()
    if 1.0 not in args.powers or min(args.powers) <= 0:
        parser.error("--powers: expected positive numbers, 1 among them")
    torch.set_num_threads(1)
    cells, report = kept(args.task, args.quick), {"task": args.task, "seeds": {}}
    given = args.given or TASKS[args.task].given
    total = 2 * len(cells) * len(ROWS) * len(given) * len(args.powers)
    with tqdm(total=total, unit="posterior") as bar:
        for cell, folder in cells:
            rows = take(cell, folder)
            report["seeds"][str(cell.seed)] = of_seed(cell, rows, given, args.powers, bar.update)
            if args.json is not None:
                write_json(args.json, report)
    print(f"Squared errors x 100, means over {len(cells)} seeds.\n\n{rendered(report)}")


if __name__ == "__main__":
    main()
