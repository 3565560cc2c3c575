"""Ways of sampling one posterior: effective draws per second and per gradient, side by side.

    python benchmarks/kernels.py [--quick] [--only schools ...] [--rounds N] [--json FILE]

Four targets: eight schools (non-centred), a Gaussian of condition 10^3 in 100 dimensions, lynx and
hare (Lotka-Volterra), and the states of three sequences under a trained ODE-LEBM; see
``kernel_targets.py``, which has each as a Pyro program and, checked to be the same density, for
NumPyro. The ways: Pyro's NUTS, with and without jit; NumPyro's NUTS on the native program;
BlackJAX's MALA and MCLMC where it is installed; ours: `NumPyroMCMC` on the Pyro program, and many
chains of our kernels in plain PyTorch; see ``kernel_rows.py``.

In every round each way warms up and draws once, with a seed of its own, in an order that rotates.
One process on one core, in CPU time. ESS is ArviZ's bulk ESS, the least over all components of all
latent sites, on their supports. "ESS/s" counts the seconds of drawing alone, "with warm-up" those
of the warm-up too; set-up and compilation are in neither and told apart: what compiles is run once
before the rounds, and what that run took longer is its compilation. Gradients are those of drawing.
Ratios are medians over rounds, of a way to a peer in the same round, with their quartiles. "off" is
by how much the means (in standard deviations) or the standard deviations (relatively) are off from
native NumPyro's at worst, in the median over rounds, Monte Carlo errors of both included:
unadjusted kernels have a bias.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import math
import os
import statistics
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import arviz
import numpy as np
import torch
from kernel_rows import BlackMALA, BlackMCLMC, Drawn, NativeNUTS, OurNumPyro, PyroNUTS, Row, clock
from kernel_targets import TARGETS, Target, disagreement

from pyro_lebm.inference import MALA, MALT, MCLMC, Barker, Underdamped, VectorizedMCMC

PYRO, NATIVE, TRANSLATED = "Pyro NUTS", "NumPyro NUTS", "NumPyroMCMC"
LARGEST_DISAGREEMENT = 0.1  # nats, in single precision
WANTED = (
    # target, way, peer, ratio
    ("schools", TRANSLATED, NATIVE, 0.8),
    ("schools", TRANSLATED, PYRO, 15.0),
    ("schools", "best of ours", PYRO, 10.0),
    ("ode_lebm", "best of ours", PYRO, 5.0),
)


class WarmFor(VectorizedMCMC):  # type: ignore[misc]
    """Notes when the first move begins, and when the warm-up is over."""

    def _advance(self, bar: Any) -> None:
        if self._moves == 0:
            self.ready = clock()
        if self._moves == self.warmup_steps:
            self.warm = clock()
        super()._advance(bar)


class Ours(Row):
    """Many chains of one of our kernels, in plain PyTorch."""

    def __init__(self, name: str, target: Target, quick: bool, make: Callable[..., Any]) -> None:
        super().__init__(name, target, quick)
        self.make = make

    def run(self, seed: int) -> Drawn:
        mcmc = WarmFor(
            self.make(self.target.model),
            self.sizes.ours,
            self.sizes.ours,
            num_chains=self.sizes.chains,
            strategy="plate",
            initial_params=self.starts(seed, self.sizes.chains),
            progress=False,
        )
        begin = clock()
        mcmc.run(*self.target.args)
        values = {k: v.numpy() for k, v in mcmc.get_samples(group_by_chain=True).items()}
        end = clock()
        gradients = float(mcmc.statistics["n_steps"].sum())
        return Drawn(values, mcmc.ready - begin, mcmc.warm - mcmc.ready, end - mcmc.warm, gradients)


OURS: Mapping[str, Callable[..., Any]] = {
    "MALA": MALA,
    "Barker": Barker,
    "MALT": MALT,
    "Underdamped": lambda model: Underdamped(model, steps=4),
    "MCLMC": lambda model: MCLMC(model, steps=4),
}


def rows(target: Target, quick: bool) -> list[Row]:
    """All ways of sampling a target, the peers first."""
    found: list[Row] = [
        PyroNUTS("Pyro NUTS", target, quick, jit=False),
        PyroNUTS("Pyro NUTS, jit", target, quick, jit=True),
        NativeNUTS("NumPyro NUTS", target, quick),
    ]
    if target.dense_too:
        found += [NativeNUTS("... dense metric", target, quick, dense=True)]
    if importlib.util.find_spec("blackjax"):
        found += [BlackMALA("BlackJAX MALA", target, quick)]
        found += [BlackMCLMC("BlackJAX MCLMC", target, quick)]
    found += [OurNumPyro("NumPyroMCMC", target, quick)]
    return found + [Ours(name, target, quick, make) for name, make in OURS.items()]


@dataclass(frozen=True)
class Figures:
    """Of one run, or medians over rounds."""

    ess: float
    ess_per_second: float
    with_warmup: float
    ess_per_gradient: float
    setup: float
    warmup: float
    draw: float
    r_hat: float


def figures(drawn: Drawn) -> Figures:
    data = arviz.convert_to_dataset(drawn.values)  # type: ignore[no-untyped-call]
    ess = min(float(v.min()) for v in arviz.ess(data, method="bulk").values())  # type: ignore[no-untyped-call]
    several = data.sizes["chain"] > 1
    r_hat = max(float(v.max()) for v in arviz.rhat(data).values()) if several else math.nan  # type: ignore[no-untyped-call]
    return Figures(
        ess,
        ess / drawn.draw,
        ess / (drawn.draw + drawn.warmup),
        ess / drawn.gradients,
        drawn.setup,
        drawn.warmup,
        drawn.draw,
        r_hat,
    )


def moments(drawn: Drawn) -> Any:
    """Means and variances of all components, ``(2, components)``."""
    values = [drawn.values[name] for name in sorted(drawn.values)]
    flat = np.concatenate([np.reshape(v, (v.shape[0] * v.shape[1], -1)) for v in values], 1)
    return np.stack([flat.mean(0), flat.var(0)])


def off(found: list[Any], reference: list[Any]) -> float:
    (mean, variance), (true_mean, true_variance) = np.median(found, 0), np.median(reference, 0)
    shift = np.abs(mean - true_mean) / np.sqrt(true_variance)
    stretch = np.abs(np.sqrt(variance / true_variance) - 1)
    return float(max(shift.max(), stretch.max()))


def measure(target: Target, quick: bool, rounds: int) -> dict[str, Any]:
    ways = rows(target, quick)
    first = {way.name: way.run(0) for way in ways if way.compiled}
    runs: dict[str, list[Figures]] = {way.name: [] for way in ways}
    found: dict[str, list[Any]] = {way.name: [] for way in ways}
    for k in range(rounds):
        for way in rotated(ways, k):
            drawn = way.run(1 + k)
            runs[way.name].append(figures(drawn))
            found[way.name].append(moments(drawn))
    table = {name: asdict(medians(each)) for name, each in runs.items()}
    for name, row in table.items():
        row["compile"] = compilation(first.get(name), row)
        row["off"] = off(found[name], found[NATIVE])
        row["ratio"] = {
            peer: ratios(runs[name], runs[peer]) for peer in (PYRO, NATIVE) if name != peer
        }
    return {"rounds": rounds, "disagreement": disagreement(target), "rows": table}


def rotated(ways: list[Row], k: int) -> list[Row]:
    k = k * len(ways) // 3 % len(ways)
    return ways[k:] + ways[:k]


def medians(runs: list[Figures]) -> Figures:
    each = zip(*(asdict(run).values() for run in runs), strict=True)
    return Figures(*(statistics.median(values) for values in each))


def compilation(first: Drawn | None, later: dict[str, Any]) -> float:
    """What the first run took longer than later ones; of Pyro's NUTS, jit is part of the set-up."""
    if first is None:
        return 0.0
    total = first.setup + first.warmup + first.draw
    return float(max(0.0, total - later["setup"] - later["warmup"] - later["draw"]))


def ratios(ours: list[Figures], theirs: list[Figures]) -> dict[str, list[float]]:
    """Lower quartile, median and upper quartile of the paired ratios."""
    return {
        what: quartiles(
            [getattr(a, what) / getattr(b, what) for a, b in zip(ours, theirs, strict=True)]
        )
        for what in ("ess_per_second", "with_warmup", "ess_per_gradient")
    }


def quartiles(values: list[float]) -> list[float]:
    return values * 3 if len(values) == 1 else statistics.quantiles(values, n=4, method="inclusive")


def verdicts(results: dict[str, Any]) -> list[dict[str, Any]]:
    """What is wanted, and what was found."""
    found = []
    for target, way, peer, wanted in WANTED:
        if target not in results:
            continue
        table = results[target]["rows"]
        name = best(table) if way == "best of ours" else way
        ratio = table[name]["ratio"][peer]
        found.append(
            {
                "target": target,
                "way": name,
                "peer": peer,
                "wanted": wanted,
                "ratio": ratio,
                "met": ratio["ess_per_second"][1] >= wanted,
                "met_with_warmup": ratio["with_warmup"][1] >= wanted,
            }
        )
    return found


def best(table: dict[str, Any]) -> str:
    """The fastest of our kernels in PyTorch that keeps to the target exactly."""
    adjusted = [name for name in ("MALA", "Barker", "MALT") if name in table]
    return max(adjusted, key=lambda name: float(table[name]["ess_per_second"]))


COLUMNS = (
    ("ESS", "ess", ".0f"),
    ("ESS/s", "ess_per_second", ".4g"),
    ("with warm-up", "with_warmup", ".4g"),
    ("ESS/1000 grad", "ess_per_gradient", ".3g"),
    ("set-up s", "setup", ".2f"),
    ("compile s", "compile", ".2f"),
    ("warm-up s", "warmup", ".2f"),
    ("draw s", "draw", ".2f"),
    ("R-hat", "r_hat", ".3f"),
    ("off", "off", ".2f"),
)


def show(name: str, result: dict[str, Any]) -> None:
    print(
        f"\n{name}: {result['rounds']} rounds, programs agree to {result['disagreement']:.1g} nats"
    )
    heads = "".join(f"{head:>{width(head)}}" for head, _, _ in COLUMNS)
    print(f"{'':16}{heads}  times {PYRO}'s ESS/s [quartiles]")
    for way, row in result["rows"].items():
        shown = dict(row, ess_per_gradient=1000 * row["ess_per_gradient"])
        cells = "".join(f"{shown[key]:>{width(head)}{form}}" for head, key, form in COLUMNS)
        print(f"{way:16}{cells}  {ratio_text(row['ratio'].get(PYRO))}", flush=True)


def width(head: str) -> int:
    return max(len(head) + 3, 11)


def ratio_text(ratio: dict[str, list[float]] | None, what: str = "ess_per_second") -> str:
    if ratio is None:
        return ""
    low, middle, high = ratio[what]
    return f"{middle:.3g} [{low:.3g}, {high:.3g}]"


def show_verdicts(found: list[dict[str, Any]]) -> None:
    print()
    for v in found:
        print(f"{v['target']}: {v['way']} against {v['peer']}, wanted {v['wanted']:g} times:")
        for what, met in (("ess_per_second", "met"), ("with_warmup", "met_with_warmup")):
            text = ratio_text(v["ratio"], what)
            print(f"  {what:16} {text} {'met' if v[met] else 'NOT met'}")


def one_core() -> None:
    """One thread for PyTorch, and one core for whatever XLA starts."""
    torch.set_num_threads(1)
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "")
        + " --xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    )
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="tiny runs: a check that it works")
    parser.add_argument("--rounds", type=int, help="by default each target's own number")
    parser.add_argument("--only", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    args = parser.parse_args()

    one_core()
    # ArviZ on short chains, torch.jit on everything it traces
    warnings.filterwarnings("ignore", module="arviz|torch|pyro|numpyro|jax")
    versions = {name: version(name) for name in ("torch", "pyro-ppl", "jax", "numpyro", "blackjax")}
    if versions["blackjax"] is None:
        print("no rows of BlackJAX: it is not installed (pip install blackjax)")
    results: dict[str, Any] = {}
    for key in args.only:
        target = TARGETS[key](args.quick)
        rounds = args.rounds or (1 if args.quick else target.rounds)
        results[key] = measure(target, args.quick, rounds)
        show(target.name, results[key])
        gap = results[key]["disagreement"]
        if not gap <= LARGEST_DISAGREEMENT:
            raise SystemExit(f"{target.name}: the two programs differ by {gap:.3g} nats")
    found = verdicts(results)
    show_verdicts(found)
    if args.json:
        report = {"threads": 1, "versions": versions, "results": results, "wanted": found}
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
