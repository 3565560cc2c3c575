"""The bound on inferring rates from Lorenz-driven spikes: the true model's own smoothing.

    python benchmarks/sequences_bound.py [--seeds 3] [--json F] [--quick]

The test spikes are those of ``sequences.py lorenz``. The true system is deterministic, so that a
trial's rates follow from its first state z, and their posterior mean is

    E[rates(z) | x] = sum_i w_i rates(z_i),   log w_i = sum_tn x_tn log rate_tn(z_i) - rate_tn(z_i)

over draws z_i of the true prior, states on the attractor: importance sampling, with millions of
draws, as the posterior is narrow. They are those of long paths, on which each state is the first of
the next 100, so that a draw costs one step. Intervals are bootstrapped over trials.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from irregular_sines import write_json
from sequences_rows import Cell
from sequences_tasks import fresh_counts
from tables_kept import made
from torch import Tensor
from tqdm import tqdm

from pyro_lebm.inference.scores import bits_per_spike, rate_r2
from pyro_lebm.models.datasets import LorenzSystem, lorenz_system

RESULTS = Path(__file__).parent / "results" / "sequences_bound.json"
PATHS, LENGTH = 100, 40_000  # of the prior's draws: four million of them
CHUNK = 500  # steps of all paths at a time
RESAMPLES = 200


class Smoothing:
    """Posterior means of rates, of trials ``(N, T, D)``, as draws of the prior come in."""

    def __init__(self, system: LorenzSystem, counts: Tensor) -> None:
        self.system = system
        self.counts = counts
        # log likelihood is a product of z and the counts' own sums, less the rates' sum
        self.told = (counts @ system.loading.to(counts)).flatten(1)  # (N, T * 3)
        n = len(counts)
        self.top = counts.new_full((n,), -math.inf)
        self.total, self.squares = counts.new_zeros(n), counts.new_zeros(n)
        self.rates = torch.zeros_like(counts)

    def take(self, path: Tensor) -> None:
        """Every state of paths ``(paths, steps, 3)`` that has T states from it on is a draw."""
        points = self.system.points
        windows = path.unfold(1, points, 1).transpose(-1, -2)  # (paths, starts, T, 3)
        passed = self.system.rates(path).sum(-1).cumsum(1)
        passed = torch.cat([torch.zeros_like(passed[:, :1]), passed], 1)
        expected = passed[:, points:] - passed[:, :-points]
        log = windows.flatten(2).flatten(0, 1) @ self.told.T - expected.flatten()[:, None]
        top = torch.maximum(self.top, log.amax(0))
        shrunk = (self.top - top).exp()
        weight = (log - top).exp()
        self.top = top
        self.total = self.total * shrunk + weight.sum(0)
        self.squares = self.squares * shrunk.square() + weight.square().sum(0)
        self.rates = self.rates * shrunk[:, None, None]
        for i in range(len(self.rates)):  # nearly all weights of a trial are nothing
            near = (weight[:, i] > 1e-8).nonzero().flatten()
            starts = windows.shape[1]
            states = windows[near // starts, near % starts]
            rates = self.system.rates(states)
            self.rates[i] += torch.einsum("p,ptd->td", weight[near, i], rates)

    @property
    def mean(self) -> Tensor:
        """Posterior mean rates ``(N, T, D)``."""
        return self.rates / self.total[:, None, None]

    @property
    def effective(self) -> Tensor:
        """Effective number of draws of each trial, ``(N,)``."""
        return self.total.square() / self.squares


def smoothed(
    system: LorenzSystem, counts: Tensor, *, paths: int, length: int, seed: int
) -> Smoothing:
    """The posterior of trials, by ``paths * length`` draws of the prior."""
    found = Smoothing(system, counts.double())
    generator = torch.Generator().manual_seed(seed)
    z = system.sample_initial(paths, generator)
    size = min(CHUNK, length)
    longer = replace(system, points=size + system.points)
    chunks = -(-length // size)
    for _ in tqdm(range(chunks), unit="part", leave=False, disable=chunks < 4):
        path = longer.path(z)
        found.take(path[:, :-1])
        z = path[:, size]
    return found


def bound(seed: int, *, validation: bool, quick: bool) -> dict[str, Any]:
    """Rate R2 and bits a spike that smoothing by the true model reaches on a seed's test."""
    data = Cell("", "lorenz", seed, validation=validation, quick=quick).data()
    counts, truth, null = data.whole.values.double(), data.truth.double(), data.null.double()
    points, neurons = counts.shape[1:]
    system = lorenz_system(neurons, points=points)
    size = {"paths": 50, "length": 200} if quick else {"paths": PATHS, "length": LENGTH}
    found = smoothed(system, counts, seed=900_000 + seed, **size)
    mean, fresh = found.mean.clamp(min=1e-9), fresh_counts(truth, seed)

    def scores(rows: Tensor) -> tuple[float, float]:
        bits = bits_per_spike(mean[rows], fresh[rows], null)
        return rate_r2(mean[rows], truth[rows]), bits

    n, generator = len(counts), torch.Generator().manual_seed(seed)
    again = [
        scores(torch.randint(n, (n,), generator=generator))
        for _ in range(20 if quick else RESAMPLES)
    ]
    every, spread = scores(torch.arange(n)), torch.tensor(again).double()
    ends = spread.quantile(torch.tensor([0.025, 0.975]).double(), 0)
    figures: dict[str, Any] = {
        name: {"mean": every[i], "low": float(ends[0, i]), "high": float(ends[1, i])}
        for i, name in enumerate(("rate_r2", "bits"))
    }
    figures["true_bits"] = bits_per_spike(truth, fresh, null)
    effective = found.effective
    figures["effective"] = {"median": float(effective.median()), "least": float(effective.min())}
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--validation", action="store_true", help="of the validation trials")
    parser.add_argument("--quick", action="store_true", help="tiny: a check that it runs")
    parser.add_argument("--json", type=Path, help=f"default {RESULTS.name} among the results")
    args = parser.parse_args(arguments)
    if args.seeds < 1:
        parser.error(f"--seeds: expected at least 1, got {args.seeds}")
    report: dict[str, Any] = {"seeds": {}, "made": made(Cell("", "lorenz", 0))}
    for seed in range(args.seeds):
        found = bound(seed, validation=args.validation, quick=args.quick)
        report["seeds"][str(seed)] = found
        for name in ("rate_r2", "bits"):
            x = found[name]
            print(f"seed {seed}: {name} {x['mean']:.4f} [{x['low']:.4f}, {x['high']:.4f}]")
        at = found["effective"]
        print(f"seed {seed}: effective draws {at['median']:.0f}, at least {at['least']:.1f}")
    apart = args.quick or args.validation
    path = args.json or (None if apart else RESULTS)
    if path is not None:
        write_json(path, report)
        print(path)


if __name__ == "__main__":
    main()
