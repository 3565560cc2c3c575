"""Latent diffusion, LangevinFlow, latent ODEs and a GRU on four kinds of sequences.

    python benchmarks/sequences.py                          # small: two cores, under 90 minutes
    python benchmarks/sequences.py lorenz --rows gru_vae langevin_flow --validation
    python benchmarks/sequences.py --scale full --device cuda --seconds 1200
    python benchmarks/sequences.py --render                 # RESULTS.md and the picture alone

Each row is trained for the same seconds of a processor on the same data, two at a time, one thread
each. What is finished is kept in ``runs/sequences`` and taken up from there while the code that
made it stands; the figures of a task go to ``benchmarks/results/sequences``. Choices are made with
``--validation``, whose figures stay in ``runs``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from sequences_cell import KEPT
from sequences_picture import picture
from sequences_render import render_into
from sequences_rows import ROWS, Cell
from sequences_tasks import TASKS
from side_by_side import complete

HERE = Path(__file__).parent
RESULTS, TABLES = HERE / "results" / "sequences", HERE / "RESULTS.md"
PICTURE = HERE / "results" / "sequences_robustness.png"
RUNS = Path("runs") / "sequences"
SETTINGS = ("seconds", "scale", "device", "learning_rate", "validation", "quick")


def run(args: argparse.Namespace, task: str) -> Path:
    """All cells of a task that are not there yet; the file of its figures."""
    settings = {"task": task, **{name: getattr(args, name) for name in SETTINGS}}
    wanted = [
        Cell(row=row, seed=seed, **settings) for seed in range(args.seeds) for row in args.rows
    ]
    kind = "validation" if args.validation else "test"
    kind = "_".join([task, args.scale, kind] + (["quick"] if args.quick else []))
    folder = RUNS / kind
    results = args.json or (folder if args.validation or args.quick else RESULTS)
    path: Path = results / f"{task}_{args.scale}.json"
    complete(KEPT, wanted, settings, path, folder)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tasks", choices=[*TASKS, []], nargs="*", metavar="TASK")
    parser.add_argument("--rows", nargs="+", choices=[*ROWS], default=[*ROWS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=70.0, help="of a processor, each row")
    parser.add_argument("--scale", choices=("small", "full"), default="small")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--learning-rate", type=float, help="default: the task's")
    parser.add_argument("--validation", action="store_true", help="for choices: never on test")
    parser.add_argument("--quick", action="store_true", help="tiny: a check that it runs")
    parser.add_argument("--render", action="store_true", help="what there is, run nothing")
    parser.add_argument("--picture", type=Path, nargs="?", const=PICTURE, help="draw it, or alone")
    parser.add_argument("--json", type=Path, help="folder for the figures in place of results/")
    args = parser.parse_args(arguments)
    if args.seeds < 1 or args.seconds <= 0:
        parser.error("--seeds, --seconds: expected positive numbers")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: expected one that this machine has, got cuda")
    if args.quick:
        args.seconds = min(args.seconds, 2.0)
    paths = []
    if not args.render and (args.picture is None or args.tasks):
        paths = [run(args, task) for task in args.tasks or TASKS]
    for path in paths:
        print(path)
    at = paths[0].parent if paths else args.json or RESULTS
    if at == RESULTS and (args.render or paths):
        render_into(RESULTS, TABLES)
    if args.picture is not None or at == RESULTS:
        reports = [at] if len({path.parent for path in paths}) < 2 else [p.parent for p in paths]
        print(picture(reports, args.picture or PICTURE))


if __name__ == "__main__":
    main()
