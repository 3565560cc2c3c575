"""Latent ODE and ODE-LEBM on irregular sinusoids: every row of the table, side by side.

    python benchmarks/irregular_sines.py --demo
    python benchmarks/irregular_sines.py --task interpolation --json runs/interpolation.json

Two trainings run at a time, one thread each, for the same seconds each. Choices (rates, steps,
phases) were made on sequences kept for validation (``--validation``), never on the test set. A run
that was interrupted goes on with the trainings that are missing (``--resume``).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pandas as pd
import torch
from sines_pictures import draw_all
from sines_run import Run

from pyro_lebm.inference.scores import paired_interval

# The longest first: what comes third then ends with it.
DEMO = ("ode_lebm_refined", "latent_ode", "ode_lebm_langevin")
ROWS = ("latent_ode", "latent_ode_refined", "ode_lebm_langevin", "ode_lebm_refined")
SHOWN = {
    "mse_all": "MSE all",
    "mse_observed": "observed",
    "mse_unobserved": "unobserved",
    "crps": "CRPS",
    "coverage_50": "cover 50",
    "coverage_90": "cover 90",
    "generation_mmd": "MMD",
    "generation_mmd_base": "MMD base",
    "energy_sd": "energy sd",
    "energy_grad": "energy grad",
    "train_seconds": "train s",
    "inference_seconds": "infer s",
    "iterations": "iterations",
}
READING = """
How to read it. MSE is of the posterior mean on test sequences; CRPS and coverage are of predictive
draws at hidden points (50 and 90 % intervals should cover .50 and .90); MMD compares unconditional
draws with fresh data, the floor being fresh data against fresh data; MMD base is that of the prior
without its energy, which in ode_lebm_refined is a normal distribution with the mean and covariance
of the posterior draws that the energy was learned from. Two things differ between the
rows and each earns its own column: *_refined rows draw from the posterior by annealed Langevin
instead of trusting the encoder, which is what lowers the errors, with or without an energy;
ode_lebm_* rows have a prior learned from such draws, which is what makes unconditional draws look
like data: how much of it is the energy's, MMD base tells.
"""


def run_all(runs: Sequence[Run], folder: Path, resume: bool) -> dict[Run, dict[str, Any]]:
    """Train and measure, two processes at a time, each on one thread."""
    slots: SimpleQueue[int] = SimpleQueue()
    for slot in range(2):
        slots.put(slot)

    def one(run: Run) -> dict[str, Any]:
        where = folder / f"seed{run.seed}"
        result = where / f"{run.method}.json"
        if not (resume and _is_done(result, run)):
            slot = slots.get()
            try:
                _train(run, where, slot)
            finally:
                slots.put(slot)
        found: dict[str, Any] = json.loads(result.read_text())
        return found

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(runs, pool.map(one, runs), strict=True))


def _is_done(result: Path, run: Run) -> bool:
    return result.exists() and json.loads(result.read_text())["run"] == asdict(run)


def _train(run: Run, folder: Path, slot: int) -> None:
    worker = Path(__file__).with_name("sines_run.py")
    settings = {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TQDM_POSITION": str(slot),
        "TQDM_DESC": f"{run.method} (seed {run.seed})",
        "TQDM_LEAVE": "0",
        "TQDM_MININTERVAL": "1",
    }
    command = [sys.executable, str(worker), json.dumps(asdict(run)), str(folder)]
    done = subprocess.run(command, env={**os.environ, **settings}, check=False)
    if done.returncode:
        raise SystemExit(f"training {run.method} (seed {run.seed}) failed: {done.returncode}")


def table(rows: dict[str, dict[str, float]]) -> str:
    """Rows as text, with the columns that a reader wants."""
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame = frame[[name for name in SHOWN if name in frame]].rename(columns=SHOWN)
    return str(frame.map(_short).to_string())


def _short(value: float) -> str:
    if value != value:
        return "-"
    return f"{value:.0f}" if abs(value) >= 30 else f"{value:.3g}"


def summary(results: dict[Run, dict[str, Any]]) -> dict[str, Any]:
    """Mean and 95 % interval over seeds of every figure, and paired differences that matter."""
    by_seed: dict[int, dict[str, dict[str, float]]] = {}
    for run, result in results.items():
        by_seed.setdefault(run.seed, {}).update(result["rows"])
    frame = pd.concat({seed: pd.DataFrame(rows).T for seed, rows in by_seed.items()})
    groups = frame.groupby(level=1)
    n = len(by_seed)
    spread = groups.std() * _t_quantile(n) / n**0.5 if n > 1 else groups.mean() * float("nan")
    found: dict[str, Any] = {
        "mean": groups.mean().to_dict("index"),
        "half_width_95": spread.to_dict("index"),
    }
    if n > 1:
        found["paired"] = paired(frame)
    return found


def _t_quantile(n: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, n - 1))


def paired(frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Differences over the same seeds and data, with their 95 % intervals."""
    found = {}
    pairs = [("ode_lebm_refined", "latent_ode"), ("ode_lebm_refined", "latent_ode_refined")]
    for a, b in pairs:
        for key in ("mse_all", "mse_unobserved", "generation_mmd"):
            x, y = (
                torch.tensor(frame.xs(name, level=1)[key].to_numpy(dtype=float)) for name in (a, b)
            )
            gap = paired_interval(x, y)
            found[f"{key}: {a} - {b}"] = {
                "mean": float(gap.mean),
                "low": float(gap.low),
                "high": float(gap.high),
            }
    return found


def demo(args: argparse.Namespace) -> None:
    """The README's first command: three trainings, a table, pictures, posterior.nc."""
    folder = args.out or Path("runs/irregular_sines")
    begin = time.perf_counter()
    print(
        "Irregular sinusoids: 400 training sequences, 50 of 100 points observed; 100 test "
        f"sequences.\nThree trainings of {args.seconds:.0f} s, two at a time, one thread each.",
        flush=True,
    )
    results = run_all([_run(name, 0, args) for name in DEMO], folder, args.resume)
    rows = {k: v for result in results.values() for k, v in result["rows"].items()}
    rows = {name: rows[name] for name in ROWS}
    floor = next(iter(results.values()))["mmd_floor"]
    write_json(folder / "metrics.json", {"methods": rows, "mmd_floor": floor})
    shutil.copyfile(folder / "seed0" / "posterior.nc", folder / "posterior.nc")
    pictures = draw_all(next(iter(results)), folder / "seed0", folder)
    print(f"\n{table(rows)}\nMMD floor (real against real): {floor:.4f}\n{READING}")
    for path in [folder / "metrics.json", folder / "posterior.nc", *pictures]:
        print(f"wrote {path}")
    print(f"{time.perf_counter() - begin:.0f} s in all")


def benchmark(args: argparse.Namespace) -> None:
    """All rows, several seeds, mean and interval."""
    folder = args.out or Path("runs/benchmark") / args.task
    names = [*DEMO, "ode_lebm_short_run"]
    runs = [_run(name, seed, args) for seed in range(args.seeds) for name in names]
    results = run_all(runs, folder, args.resume)
    found = summary(results)
    floors = {run.seed: result["mmd_floor"] for run, result in results.items()}
    found["mmd_floor"] = sum(floors.values()) / len(floors)
    found["settings"] = {"task": args.task, "seeds": args.seeds, "seconds": args.seconds}
    print(f"\n{args.task}, mean of {args.seeds} seeds\n{table(found['mean'])}")
    if args.seeds > 1:
        print(f"\nhalf-width of the 95 % interval\n{table(found['half_width_95'])}")
        print("\npaired differences, mean [95 % interval]")
        for name, gap in found["paired"].items():
            print(f"  {name}: {gap['mean']:.2g} [{gap['low']:.2g}, {gap['high']:.2g}]")
    print(f"\nMMD floor (real against real): {found['mmd_floor']:.4f}")
    if args.json:
        write_json(args.json, found)


def _run(method: str, seed: int, args: argparse.Namespace) -> Run:
    small: dict[str, Any] = {"tested": 12, "generated": 100} if args.quick else {}
    export = args.demo and method == "ode_lebm_refined"
    settings = {"export": export, "validation": args.validation, **small}
    return Run(method, args.task, seed, args.seconds, **settings)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Beside, then renamed into place."""
    write_text(path, json.dumps(content, indent=2))


def write_text(path: Path, text: str) -> None:
    """As `write_json`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(text)
    beside.replace(path)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--demo", action="store_true", help="one seed, pictures, posterior.nc")
    parser.add_argument(
        "--task", choices=("interpolation", "extrapolation"), default="interpolation"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=240.0, help="of each training")
    parser.add_argument("--quick", action="store_true", help="a smoke run of a few seconds each")
    parser.add_argument("--resume", action="store_true", help="keep finished trainings")
    parser.add_argument("--validation", action="store_true", help="score on validation sequences")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--out", type=Path, help="folder of the runs")
    args = parser.parse_args()
    if args.quick:
        args.seconds, args.seeds = min(args.seconds, 6.0), min(args.seeds, 1)
    if args.seconds <= 0 or args.seeds < 1:
        parser.error("--seconds and --seeds: expected positive numbers")
    demo(args) if args.demo else benchmark(args)


if __name__ == "__main__":
    main()
