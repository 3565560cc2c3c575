"""The gradient of log p(x, z0) through a latent trajectory, against torchdiffeq's dopri5.

    python benchmarks/trajectory.py [--quick] [--repeats 31] [--json FILE]

One gradient with respect to z0 of log N(z0; 0, I) + log N(x; g(z(t)), 0.5^2): latent 10, field
10-100-10 and emission 10-100-1 with tanh, 128 sequences, T irregular times in [0, 5]. The field is
first fitted to five Hopf oscillators of 0.5 to 1 Hz, limit cycles as learned fields have. Variants
interleaved in one process on one thread, in CPU time:

- ours: uniform RK4 steps with dense output, their number chosen so that the error of the trajectory
  is not larger than dopri5's, and this library's networks;
- dopri5, our networks: torchdiffeq at rtol 1e-3, atol 1e-4, everything else the same;
- dopri5, torch.nn: the same with plain nn.Sequential networks, what papers' code does.

Errors are root mean square and maximal, against dopri5 at 1e-8 in double precision. Then one whole
training step (T = 100), see ``training_step.py``.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchdiffeq
import training_step
from torch import Tensor, nn

from pyro_lebm import Series
from pyro_lebm.models import LatentODE
from pyro_lebm.models.datasets import irregular_sines
from pyro_lebm.models.emissions import GaussianEmission
from pyro_lebm.models.fields import MLP, MLPField
from pyro_lebm.trajectories.ode import choose_step, trajectory

LATENT, WIDTH, BATCH, SCALE = 10, 100, 128, 0.5
Path3 = Callable[[Tensor], Tensor]


def fitted_field(iterations: int = 3000, latent: int = LATENT, width: int = WIDTH) -> MLPField:
    """An MLP that has learned Hopf oscillators, amplitude 1, 0.5 to 1 Hz."""
    field = MLPField(latent, (width,))
    omega = 2 * math.pi * torch.linspace(0.5, 1.0, latent // 2)
    optimiser = torch.optim.Adam(field.parameters(), 1e-2)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations)
    for _ in range(iterations):
        z = 0.8 * torch.randn(256, latent)
        a, b = z.chunk(2, dim=-1)
        pull = 1.0 - a * a - b * b
        target = torch.cat([pull * a - omega * b, pull * b + omega * a], dim=-1)
        loss = (field(torch.tensor(0.0), z) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay.step()
    return field


def sequential(network: MLP) -> nn.Sequential:
    """The same layers as plain torch modules."""
    first, second = network.layers
    return nn.Sequential(first, nn.Tanh(), second)


def gradient(z0: Tensor, path: Path3, mean: Path3, x: Tensor) -> Tensor:
    z = z0.clone().requires_grad_()
    residual = (x - mean(path(z))) / SCALE
    log_joint = -0.5 * z.square().sum() - 0.5 * residual.square().sum()
    return torch.autograd.grad(log_joint, z)[0]


def errors(path: Tensor, truth: Tensor) -> tuple[float, float]:
    difference = path.double() - truth
    return difference.square().mean().sqrt().item(), difference.abs().max().item()


def matched_step(
    field: MLPField, z0: Tensor, times: Tensor, truth: Tensor, bounds: tuple[float, float]
) -> float:
    """The longest step before one whose errors are not within both ``bounds`` any more."""
    span, tolerance = float(times.max() - times.min()), 0.3

    def fits(steps: int) -> bool:
        with torch.no_grad():
            found = errors(trajectory(field, z0, times, step_size=span / steps), truth)
        return found[0] <= bounds[0] and found[1] <= bounds[1]

    while not fits(steps := round(span / choose_step(field, z0, times, tolerance=tolerance))):
        tolerance /= 1.5
    while steps > 1 and fits(steps - 1):
        steps -= 1
    return span / steps


def keep_memory() -> None:
    """Let glibc keep the memory that is freed, for the next use.

    Where it goes back to the system, each large tensor is paged in anew, at a cost that varied
    tenfold on one machine, and most for the ways that hold most. Only the first of glibc's arenas
    can keep what is large: no thread that starts from now on gets one of its own.
    """
    if platform.libc_ver()[0] == "glibc":
        options = ctypes.CDLL(None)
        options.mallopt(-4, 0)  # M_MMAP_MAX: no chunk of its own for a large tensor
        options.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        options.mallopt(-8, 1)  # M_ARENA_MAX


def interleaved(
    variants: dict[str, Callable[[], object]], repeats: int, device: str = "cpu"
) -> dict[str, list[float]]:
    """CPU time of each, run by turns; on another device the time until it is done."""
    for run in variants.values():
        run()
        run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, run in variants.items():
            start = now(device)
            run()
            seconds[name].append(now(device) - start)
    return seconds


def now(device: str) -> float:
    """A clock to take differences of."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def measure(
    field: MLPField, emission: GaussianEmission, points: int, repeats: int
) -> dict[str, object]:
    times = irregular_sines(1, points=points, seed=1).times
    z0, x = 0.8 * torch.randn(BATCH, LATENT), torch.randn(BATCH, points, 1)
    plain_field, plain_mean = sequential(field), sequential(emission.network)

    def dopri5(move: Callable[[Tensor, Tensor], Tensor]) -> Path3:
        def path(z: Tensor) -> Tensor:
            solution: Tensor = torchdiffeq.odeint(
                move, z, times, rtol=1e-3, atol=1e-4, method="dopri5"
            )
            return solution.movedim(0, 1)

        return path

    with torch.no_grad():
        double = copy.deepcopy(field).double()
        truth = torchdiffeq.odeint(
            double, z0.double(), times.double(), rtol=1e-8, atol=1e-8, method="dopri5"
        ).movedim(0, 1)
        theirs = errors(dopri5(field)(z0), truth)
    step = matched_step(field, z0, times, truth, theirs)

    def ours(z: Tensor) -> Tensor:
        return trajectory(field, z, times, step_size=step)

    seconds = interleaved(
        {
            "ours": lambda: gradient(z0, ours, emission.mean, x),
            "dopri5, our networks": lambda: gradient(z0, dopri5(field), emission.mean, x),
            "dopri5, torch.nn": lambda: gradient(
                z0, dopri5(lambda t, z: plain_field(z)), plain_mean, x
            ),
            "emission alone": lambda: gradient(
                z0, lambda z: z[:, None].expand(BATCH, points, LATENT), emission.mean, x
            ),
        },
        repeats,
    )
    with torch.no_grad():
        mine = errors(ours(z0), truth)
    return {
        "points": points,
        "step_size": step,
        "steps": math.ceil(float(times[-1]) / step - 1e-6),
        "error_ours": {"rms": mine[0], "max": mine[1]},
        "error_dopri5": {"rms": theirs[0], "max": theirs[1]},
        "milliseconds": {k: 1e3 * statistics.median(v) for k, v in seconds.items()},
        "speedup": {k: paired(v, seconds["ours"]) for k, v in seconds.items() if "dopri5" in k},
    }


def measure_step(
    field: MLPField, emission: GaussianEmission, step_size: float, repeats: int
) -> dict[str, object]:
    """One training step, ours and the obvious way, at the trajectory errors of `measure`."""
    times = irregular_sines(1, points=100, seed=1).times
    series = Series(times, torch.randn(BATCH, 100, 1))
    obvious = training_step.obvious(
        sequential(field), sequential(emission.network), emission.log_scale, series
    )
    model = LatentODE(LATENT, 1, field=field, emission=emission)
    model.load_state_dict({**model.state_dict(), "step_size": torch.tensor(step_size)})
    ours = training_step.ours(model, series)
    seconds = interleaved({"ours": ours, "dopri5": obvious}, repeats)
    return {
        "milliseconds": {k: 1e3 * statistics.median(v) for k, v in seconds.items()},
        "speedup": paired(seconds["dopri5"], seconds["ours"]),
    }


def paired(theirs: list[float], ours: list[float]) -> dict[str, float]:
    """Ratio of the medians, and the quartiles of the paired ratios."""
    low, _, high = statistics.quantiles([a / b for a, b in zip(theirs, ours, strict=True)], n=4)
    ratio = statistics.median(theirs) / statistics.median(ours)
    return {"ratio": ratio, "lower_quartile": low, "upper_quartile": high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="few repeats: a check that it runs")
    parser.add_argument("--repeats", type=int, default=31)
    args = parser.parse_args()
    repeats = 2 if args.quick else args.repeats

    torch.set_num_threads(1)
    keep_memory()
    torch.manual_seed(0)
    field = fitted_field(300 if args.quick else 3000)
    emission = GaussianEmission(LATENT, 1, (WIDTH,), scale=SCALE)
    results = [measure(field, emission, points, repeats) for points in (100, 1000)]
    step = measure_step(field, emission, float(results[0]["step_size"]), max(2, repeats // 3))  # type: ignore[arg-type]
    report = {
        "threads": 1,
        "torch": torch.__version__,
        "repeats": repeats,
        "results": results,
        "training_step": step,
    }
    print(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
