"""What sampling and training a latent ODE cost, engine by engine, against the obvious way.

    python benchmarks/speed.py [--quick] [--only chain step] [--repeats N] [--json FILE]
                               [--device cuda]

The obvious way is what the papers' code does: torchdiffeq's dopri5 (1e-3 / 1e-4), plain torch.nn
networks, autograd. Everything runs interleaved in one process on one thread, in CPU time (on a
GPU: in time, the device waited for); ratios are of medians, with the quartiles of the paired
ratios. Freed memory is kept for the next use, see `keep_memory`. The engine "xla", and "compile" on
a GPU, have the same networks as modules of a user's own, of which they cannot know what they
compute. Two parts:

- ``chain``: a posterior chain of unadjusted Langevin steps, K = 20 gradients of 128 sequences under
  the Pyro program of a latent ODE, Pyro included, for two sizes (latent 10, networks 100 wide, one
  feature; latent 32, networks 256 wide, 14 features) and 100 and 1000 irregular times. Our solver's
  step is the longest whose trajectories are no further from a reference (dopri5 at 1e-8 in double
  precision) than dopri5's, in the root mean square and at worst, on a field that has learned limit
  cycles of 0.5 to 1 Hz. Beside the times: both errors, how far apart the engines' gradients are,
  and the share of this core's measured sgemm peak that each reaches, counting the multiplications
  of the networks only. Where diffrax can be imported, its adaptive Dopri5 at the same tolerances
  runs beside them, the whole chain compiled by JAX.
- ``step``: a whole training step (10 Langevin steps of 128 posterior chains, 5 of 512 prior chains,
  the parameters' gradient, Adam) under Pyro's SVI, against the same in plain torch; small, T = 100.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax_peer
import pyro
import torch
import training_step
from posterior_chain import (
    BATCH,
    SCALE,
    SIZES,
    STEPS,
    Size,
    dopri5_errors,
    engines,
    label,
    measure_chain,
    models,
    solved,
    ways,
    with_diffrax,
)
from trajectory import (
    errors,
    fitted_field,
    interleaved,
    keep_memory,
    matched_step,
    paired,
    sequential,
)

from pyro_lebm import Series, engine
from pyro_lebm.engines import Engine
from pyro_lebm.models import GaussianEmission, LatentODE, MLPField
from pyro_lebm.models.datasets import irregular_sines

# how many times faster than the obvious way, wanted of each engine
OWN = label("own", "xla")
WANTED = {
    ("native", "small", 100): 8.0,
    ("native", "small", 1000): 25.0,
    ("native", "big", 100): 3.0,
    ("native", "big", 1000): 3.0,
    (OWN, "small", 100): 4.0,
    (OWN, "small", 1000): 11.0,
    (OWN, "big", 100): 2.0,
    (OWN, "big", 1000): 2.0,
}
WANTED_STEP = {"native": 6.0, OWN: 3.5}
WANTED_DIFFRAX = {("native", "small"): 2.0}  # how many times faster than diffrax


def peak(repeats: int, device: str) -> float:
    """Of sgemm on this thread, or this device, operations a second."""
    n = 1024 if device == "cpu" else 8192
    a = torch.randn(n, n, device=device)
    runs = interleaved({"sgemm": lambda: a @ a}, repeats, device)["sgemm"]
    return 2 * n**3 / statistics.median(runs)


def measure_step(field: MLPField, repeats: int, device: str) -> dict[str, Any]:
    """CPU time of a training step (on a GPU: time), engine by engine."""
    size = SIZES[0]
    times = irregular_sines(1, points=100, seed=1).times
    series = Series(times, torch.randn(BATCH, 100, 1)).to(device)
    emission = GaussianEmission(size.latent, 1, (size.width,), scale=SCALE)
    z0 = 0.8 * torch.randn(BATCH, size.latent)
    theirs, truth = dopri5_errors(field, z0, times)
    step_size = matched_step(field, z0, times, truth, theirs)
    peer = training_step.obvious(
        sequential(field), sequential(emission.network), emission.log_scale, series
    )
    store = pyro.get_param_store()

    def under(model: LatentODE, name: Engine) -> Callable[[], None]:
        # a store of its own: the models' parameters have the same names
        with store.scope() as kept:
            run = training_step.ours(model, series)

        def step() -> None:
            with store.scope(kept), engine(name):
                run()

        return step

    made = models(size, field, emission, step_size)
    runs: dict[str, Callable[[], object]] = {
        label(kind, name): under(made[kind], name)
        for kind, names in engines(device).items()
        for name in names
    }
    seconds = interleaved({**runs, "dopri5": peer}, repeats, device)
    return {
        "error_ours": errors(solved(field, z0, times, step_size), truth)[0],
        "error_dopri5": theirs[0],
        "milliseconds": {k: 1e3 * statistics.median(v) for k, v in seconds.items()},
        "speedup": {k: paired(seconds["dopri5"], seconds[k]) for k in runs},
    }


def told(ratio: dict[str, float], wanted: float | None) -> str:
    text = f"{ratio['ratio']:.1f} [{ratio['lower_quartile']:.1f}, {ratio['upper_quartile']:.1f}]"
    if wanted is None:
        return text
    return f"{text}, wanted {wanted:g}: {'met' if ratio['ratio'] >= wanted else 'NOT met'}"


def show_chain(found: dict[str, Any], best: float, device: str) -> None:
    print(
        f"\nchain of {found['gradients']} steps, {found['size']}, {found['points']} times: "
        f"{found['steps']} solver steps, error {found['error_ours']:.2g} against dopri5's "
        f"{found['error_dopri5']:.2g}; dopri5 {found['milliseconds']['dopri5']:.0f} ms; engines' "
        f"gradients differ by {found['gradient_gap']:.1g}"
    )
    for name in ways(device):
        wanted = WANTED.get((name, found["size"], found["points"]))
        share = found["operations_a_second"][name] / best
        print(
            f"  {name:21} {found['milliseconds'][name]:8.1f} ms  times dopri5: "
            f"{told(found['speedup'][name], wanted)}; {share:.0%} of sgemm's peak",
            flush=True,
        )
    if with_diffrax(device):
        print(
            f"  {'diffrax':21} {found['milliseconds']['diffrax']:8.1f} ms, its gradients "
            f"{found['diffrax_gap']:.1g} from dopri5's; times as fast as it:"
        )
    for name, ratio in found["against_diffrax"].items():
        wanted = WANTED_DIFFRAX.get((name, found["size"]))
        print(f"    {name:19} {told(ratio, wanted)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="few repeats: a check that it runs")
    parser.add_argument("--only", nargs="+", choices=("chain", "step"), default=("chain", "step"))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu", help="cpu (one thread), or cuda")
    args = parser.parse_args()
    repeats = 2 if args.quick else args.repeats

    device: str = args.device
    torch.set_num_threads(1)
    keep_memory()
    if device == "cpu":
        jax_peer.one_thread()
    torch.manual_seed(0)
    begin = time.time()
    best = peak(5 * repeats, device)
    print(f"sgemm on {'one thread' if device == 'cpu' else device}: {best / 1e9:.0f} GFLOP/s")
    report: dict[str, Any] = {"threads": 1, "torch": torch.__version__, "repeats": repeats}
    report |= {"device": torch.cuda.get_device_name() if device != "cpu" else "cpu"}
    report |= {"sgemm_peak": best, "chains": []}
    small = fitted_field(300 if args.quick else 3000)
    if "chain" in args.only:
        for size in SIZES[:1] if args.quick else SIZES:
            field = small if size is SIZES[0] else wider(size, args.quick)
            for points in (100,) if args.quick else (100, 1000):
                sizes = (points, repeats, device, 4 if args.quick else STEPS)
                report["chains"].append(measure_chain(size, field, *sizes))
                show_chain(report["chains"][-1], best, device)
    if "step" in args.only:
        report["step"] = measure_step(small, repeats, device)
        times = report["step"]["milliseconds"]
        print(
            f"\ntraining step, small, 100 times: dopri5 {times['dopri5']:.0f} ms; errors "
            f"{report['step']['error_ours']:.2g} and {report['step']['error_dopri5']:.2g}"
        )
        for name in ways(device):
            ratio = told(report["step"]["speedup"][name], WANTED_STEP.get(name))
            print(f"  {name:21} {times[name]:8.1f} ms  times dopri5: {ratio}")
    report["seconds"] = time.time() - begin
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


def wider(size: Size, quick: bool) -> MLPField:
    """A field of this size that has learned limit cycles."""
    return fitted_field(300 if quick else 3000, size.latent, size.width)


if __name__ == "__main__":
    main()
