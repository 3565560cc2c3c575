"""What sampling and training a latent ODE cost, engine by engine, against the obvious way.

    python benchmarks/speed.py [--quick] [--only chain step] [--repeats N] [--json FILE]

The obvious way is what the papers' code does: torchdiffeq's dopri5 (1e-3 / 1e-4), plain torch.nn
networks, autograd. Everything runs interleaved in one process on one thread, in CPU time; ratios
are of medians, with the quartiles of the paired ratios. Two parts:

- ``chain``: a posterior chain of K = 20 unadjusted Langevin steps of 128 sequences under the Pyro
  program of a latent ODE, Pyro included, for two sizes (latent 10, networks 100 wide, one feature;
  latent 32, networks 256 wide, 14 features) and 100 and 1000 irregular times. Our solver's step is
  the longest whose trajectories are no further from a reference (dopri5 at 1e-8 in double
  precision) than dopri5's, on a field that has learned limit cycles of 0.5 to 1 Hz. Beside the
  times: both errors, how far apart the engines' gradients are, and the share of this core's
  measured sgemm peak that each reaches, counting the multiplications of the networks only.
  Where diffrax can be imported, its adaptive Dopri5 at the same tolerances runs beside them, the
  whole chain compiled by JAX.
- ``step``: a whole training step (10 Langevin steps of 128 posterior chains, 5 of 512 prior chains,
  the parameters' gradient, Adam) under Pyro's SVI, against the same in plain torch; small, T = 100.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax_peer
import pyro
import torch
import torchdiffeq
import training_step
from torch import Tensor, nn
from trajectory import errors, fitted_field, interleaved, matched_step, paired, sequential

from pyro_lebm import Series, engine, native, trajectory
from pyro_lebm.engines import Engine
from pyro_lebm.langevin import LogDensity, evaluate, ula_step
from pyro_lebm.models import GaussianEmission, LatentODE, MLPField
from pyro_lebm.models.datasets import irregular_sines
from pyro_lebm.program import Program

BATCH, STEPS, SCALE, SIZE = 128, 20, 0.5, 0.02


@dataclass(frozen=True)
class Size:
    """Of a latent ODE."""

    name: str
    latent: int
    width: int
    observed: int


SIZES = (Size("small", 10, 100, 1), Size("big", 32, 256, 14))
# how many times faster than the obvious way, wanted of each engine
WANTED = {
    ("native", "small", 100): 8.0,
    ("native", "small", 1000): 25.0,
    ("native", "big", 100): 3.0,
    ("native", "big", 1000): 3.0,
}
WANTED_STEP = {"native": 6.0}
WANTED_DIFFRAX = {"native": 2.0}  # how many times faster than diffrax


@functools.cache
def engines() -> tuple[Engine, ...]:
    """Those that this machine has."""
    try:
        native.library()
    except native.NativeError as reason:
        print(f"no native engine: {reason}")
        return ("vjp", "eager")
    return ("native", "vjp", "eager")


@functools.cache
def with_diffrax() -> bool:
    """Whether this machine has it."""
    found = jax_peer.available()
    if not found:
        print("diffrax: skipped, it is not installed")
    return found


def chain(log_density: LogDensity, z: Tensor) -> Tensor:
    """K Langevin steps."""
    state = evaluate(log_density, z)
    for _ in range(STEPS - 1):
        state = ula_step(log_density, state, SIZE)
    return state.position


def obvious(field: nn.Module, mean: nn.Module, series: Series) -> LogDensity:
    """The same posterior in plain torch."""

    def log_density(z: Tensor) -> Tensor:
        path = torchdiffeq.odeint(
            lambda t, z: field(z), z, series.times, rtol=1e-3, atol=1e-4, method="dopri5"
        ).movedim(0, 1)
        likelihood: Tensor = torch.distributions.Normal(mean(path), SCALE).log_prob(series.values)
        return likelihood.sum((-1, -2)) - 0.5 * z.square().sum(-1)

    return log_density


def multiplications(size: Size, times: int, steps: int) -> float:
    """Floating-point operations of the networks in one gradient: there and back."""
    field = 2 * size.latent * size.width
    emission = size.latent * size.width + size.width * size.observed
    return 2.0 * 2 * BATCH * ((4 * steps + 1) * field + times * emission)


def peak(repeats: int) -> float:
    """Of sgemm on this thread, operations a second."""
    a = torch.randn(1024, 1024)
    runs = interleaved({"sgemm": lambda: a @ a}, repeats)["sgemm"]
    return 2 * 1024**3 / statistics.median(runs)


def measure_chain(size: Size, field: MLPField, points: int, repeats: int) -> dict[str, Any]:
    times = irregular_sines(1, points=points, seed=1).times
    series = Series(times, torch.randn(BATCH, points, size.observed))
    z0 = 0.8 * torch.randn(BATCH, size.latent)
    emission = GaussianEmission(size.latent, size.observed, (size.width,), scale=SCALE)
    theirs, truth = dopri5_errors(field, z0, times)
    step = matched_step(field, z0, times, truth, theirs[0])
    model = LatentODE(size.latent, size.observed, field=field, emission=emission)
    model.load_state_dict({**model.state_dict(), "step_size": torch.tensor(step)})
    ours = Program.read(model, series)
    peer = obvious(sequential(field), sequential(emission.network), series)
    in_jax = jax_peer.Peer(field, emission.network, SCALE, series) if with_diffrax() else None

    def under(name: Engine) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with engine(name):
                return chain(ours.log_density, z0)

        return run

    ways: dict[str, Callable[[], object]] = {name: under(name) for name in engines()}
    peers: dict[str, Callable[[], object]] = {"dopri5": lambda: chain(peer, z0)}
    if in_jax is not None:
        peers["diffrax"] = in_jax.chain(z0, STEPS, SIZE)
    seconds = interleaved({**ways, **peers}, repeats)
    steps = math.ceil(float(times.max()) / float(model.step_size) - 1e-6)
    work = STEPS * multiplications(size, points, steps)
    return {
        "size": size.name,
        "points": points,
        "steps": steps,
        "error_ours": errors(solved(field, z0, times, step), truth)[0],
        "error_dopri5": theirs[0],
        "gradient_gap": gradient_gap(ours, z0),
        "diffrax_gap": None if in_jax is None else relative(in_jax.gradient(z0), peer, z0),
        "milliseconds": {k: 1e3 * statistics.median(v) for k, v in seconds.items()},
        "speedup": {k: paired(seconds["dopri5"], seconds[k]) for k in ways},
        "against_diffrax": {
            k: paired(seconds["diffrax"], seconds[k]) for k in ways if "diffrax" in seconds
        },
        "operations_a_second": {k: work / statistics.median(seconds[k]) for k in ways},
    }


def dopri5_errors(field: MLPField, z0: Tensor, times: Tensor) -> tuple[tuple[float, float], Tensor]:
    """Of dopri5 at the papers' tolerances, and the reference."""
    with torch.no_grad():
        double = copy.deepcopy(field).double()
        truth = torchdiffeq.odeint(
            double, z0.double(), times.double(), rtol=1e-8, atol=1e-8, method="dopri5"
        ).movedim(0, 1)
        found = torchdiffeq.odeint(field, z0, times, rtol=1e-3, atol=1e-4, method="dopri5")
    return errors(found.movedim(0, 1), truth), truth


def solved(field: MLPField, z0: Tensor, times: Tensor, step: float) -> Tensor:
    with torch.no_grad():
        return trajectory(field, z0, times, step_size=step)


def gradient_gap(program: Program, z0: Tensor) -> float:
    """Largest difference of an engine's gradient from eager's, relative to the largest of that."""
    gaps = []
    for name in engines()[:-1]:
        with engine(name):
            found = evaluate(program.log_density, z0).gradient
        with engine("eager"):
            gaps.append(relative(found, program.log_density, z0))
    return max(gaps)


def relative(gradient: Tensor, log_density: LogDensity, z0: Tensor) -> float:
    """Its largest difference from a log density's, relative to the largest of that."""
    expected = evaluate(log_density, z0).gradient
    return float((gradient - expected).abs().max() / expected.abs().max())


def measure_step(field: MLPField, step_size: float, repeats: int) -> dict[str, Any]:
    size = SIZES[0]
    times = irregular_sines(1, points=100, seed=1).times
    series = Series(times, torch.randn(BATCH, 100, 1))
    emission = GaussianEmission(size.latent, 1, (size.width,), scale=SCALE)
    peer = training_step.obvious(
        sequential(field), sequential(emission.network), emission.log_scale, series
    )

    store = pyro.get_param_store()

    def under(name: Engine) -> Callable[[], None]:
        with (
            store.scope() as kept
        ):  # a store of its own: the models' parameters have the same names
            run = training_step.ours(field, emission, series, step_size)

        def step() -> None:
            with store.scope(kept), engine(name):
                run()

        return step

    ways: dict[str, Callable[[], object]] = {}
    for name in engines():
        ways[name] = under(name)
    seconds = interleaved({**ways, "dopri5": peer}, repeats)
    return {
        "milliseconds": {k: 1e3 * statistics.median(v) for k, v in seconds.items()},
        "speedup": {k: paired(seconds["dopri5"], seconds[k]) for k in ways},
    }


def told(ratio: dict[str, float], wanted: float | None) -> str:
    text = f"{ratio['ratio']:.1f} [{ratio['lower_quartile']:.1f}, {ratio['upper_quartile']:.1f}]"
    if wanted is None:
        return text
    return f"{text}, wanted {wanted:g}: {'met' if ratio['ratio'] >= wanted else 'NOT met'}"


def show_chain(found: dict[str, Any], best: float) -> None:
    print(
        f"\nchain of {STEPS} steps, {found['size']}, {found['points']} times: {found['steps']} "
        f"solver steps, error {found['error_ours']:.2g} against dopri5's "
        f"{found['error_dopri5']:.2g}; dopri5 {found['milliseconds']['dopri5']:.0f} ms; engines' "
        f"gradients differ by {found['gradient_gap']:.1g}"
    )
    for name in engines():
        wanted = WANTED.get((name, found["size"], found["points"]))
        share = found["operations_a_second"][name] / best
        print(
            f"  {name:8} {found['milliseconds'][name]:8.1f} ms  times dopri5: "
            f"{told(found['speedup'][name], wanted)}; {share:.0%} of sgemm's peak",
            flush=True,
        )
    if with_diffrax():
        print(
            f"  diffrax  {found['milliseconds']['diffrax']:8.1f} ms, its gradients "
            f"{found['diffrax_gap']:.1g} from dopri5's; faster than it:"
        )
    for name, ratio in found["against_diffrax"].items():
        print(f"    {name:8} {told(ratio, WANTED_DIFFRAX.get(name))} times", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="few repeats: a check that it runs")
    parser.add_argument("--only", nargs="+", choices=("chain", "step"), default=("chain", "step"))
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    repeats = 2 if args.quick else args.repeats

    torch.set_num_threads(1)
    jax_peer.one_thread()
    torch.manual_seed(0)
    begin = time.time()
    best = peak(5 * repeats)
    print(f"sgemm on one thread: {best / 1e9:.0f} GFLOP/s")
    report: dict[str, Any] = {"threads": 1, "torch": torch.__version__, "repeats": repeats}
    report |= {"sgemm_peak": best, "chains": []}
    small = fitted_field(300 if args.quick else 3000)
    if "chain" in args.only:
        for size in SIZES[:1] if args.quick else SIZES:
            field = small if size is SIZES[0] else wider(size, args.quick)
            for points in (100,) if args.quick else (100, 1000):
                report["chains"].append(measure_chain(size, field, points, repeats))
                show_chain(report["chains"][-1], best)
    if "step" in args.only:
        report["step"] = measure_step(small, 0.15, repeats)
        times = report["step"]["milliseconds"]
        print(f"\ntraining step, small, 100 times: dopri5 {times['dopri5']:.0f} ms")
        for name in engines():
            ratio = told(report["step"]["speedup"][name], WANTED_STEP.get(name))
            print(f"  {name:8} {times[name]:8.1f} ms  times dopri5: {ratio}")
    report["seconds"] = time.time() - begin
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


def wider(size: Size, quick: bool) -> MLPField:
    """A field of this size that has learned limit cycles."""
    return fitted_field(300 if quick else 3000, size.latent, size.width)


if __name__ == "__main__":
    main()
