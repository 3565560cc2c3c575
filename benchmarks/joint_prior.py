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
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from irregular_sines import write_json
from joint_cell import key, told
from joint_data import DATA
from joint_models import ABLATIONS, ROWS, Cell
from joint_ode import ODE_ROWS
from joint_render import render_into
from tqdm import tqdm

HERE = Path(__file__).parent
RESULTS, TABLES = HERE / "results" / "joint", HERE / "RESULTS.md"
WORKERS = 2
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
    about = {**settings, "folder": None}
    before = json.loads(path.read_text()) if path.exists() else {}
    report = {"about": about, "seeds": before["seeds"] if before.get("about") == about else {}}
    wanted = [
        Cell(row=row, seed=seed, **settings) for seed in range(args.seeds) for row in args.rows
    ]
    wanted = [cell for cell in wanted if not _there(cell, report["seeds"])]
    folder.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(wanted), unit="row") as bar, ThreadPoolExecutor(WORKERS) as pool:

        def one(cell: Cell) -> dict[str, Any]:
            found = told(cell, folder) or _work(cell, folder)
            for text in found["warnings"]:
                tqdm.write(f"{cell.name}: {text}")
            bar.update()
            return found

        done = [pool.submit(one, cell) for cell in wanted]
        try:
            for cell, future in zip(wanted, done, strict=True):
                found = future.result()
                rows = report["seeds"].setdefault(str(cell.seed), {})
                code = found["key"]["code"]
                rows[cell.row] = {**found["row"], "made": found["made"], "code": code}
                write_json(path, report)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return path


def _there(cell: Cell, seeds: dict[str, Any]) -> bool:
    """Whether there are figures of the row, by the code as it stands."""
    found = seeds.get(str(cell.seed), {}).get(cell.row)
    return found is not None and found.get("code") == key(cell)["code"]


def _work(cell: Cell, folder: Path) -> dict[str, Any]:
    """In a process of its own."""
    alone = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    command = [sys.executable, str(HERE / "joint_cell.py"), json.dumps(asdict(cell)), str(folder)]
    log = folder / f"{cell.name}.log"
    with log.open("w") as out:
        done = subprocess.run(
            command, env={**os.environ, **alone}, stdout=out, stderr=out, check=False
        )
    if done.returncode:
        raise SystemExit(f"{cell.name} failed ({done.returncode}): see {log}")
    found = told(cell, folder)
    assert found is not None
    return found


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
