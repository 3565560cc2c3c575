"""Latent ODE and ODE-LEBM on four tasks: errors, generation, log p(x), strangeness, chains.

    python benchmarks/tables.py sines [--protocol extrapolation] [--seeds 5] [--scale full]
    python benchmarks/tables.py digits --validation --learning-rate 3e-3   # choices, never on test
    python benchmarks/tables.py --render                                   # RESULTS.md alone

A task is one of sines, digits, balls and hopper, by default under both protocols, interpolation and
extrapolation. Training by training, two at a time, one thread each; what pairs share is trained
once (see ``tables_train.py``), and each row has had ``--seconds`` of a processor in the end. What
is finished, trainings and scores, is kept in ``runs/tables`` and taken up from there. A seed that
is complete goes to ``benchmarks/results/``, where it is not asked for again; from all that lies
there ``benchmarks/RESULTS.md`` is rendered.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import torch
from irregular_sines import write_json
from tables_models import Cell, Group
from tables_render import render_all
from tables_tasks import PROTOCOLS, TASKS, Protocol
from tqdm import tqdm

HERE = Path(__file__).parent
RESULTS, TABLES = HERE / "results", HERE / "RESULTS.md"
WORKERS = 2
GROUPS: tuple[Group, ...] = get_args(Group)
# of a cell, the same for all of a run
SETTINGS = (
    "task",
    "seconds",
    "scale",
    "device",
    "encoder",
    "emission",
    "learning_rate",
    "validation",
    "quick",
)


def cells(args: argparse.Namespace, seed: int) -> list[Cell]:
    """Trainings of a seed, in an order in which none waits for another.

    The others ask the background model; what knows no protocol is trained under the first.
    """
    task = TASKS[args.task]
    order: list[tuple[Protocol, Group]] = [
        ("interpolation", "background"),
        ("interpolation", "encoder"),
        ("interpolation", "langevin"),
        ("extrapolation", "encoder"),
        ("interpolation", "short_run"),
        *([("interpolation", "whole")] if task.small.static else []),  # type: ignore[list-item]
        ("extrapolation", "langevin"),
        ("extrapolation", "short_run"),
    ]
    settings = {name: getattr(args, name) for name in SETTINGS}
    return [
        Cell(group=group, protocol=protocol, seed=seed, **settings)
        for protocol, group in order
        if protocol in args.protocol and group in (args.groups or GROUPS)
    ]


def run_all(args: argparse.Namespace, folder: Path) -> list[Path]:
    """Two trainings at a time; what a seed gave is written when it is complete."""
    files = {protocol: _file(args, folder, protocol) for protocol in args.protocol}
    reports = {protocol: _taken_up(args, protocol, path) for protocol, path in files.items()}
    wanted = [
        cell
        for seed in range(args.seeds or TASKS[args.task].seeds)
        for cell in cells(args, seed)
        if str(seed) not in reports[cell.protocol]["seeds"]
    ]
    with tqdm(total=len(wanted), unit="training") as bar, ThreadPoolExecutor(WORKERS) as pool:

        def one(cell: Cell) -> dict[str, Any]:
            rows = _rows(cell, folder / f"seed{cell.seed}")
            bar.update()
            return rows

        found: dict[tuple[Protocol, int], dict[str, Any]] = {}
        missing = Counter((cell.protocol, cell.seed) for cell in wanted)
        try:
            for cell, rows in zip(wanted, pool.map(one, wanted), strict=True):
                of = cell.protocol, cell.seed
                found.setdefault(of, {}).update(rows)
                missing[of] -= 1
                if not missing[of]:
                    reports[cell.protocol]["seeds"][str(cell.seed)] = found[of]
                    write_json(files[cell.protocol], reports[cell.protocol])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [*files.values()]


def _file(args: argparse.Namespace, folder: Path, protocol: Protocol) -> Path:
    name = f"{args.task}_{protocol}_{args.scale}.json"
    if args.json is not None:
        own: Path = args.json
        return own.with_stem(f"{own.stem}_{protocol}")
    return (folder if args.validation or args.quick else RESULTS) / name


def _taken_up(args: argparse.Namespace, protocol: Protocol, path: Path) -> dict[str, Any]:
    """The seeds that are there already, if they were trained alike."""
    report = {"about": about(args, protocol), "seeds": {}}
    if path.exists():
        before = json.loads(path.read_text())
        same = (*SETTINGS, "protocol", "groups")
        if all(before["about"].get(name) == report["about"][name] for name in same):
            return report | {"seeds": before["seeds"]}
    return report


def _rows(cell: Cell, folder: Path) -> dict[str, Any]:
    path = folder / f"{cell.name}.json"
    if not (path.exists() and json.loads(path.read_text())["cell"] == asdict(cell)):
        _work(cell, folder)
    rows: dict[str, Any] = json.loads(path.read_text())["rows"]
    return rows


def _work(cell: Cell, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    alone = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    command = [sys.executable, str(HERE / "tables_cell.py"), json.dumps(asdict(cell)), str(folder)]
    log = folder / f"{cell.name}.log"
    with log.open("w") as out:
        done = subprocess.run(
            command, env={**os.environ, **alone}, stdout=out, stderr=out, check=False
        )
    if done.returncode:
        raise SystemExit(f"{cell.name} (seed {cell.seed}) failed ({done.returncode}): see {log}")


def about(args: argparse.Namespace, protocol: Protocol) -> dict[str, Any]:
    """What a reader has to know of a run."""
    device = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    return {
        **{name: getattr(args, name) for name in SETTINGS},
        "protocol": protocol,
        "groups": args.groups or [*GROUPS],
        "hardware": f"{device}, {os.cpu_count()} cores, {platform.machine()}",
        "torch": torch.__version__,
        "commit": _commit(),
    }


def _commit() -> str:
    """That of the code, marked where it has been changed since."""
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True
    )
    return told.stdout.strip() or "unknown"


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task", choices=[*TASKS], nargs="?")
    parser.add_argument("--protocol", choices=PROTOCOLS, nargs="+", default=PROTOCOLS)
    parser.add_argument("--seeds", type=int, help="default 5 for sines and digits, else 3")
    parser.add_argument("--seconds", type=float, default=300.0, help="of a processor, each row")
    parser.add_argument("--scale", choices=("small", "full"), default="small")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--encoder", choices=("gru", "odernn"), default="odernn")
    parser.add_argument("--emission", choices=("mlp", "conv"), default="mlp", help="of balls")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--validation", action="store_true", help="score on validation sequences")
    parser.add_argument("--groups", choices=GROUPS, nargs="+", help="of trainings; default all")
    parser.add_argument("--quick", action="store_true", help="tiny: a check that it runs")
    parser.add_argument("--render", action="store_true", help="render what there is, run nothing")
    parser.add_argument("--json", type=Path, help="write the rows here, and render nothing")
    args = parser.parse_args()
    if args.render:
        render_all(RESULTS, TABLES)
        return
    if args.task is None:
        parser.error("TASK: expected one of " + ", ".join(TASKS))
    if args.quick:
        args.seconds, args.seeds = min(args.seconds, 2.0), 1
    if args.seconds <= 0 or (args.seeds is not None and args.seeds < 1):
        parser.error("--seconds, --seeds: expected positive numbers")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: expected one that this machine has, got cuda")
    args.learning_rate = args.learning_rate or TASKS[args.task].learning_rate
    kind = "quick" if args.quick else "validation" if args.validation else "test"
    for path in run_all(args, Path("runs/tables") / f"{args.task}_{args.scale}_{kind}"):
        print(f"wrote {path}")
        if path.parent == RESULTS:
            render_all(RESULTS, TABLES)


if __name__ == "__main__":
    main()
