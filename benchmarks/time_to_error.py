"""How long each method trains until its error at held-out points is down to a given one.

    python benchmarks/time_to_error.py [--quick] [--seeds 3] [--seconds 100] [--json FILE]
                                       [--obvious-seconds 240] [--budgets 0.25 0.5 1]
                                       [--device cuda] [--resume]

Irregular sinusoids, interpolation: 400 training sequences, 50 of 100 points of each given; errors
are mean squared ones of the posterior mean, at the 50 hidden points of 100 test sequences. Methods,
with the settings of ``irregular_sines.py``:

- latent_ode: the latent ODE with its encoder, by the ELBO;
- ode_lebm_refined: ODE-LEBM, the encoder first, then Langevin chains from it;
- ode_lebm_langevin: ODE-LEBM by Langevin chains alone;
- obvious: the same as the last, setting by setting, in plain torch with torchdiffeq's dopri5 and
  autograd; see ``obvious_training.py``.

Each trains alone, on one thread, seed by seed, for the same seconds (the obvious way for more, if
asked to), and again for a quarter and for half of them: the schedules are stretched to the seconds,
so that a method that needs few gets there sooner when it is given few. On the way the weights are
kept twelve times, and scored afterwards, so that scoring takes no training time: by each method's
own posterior (the encoder; annealing from prior and encoder; annealing from the prior) and by the
same one for all (annealing from the prior, 20 draws).

The target is fixed by validation sequences: 1.05 times the error of the latent ODE at its end, the
median over seeds. The time to it is when the error on test sequences falls below it to stay there,
between two snapshots by the logarithm of the error, in whichever training gets there first. Who
never does has no time but a bound, the seconds of the longest training, and ratios with it are
bounds too ("at least", "at most"). Ratios are geometric means over seeds, with the 95 % t interval
of the paired ones unless one is a bound. What is finished is kept in --out; --resume goes on from
there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from irregular_sines import write_json
from time_to_error_run import OBVIOUS, TRAININGS, Timed, measure
from tqdm import tqdm

from pyro_lebm.inference.scores import paired_interval

REFERENCE = "latent_ode"
OURS = ("ode_lebm_refined", "ode_lebm_langevin")
METHODS = (*TRAININGS, OBVIOUS)
WAYS = {"own": "by its own posterior", "annealed": "by the same annealed posterior"}
SLACK = 1.05  # the target, in errors of the latent ODE
WANTED = {REFERENCE: 1.0, OBVIOUS: 10.0}  # times as fast as these
Results = dict[str, list[list[dict[str, Any]]]]  # by method, seed and budget, the longest last


def run_all(runs: Sequence[Timed], folder: Path, resume: bool) -> Results:
    """One training after the other; those that are finished are read."""
    seeds = 1 + max(run.seed for run in runs)
    found: Results = {method: [[] for _ in range(seeds)] for method in METHODS}
    with tqdm(runs, unit="training", position=0, leave=True) as bar:
        for run in bar:
            bar.set_postfix_str(f"{run.method}, seed {run.seed}, {run.seconds:g} s")
            path = folder / f"seed{run.seed}" / f"{run.method}_{run.seconds:g}s.json"
            if not (resume and _is_done(path, run)):
                write_json(path, measure(run))
            found[run.method][run.seed].append(json.loads(path.read_text()))
    return found


def _is_done(path: Path, run: Timed) -> bool:
    return path.exists() and json.loads(path.read_text())["run"] == asdict(run)


def reached(seconds: Sequence[float], errors: Sequence[float | None], target: float) -> float:
    """When the errors fell below the target to stay there; infinite if they did not."""
    above = [i for i, error in enumerate(errors) if error is None or error > target]
    last = above[-1] if above else 0
    if last == len(errors) - 1:
        return math.inf
    before, after = errors[last], errors[last + 1]
    assert after is not None
    if before is None or before <= target:
        return seconds[last + 1]  # at that time at the latest
    share = math.log(before / target) / math.log(before / after)
    return seconds[last] + share * (seconds[last + 1] - seconds[last])


def soonest(runs: list[dict[str, Any]], way: str, target: float) -> float:
    """The least time to the target, of trainings for different seconds."""
    return min(reached(*_curve(run, way), target) for run in runs)


def ratio(
    theirs: Sequence[float], ours: Sequence[float], limits: Sequence[float]
) -> dict[str, Any]:
    """How many times as long they took, seed by seed and in the mean.

    Args:
        theirs, ours: seconds to the target, infinite where it was not reached.
        limits: seconds that they and we trained.
    """
    pairs = list(zip(theirs, ours, strict=True))
    kinds = [_kind(*pair) for pair in pairs]
    sides = [(min(t, limits[0]), min(o, limits[1])) for t, o in pairs]
    found: dict[str, Any] = {"seeds": [t / o for t, o in sides], "kinds": kinds}
    bounds = set(kinds) - {"exactly"}
    if len(bounds) > 1 or "unknown" in bounds:
        return found | {"kind": "unknown", "mean": None}
    logs = [[math.log(side) for side in each] for each in zip(*sides, strict=True)]
    found |= {"kind": bounds.pop() if bounds else "exactly"}
    found |= {"mean": math.exp(statistics.mean(logs[0]) - statistics.mean(logs[1]))}
    if len(sides) > 1 and found["kind"] == "exactly":
        gap = paired_interval(torch.tensor(logs[0]), torch.tensor(logs[1]))
        found |= {"low": math.exp(gap.low), "high": math.exp(gap.high)}
    return found


def _kind(theirs: float, ours: float) -> str:
    if math.isinf(theirs):
        return "unknown" if math.isinf(ours) else "at least"
    return "at most" if math.isinf(ours) else "exactly"


def summary(results: Results) -> dict[str, Any]:
    """Targets, times to them and their ratios, by both ways of scoring; iterations a second."""
    report: dict[str, Any] = {}
    longest = {method: [runs[-1] for runs in seeds] for method, seeds in results.items()}
    limits = {method: runs[0]["run"]["seconds"] for method, runs in longest.items()}
    for way in WAYS:
        ends = [each["validation"][way] for each in longest[REFERENCE]]
        target = SLACK * statistics.median(math.inf if end is None else end for end in ends)
        times = {
            method: [soonest(runs, way, target) for runs in seeds]
            for method, seeds in results.items()
        }
        report[way] = {
            "target": target,
            "seconds": {m: [None if math.isinf(t) else t for t in v] for m, v in times.items()},
            "final": {m: [each["rows"][-1][way] for each in v] for m, v in longest.items()},
            "ratio": {
                ours: {
                    theirs: ratio(times[theirs], times[ours], (limits[theirs], limits[ours]))
                    for theirs in WANTED
                }
                for ours in OURS
            },
        }
    for key, of in (("iterations_per_second", _rate), ("core_share", _share)):
        report[key] = {m: statistics.median(map(of, runs)) for m, runs in longest.items()}
    return report | {"trained_seconds": limits}


def _curve(found: dict[str, Any], way: str) -> tuple[list[float], list[float | None]]:
    return [row["seconds"] for row in found["rows"]], [row[way] for row in found["rows"]]


def _rate(found: dict[str, Any]) -> float:
    """Before the last tenth, in which one method fits its energy alone."""
    row = found["rows"][-2]
    return float(row["iterations"] / row["seconds"]) if row["seconds"] else math.nan


def _share(found: dict[str, Any]) -> float:
    return float(found["core_share"])


def told(report: dict[str, Any]) -> str:
    """The report in words."""
    text = []
    for way, what in WAYS.items():
        part = report[way]
        text.append(f"\nscored {what}: target {part['target']:.3g}")
        text.append(f"{'':20}{'seconds to the target, by seed':34}{'error at the end':26}")
        for method in METHODS:
            limit = report["trained_seconds"][method]
            times = ", ".join(f"{t:.1f}" if t else f"> {limit:g}" for t in part["seconds"][method])
            ends = ", ".join("-" if e is None else f"{e:.3g}" for e in part["final"][method])
            text.append(f"{method:20}{times:34}{ends}")
        for ours, each in part["ratio"].items():
            for theirs, found in each.items():
                text.append(f"  {ours} against {theirs}: {_told(found, WANTED[theirs])}")
    text.append("\niterations a second, and the share of a core that the training had")
    for method in METHODS:
        rate, share = report["iterations_per_second"][method], report["core_share"][method]
        text.append(f"{method:20}{rate:8.2f}{share:8.0%}")
    return "\n".join(text)


def _told(found: dict[str, Any], wanted: float) -> str:
    if found["mean"] is None:
        return f"no ratio, the target was not reached ({', '.join(found['kinds'])})"
    kind = "" if found["kind"] == "exactly" else f"{found['kind']} "
    text = f"{kind}{found['mean']:.2f} times as fast"
    if "low" in found:
        text += f" [{found['low']:.2f}, {found['high']:.2f}]"
    sure = found["mean"] >= wanted and found["kind"] != "at most"
    open_ = found["kind"] == "at least" and not sure
    return f"{text}, wanted {wanted:g}: {'met' if sure else 'open' if open_ else 'NOT met'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="tiny: a check that it runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=100.0, help="of each training")
    parser.add_argument("--obvious-seconds", type=float, help="of the obvious way, if others")
    parser.add_argument("--budgets", type=float, nargs="+", default=(0.25, 0.5, 1.0))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--resume", action="store_true", help="keep finished trainings")
    parser.add_argument("--out", type=Path, default=Path("runs/time_to_error"))
    args = parser.parse_args()
    if args.quick:
        args.seconds, args.seeds, args.budgets = min(args.seconds, 0.5), 1, (0.5, 1.0)
    if args.seconds <= 0 or args.seeds < 1 or min(args.budgets) <= 0:
        parser.error("--seconds, --seeds and --budgets: expected positive numbers")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: expected one that this machine has, got cuda")
    sizes: dict[str, Any] = {"tested": 6, "draws": 4} if args.quick else {}
    longer = {OBVIOUS: args.obvious_seconds or args.seconds}
    runs = [
        Timed(method, seed, share * longer.get(method, args.seconds), device=args.device, **sizes)
        for seed in range(args.seeds)
        for method in METHODS
        for share in sorted(args.budgets)
    ]
    torch.set_num_threads(1)
    os.environ["TQDM_POSITION"] = "1"  # of the trainings' bars: the first line is for all of them
    os.environ["TQDM_LEAVE"] = "0"
    begin = time.perf_counter()
    results = run_all(runs, args.out, args.resume)
    report = summary(results)
    report |= {"settings": {"seeds": args.seeds, "device": args.device, "draws": runs[0].draws}}
    report |= {"torch": torch.__version__, "threads": 1, "curves": results}
    print(f"{told(report)}\n{time.perf_counter() - begin:.0f} s in all")
    if args.json:
        write_json(args.json, report)


if __name__ == "__main__":
    main()
