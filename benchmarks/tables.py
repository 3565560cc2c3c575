"""Latent ODE and ODE-LEBM on four tasks: errors, generation, log p(x), strangeness, chains.

    python benchmarks/tables.py sines [--protocol extrapolation] [--seeds 5] [--scale full]
    python benchmarks/tables.py digits --validation --learning-rate 3e-3   # choices, never on test
    python benchmarks/tables.py --render                                   # RESULTS.md alone

A task is one of sines, digits, balls and hopper, by default under both protocols, interpolation and
extrapolation. Two processes at a time, one thread each, train or measure; what pairs share is
trained once (see ``tables_train.py``), and each row has had ``--seconds`` of a processor in the
end. What is finished, trainings and figures, is kept in ``runs/tables`` and taken up from there
while the code that made it stands. A seed that is complete goes to ``benchmarks/results/``, where
it is not asked for again; from all that lies there ``benchmarks/RESULTS.md`` is rendered.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import torch
from tables_kept import Stage, told, write_report
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


Job = tuple[Cell, Stage]


def cells(args: argparse.Namespace, seed: int) -> list[Cell]:
    """Trainings of a seed; what knows no protocol is trained under the first."""
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


def jobs(wanted: list[Cell]) -> list[Job]:
    """In an order in which what one needs comes before it: each is measured as the next trains."""
    found: list[Job] = []
    for before, cell in zip([None, *wanted], [*wanted, None], strict=True):
        if cell is not None and (cell.trained_as, "train") not in found:
            found.append((cell.trained_as, "train"))
        if before is not None:
            found.append((before, "measure"))
    return found


def needs(job: Job, background: Cell | None) -> list[Job]:
    """The jobs that have to be done before this one."""
    cell, stage = job
    if stage == "train":
        return []
    others = [] if background in (None, cell) else [(background, "measure")]
    return [(cell.trained_as, "train"), *others]  # type: ignore[list-item]


def run_all(args: argparse.Namespace, folder: Path) -> list[Path]:
    """Two jobs at a time; what a seed gave is written when it is complete."""
    files = {protocol: _file(args, folder, protocol) for protocol in args.protocol}
    reports = {protocol: _taken_up(args, protocol, path) for protocol, path in files.items()}
    seeds = [cells(args, seed) for seed in range(args.seeds or TASKS[args.task].seeds)]
    lacking = [
        [cell for cell in seed if str(cell.seed) not in reports[cell.protocol]["seeds"]]
        for seed in seeds
    ]
    total = sum(len(jobs(seed)) for seed in lacking)
    with tqdm(total=total, unit="job") as bar, ThreadPoolExecutor(WORKERS) as pool:
        done: dict[Job, Future[None]] = {}

        def one(job: Job, background: Cell | None) -> None:
            for other in needs(job, background):
                done[other].result()
            _work(job, folder / f"seed{job[0].seed}", background)
            for text in told_warnings(job, folder / f"seed{job[0].seed}"):
                tqdm.write(text)
            bar.update()

        for seed in lacking:
            background = next((cell for cell in seed if cell.group == "background"), None)
            for job in jobs(seed):
                done[job] = pool.submit(one, job, background)
        try:
            for seed in lacking:
                for protocol in args.protocol:
                    under = [cell for cell in seed if cell.protocol == protocol]
                    for cell in under:
                        done[cell, "measure"].result()
                    if under:
                        rows = _rows(under, folder / f"seed{under[0].seed}")
                        reports[protocol]["seeds"][str(under[0].seed)] = rows
                        write_report(files[protocol], reports[protocol])
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
    """The seeds that are there already, if they had the same settings."""
    about = {name: getattr(args, name) for name in SETTINGS}
    about |= {"protocol": protocol, "groups": args.groups or [*GROUPS]}
    before = json.loads(path.read_text()) if path.exists() else {}
    return {"about": about, "seeds": before["seeds"] if before.get("about") == about else {}}


def _rows(of: list[Cell], folder: Path) -> dict[str, Any]:
    """Those of a seed under one protocol, each with where it comes from."""
    rows: dict[str, Any] = {}
    for cell in of:
        found = told(cell, "measure", folder)
        assert found is not None
        made = {"made": found["made"], "trained": found["trained"]}
        rows |= {name: row | made for name, row in found["rows"].items()}
    return rows


def told_warnings(job: Job, folder: Path) -> list[str]:
    """What its process warned of: nobody reads the log of one that did not fail."""
    cell, stage = job
    found = told(cell, stage, folder) or {}
    return [f"{cell.name}, seed {cell.seed}, {stage}: {text}" for text in found["warnings"]]


def _work(job: Job, folder: Path, background: Cell | None) -> None:
    """A job in a process of its own, unless it has been done."""
    cell, stage = job
    if told(cell, stage, folder) is not None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    alone = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    command = [sys.executable, str(HERE / "tables_cell.py"), json.dumps(asdict(cell))]
    command += [str(folder), stage]
    if background not in (None, cell):
        command += ["--background", json.dumps(asdict(background))]
    log = folder / f"{cell.name}.{stage}.log"
    with log.open("w") as out:
        done = subprocess.run(
            command, env={**os.environ, **alone}, stdout=out, stderr=out, check=False
        )
    if done.returncode:
        raise SystemExit(f"{cell.name} (seed {cell.seed}) failed ({done.returncode}): see {log}")


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
