"""Implicit sampling in 10 steps beside samplers of 1,000, of the same denoiser, in one run.

    python benchmarks/implicit.py [--seeds 8] [--seconds 60] [--json F] [--quick]

A denoiser of whole spirals, 50 points in the plane as one vector, is trained on all levels of
noise; then each sampler in turn, and again, makes as many sequences from noise of its own: implicit
diffusion at eta 0, of second and first order; ancestral sampling; annealed Langevin dynamics. All
are compared with fresh spirals by maximum mean discrepancy, beside the floor of other fresh ones.
One thread, all in this process.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from irregular_sines import write_json
from scipy import stats
from sequences_rows import Cell
from tables_kept import made
from torch import Tensor, nn
from tqdm import tqdm

from pyro_lebm.diffusion.annealed import annealed_langevin
from pyro_lebm.diffusion.denoising import Denoise
from pyro_lebm.diffusion.implicit import ancestral, implicit
from pyro_lebm.diffusion.schedule import alpha_bar
from pyro_lebm.inference.scores import median_bandwidth, mmd
from pyro_lebm.models.datasets import spirals
from pyro_lebm.models.denoisers import StepNetwork

RESULTS = Path(__file__).parent / "results" / "implicit.json"
POINTS, NOISE = 50, 0.1
HIDDEN = (256, 256)
BATCH, RATE = 256, 2e-3
TRAIN = 20_000
AVERAGED = 0.999  # decay of the weights' average
FEW, LEVELS, EACH = 10, 10, 100
SHORT = 0.5  # the first step, beside the others: chosen with denoisers of seeds from 100 on
Sampler = Callable[[Denoise, Tensor], Tensor]


def samplers(quick: bool) -> dict[str, tuple[int, Sampler]]:
    """Name -> calls of the denoiser, and the sampler; what others are compared with is first."""
    many, each = (20, 2) if quick else (LEVELS * EACH, EACH)
    return {
        "implicit": (FEW, partial(implicit, steps=FEW, order=2, first=SHORT)),
        "implicit, even steps": (FEW, partial(implicit, steps=FEW, order=2)),
        "implicit, twice the steps": (
            2 * FEW,
            partial(implicit, steps=2 * FEW, order=2, first=SHORT),
        ),
        "implicit, first order": (FEW, partial(implicit, steps=FEW)),
        "ancestral": (many, partial(ancestral, steps=many)),
        "annealed Langevin": (
            LEVELS * each + 1,
            partial(annealed_langevin, levels=LEVELS, steps=each),
        ),
    }


def whole(n: int, seed: int, points: int = POINTS) -> Tensor:
    """Spirals on an even grid, with noise, as vectors ``(n, 2 * points)``."""
    _, known = spirals(n, points=2, seed=seed, truth=True)
    times = torch.linspace(0.0, 5.0, points)
    sign = torch.where(known["clockwise"], -1.0, 1.0)[:, None]
    angle = known["phase"][:, None] + sign * (4 * math.pi / 5) * times
    radius = known["radius"][:, None] + known["growth"][:, None] * times
    path = radius[..., None] * torch.stack([angle.cos(), angle.sin()], -1)
    generator = torch.Generator().manual_seed(seed)
    return (path + NOISE * torch.randn(path.shape, generator=generator)).flatten(1)


def trained(x: Tensor, seconds: float, seed: int) -> tuple[Denoise, int]:
    """A denoiser of vectors ``(n, L)`` with variances about one, and how many steps it took."""
    torch.manual_seed(seed)
    network = StepNetwork(x.shape[-1], 1, HIDDEN)
    average = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=_averaged)
    adam = torch.optim.Adam(network.parameters(), RATE)
    begin, steps = time.process_time(), 0
    while (spent := (time.process_time() - begin) / seconds) < 1:
        adam.param_groups[0]["lr"] = RATE * (0.02 + 0.98 * (1 + math.cos(math.pi * spent)) / 2)
        clean = x[torch.randint(len(x), (BATCH,))]
        level = torch.rand(BATCH, 1)
        a, noise = alpha_bar(level), torch.randn_like(clean)
        u = a.sqrt() * clean + (1 - a).sqrt() * noise
        found, _ = network.given(u.new_zeros(1, 1))(u, level)
        # weighed so that each level's network is asked for as much
        loss = ((found - clean).square() / (1 - a)).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        average.update_parameters(network)
        steps += 1
    kept: nn.Module = average.module
    assert isinstance(kept, StepNetwork)
    kept.requires_grad_(False)
    return kept.given(torch.zeros(1, 1)), steps


@torch.no_grad()
def _averaged(kept: Any, now: Any, count: Any) -> None:
    """Exponentially, over a part of the steps at first: what it began with is soon forgotten."""
    share = 1 - min(AVERAGED, (1 + int(count)) / (10 + int(count)))
    for mean, parameter in zip(kept, now, strict=True):
        mean.lerp_(parameter, share)


@torch.no_grad()
def compare(
    denoise: Denoise, scale: Tensor, seed: int, n: int, repeats: int, quick: bool
) -> list[dict[str, Any]]:
    """Each sampler, and all of them again: MMD to fresh spirals, and seconds for 1,000."""
    width = median_bandwidth(whole(n, 7_000_000 + seed))
    found: list[dict[str, Any]] = []
    for repeat in range(repeats):
        fresh = 8_000_000 + 1000 * seed + 2 * repeat
        real, other = whole(n, fresh), whole(n, fresh + 1)
        row: dict[str, Any] = {"floor": {"mmd": mmd(other, real, width)}}
        for name, (_, sampler) in samplers(quick).items():
            torch.manual_seed(1000 * seed + repeat)
            begin = time.perf_counter()
            drawn = scale * sampler(denoise, torch.randn(n, 2 * POINTS))
            seconds = time.perf_counter() - begin
            row[name] = {"mmd": mmd(drawn, real, width), "seconds_per_1000": 1000 * seconds / n}
        found.append(row)
    return found


def interval(x: Sequence[float]) -> dict[str, float]:
    """Mean with Student's 95 % interval; of one number that alone."""
    mean = statistics.fmean(x)
    half = math.nan
    if len(x) > 1:
        half = stats.t.ppf(0.975, len(x) - 1) * statistics.stdev(x) / math.sqrt(len(x))
    half = 0.0 if math.isnan(half) else float(half)
    return {"mean": mean, "low": mean - half, "high": mean + half}


def spread(x: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"mean": statistics.median(x), "low": min(x), "high": max(x)}


def summary(seeds: dict[str, list[dict[str, Any]]], quick: bool) -> dict[str, Any]:
    """Over all repeats; differences of MMD are of a seed's means, which share a denoiser."""
    every = [row for rows in seeds.values() for row in rows]
    first, *_ = samplers(quick)
    found: dict[str, Any] = {"floor": interval([row["floor"]["mmd"] for row in every])}
    for name, (calls, _) in samplers(quick).items():
        found[name] = {
            "calls": calls,
            "mmd": interval([row[name]["mmd"] for row in every]),
            "seconds_per_1000": spread([row[name]["seconds_per_1000"] for row in every]),
        }
        if name == first:
            continue
        more = [
            statistics.fmean(row[first]["mmd"] - row[name]["mmd"] for row in rows)
            for rows in seeds.values()
        ]
        times = [row[name]["seconds_per_1000"] / row[first]["seconds_per_1000"] for row in every]
        found[name] |= {"mmd_more": interval(more), "times_slower": spread(times)}
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0, help="of training, each seed")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--n", type=int, default=1000, help="sequences of a sampler each time")
    parser.add_argument("--quick", action="store_true", help="tiny: a check that it runs")
    parser.add_argument("--json", type=Path, help=f"default {RESULTS.name} among the results")
    args = parser.parse_args(arguments)
    if min(args.seeds, args.repeats) < 1 or args.n < 2 or args.seconds <= 0:
        parser.error("--seeds, --repeats, --n, --seconds: expected positive numbers, --n above 1")
    if args.quick:
        args.seconds, args.repeats, args.n = min(args.seconds, 0.3), min(args.repeats, 2), 50
    torch.set_num_threads(1)
    seeds: dict[str, list[dict[str, Any]]] = {}
    steps = []
    for seed in tqdm(range(args.seeds), unit="seed", disable=args.quick):
        x = whole(500 if args.quick else TRAIN, seed=6_000_000 + seed)
        scale = x.std()
        denoise, taken = trained(x / scale, args.seconds, seed)
        steps.append(taken)
        seeds[str(seed)] = compare(denoise, scale, seed, args.n, args.repeats, args.quick)
    about = {"points": POINTS, "samplers": [*samplers(args.quick)], "training_steps": steps}
    about |= {name: getattr(args, name) for name in ("seeds", "seconds", "repeats", "n")}
    told = summary(seeds, args.quick)
    report = {"about": about, "made": made(Cell("", "spirals", 0)), "summary": told, "seeds": seeds}
    print(f"floor: MMD x 1,000 {1000 * told['floor']['mean']:.3f}")
    for name in samplers(args.quick):
        x, slower = told[name], told[name].get("times_slower")
        line = f"{name}: MMD x 1,000 {1000 * x['mmd']['mean']:.3f}"
        line += f" [{1000 * x['mmd']['low']:.3f}, {1000 * x['mmd']['high']:.3f}]"
        line += f", {x['seconds_per_1000']['mean']:.3f} s for 1,000"
        if slower is not None:
            line += f", {slower['mean']:.1f} times [{slower['low']:.1f}, {slower['high']:.1f}]"
            more = x["mmd_more"]
            line += f"; implicit's MMD x 1,000 less its {1000 * more['mean']:+.3f}"
            line += f" [{1000 * more['low']:.3f}, {1000 * more['high']:.3f}]"
        print(line)
    path = args.json or (None if args.quick else RESULTS)
    if path is not None:
        write_json(path, report)
        print(path)


if __name__ == "__main__":
    main()
