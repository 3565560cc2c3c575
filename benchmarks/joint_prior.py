"""The joint energy prior of a hierarchy, against one without energy and an energy of one layer.

    python benchmarks/joint_prior.py                       # scikit-learn's digits, two cores
    python benchmarks/joint_prior.py --rows joint_network hvae --seeds 1 --validation
    python benchmarks/joint_prior.py --scale full --device cuda --data cifar10 --folder ~/cifar
    python benchmarks/joint_prior.py --render              # RESULTS.md alone

Rows are trained for the same steps, or the same seconds of a processor where they are too slow for
that, two at a time, one thread each; a class is held out of each seed's training. What is finished
is kept in ``runs/joint_prior`` and taken up from there while the code that made it stands; a seed
that is complete goes to ``benchmarks/results/``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from joint_cell import KEPT
from joint_data import DATA
from joint_models import ABLATIONS, ROWS, Cell
from joint_ode import ODE_ROWS
from joint_render import render_into
from side_by_side import complete

HERE = Path(__file__).parent
RESULTS, TABLES = HERE / "results" / "joint", HERE / "RESULTS.md"
SETTINGS = (
    "seconds",
    "steps",
    "data",
    "folder",
    "scale",
    "device",
    "learning_rate",
    "validation",
    "quick",
)


def run(args: argparse.Namespace, folder: Path, results: Path) -> Path:
    """All cells that are not there yet; the file of figures."""
    settings = {name: getattr(args, name) for name in SETTINGS}
    path = results / f"{args.data}_{args.scale}.json"
    wanted = [
        Cell(row=row, seed=seed, **settings) for seed in range(args.seeds) for row in args.rows
    ]
    complete(KEPT, wanted, {**settings, "folder": None}, path, folder)
    return path


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    every = [*ROWS, *ABLATIONS, *ODE_ROWS]
    parser.add_argument("--rows", nargs="+", choices=every, default=every)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=150.0, help="of a processor, at most")
    parser.add_argument("--steps", type=int, default=3000, help="of a training, at most")
    parser.add_argument("--data", choices=[*DATA], default="digits")
    parser.add_argument("--folder", help="with the files of MNIST, Fashion-MNIST, CIFAR-10 or SVHN")
    parser.add_argument("--scale", choices=("small", "full"), default="small")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--validation", action="store_true", help="for choices: never on test")
    parser.add_argument("--quick", action="store_true", help="a smoke run of seconds")
    parser.add_argument("--render", action="store_true", help="RESULTS.md alone")
    parser.add_argument("--json", type=Path, help="folder for the figures in place of results/")
    args = parser.parse_args()
    if args.render:
        render_into(RESULTS, TABLES)
        return
    if args.quick:
        args.seconds = min(args.seconds, 2.0)
    kind = "_".join(
        [args.data, args.scale, "validation" if args.validation else "test"]
        + (["quick"] if args.quick else [])
    )
    folder = Path("runs") / "joint_prior" / kind
    apart = args.validation or args.quick
    results = args.json or (folder if apart else RESULTS)
    path = run(args, folder, results)
    if results == RESULTS:
        render_into(RESULTS, TABLES)
    print(path)


if __name__ == "__main__":
    main()
