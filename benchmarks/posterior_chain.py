"""A posterior chain under every engine and its peers: a part of ``speed.py``."""

from __future__ import annotations

import copy
import functools
import importlib.util
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax_peer
import torch
import torchdiffeq
from torch import Tensor, nn
from trajectory import errors, interleaved, matched_step, paired, sequential

from pyro_lebm import Series, engine, native, trajectory
from pyro_lebm.dynamics.langevin import LogDensity, evaluate, ula_step
from pyro_lebm.engines import Engine
from pyro_lebm.models import GaussianEmission, LatentODE, MLPField
from pyro_lebm.models.datasets import irregular_sines
from pyro_lebm.programs.program import Program

BATCH, STEPS, SCALE, SIZE = 128, 20, 0.5, 0.02


@dataclass(frozen=True)
class Size:
    """Of a latent ODE."""

    name: str
    latent: int
    width: int
    observed: int


SIZES = (Size("small", 10, 100, 1), Size("big", 32, 256, 14))


class Own(nn.Module):
    """A vector field of a user's own, of which no engine knows what it computes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        slope: Tensor = self.network(z)
        return slope


@functools.cache
def engines(device: str) -> dict[str, tuple[Engine, ...]]:
    """Those that this machine has, for plain perceptrons and for networks of a user's own."""
    plain: tuple[Engine, ...] = ("vjp", "eager")
    if device == "cpu":
        try:
            native.library()
            plain = ("native", *plain)
        except native.NativeError as reason:
            print(f"no native engine: {reason}")
    own: tuple[Engine, ...] = ("eager",) if device == "cpu" else ("compile", "eager")
    if importlib.util.find_spec("jax") is None:
        print("no xla engine: jax is not installed")
    elif device == "cpu" or jax_peer.sees_gpu():
        own = ("xla", *own)
    return {"plain": plain, "own": own}


def label(kind: str, name: str) -> str:
    """What a way is called."""
    return name if kind == "plain" else f"{name}, own networks"


def ways(device: str) -> list[str]:
    """All of them."""
    return [label(kind, name) for kind, names in engines(device).items() for name in names]


@functools.cache
def with_diffrax(device: str) -> bool:
    """Whether this machine has it."""
    found = jax_peer.available() and (device == "cpu" or jax_peer.sees_gpu())
    if not found:
        print("diffrax: skipped, it is not installed")
    return found


def chain(log_density: LogDensity, z: Tensor, gradients: int) -> Tensor:
    """As many gradients, and the Langevin steps between them."""
    state = evaluate(log_density, z)
    for _ in range(gradients - 1):
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


def models(
    size: Size, field: MLPField, emission: GaussianEmission, step: float
) -> dict[str, LatentODE]:
    """The same model of plain perceptrons and of a user's own networks, all copies."""
    field, emission = copy.deepcopy((field, emission))
    own = GaussianEmission(
        size.latent, size.observed, scale=SCALE, network=sequential(emission.network)
    )
    found = {
        "plain": LatentODE(size.latent, size.observed, field=field, emission=emission),
        "own": LatentODE(size.latent, size.observed, field=Own(sequential(field)), emission=own),
    }
    for model in found.values():
        model.load_state_dict({**model.state_dict(), "step_size": torch.tensor(step)})
    return found


def measure_chain(
    size: Size,
    field: MLPField,
    points: int,
    repeats: int,
    device: str = "cpu",
    gradients: int = STEPS,
) -> dict[str, Any]:
    """CPU time of a chain (on a GPU: time), engine by engine."""
    times = irregular_sines(1, points=points, seed=1).times
    z0 = 0.8 * torch.randn(BATCH, size.latent)
    emission = GaussianEmission(size.latent, size.observed, (size.width,), scale=SCALE)
    theirs, truth = dopri5_errors(field, z0, times)
    step = matched_step(field, z0, times, truth, theirs)
    error = errors(solved(field, z0, times, step), truth)[0]
    series = Series(times, torch.randn(BATCH, points, size.observed)).to(device)
    z0 = z0.to(device)
    programs = {
        kind: Program.read(model.to(device), series)
        for kind, model in models(size, field, emission, step).items()
    }
    networks = (sequential(field), sequential(emission.network))
    theirs_field, theirs_mean = (copy.deepcopy(network).to(device) for network in networks)
    peer = obvious(theirs_field, theirs_mean, series)
    in_jax = None
    if with_diffrax(device):
        in_jax = jax_peer.Peer(field, emission.network, SCALE, series)

    def under(kind: str, name: Engine) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with engine(name):
                return chain(programs[kind].log_density, z0, gradients)

        return run

    runs: dict[str, Callable[[], object]] = {
        label(kind, name): under(kind, name)
        for kind, names in engines(device).items()
        for name in names
    }
    peers: dict[str, Callable[[], object]] = {"dopri5": lambda: chain(peer, z0, gradients)}
    if in_jax is not None:
        peers["diffrax"] = in_jax.chain(z0, gradients, SIZE)
    seconds = interleaved({**runs, **peers}, repeats, device)
    steps = math.ceil(float(times.max()) / step - 1e-6)
    work = gradients * multiplications(size, points, steps)
    return {
        "size": size.name,
        "points": points,
        "gradients": gradients,
        "steps": steps,
        "error_ours": error,
        "error_dopri5": theirs[0],
        "gradient_gap": gradient_gap(programs, z0, device),
        "diffrax_gap": None if in_jax is None else relative(in_jax.gradient(z0), peer, z0),
        "milliseconds": {k: 1e3 * statistics.median(v) for k, v in seconds.items()},
        "speedup": {k: paired(seconds["dopri5"], seconds[k]) for k in runs},
        "against_diffrax": {
            k: paired(seconds["diffrax"], seconds[k]) for k in runs if "diffrax" in seconds
        },
        "operations_a_second": {k: work / statistics.median(seconds[k]) for k in runs},
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


def gradient_gap(programs: dict[str, Program], z0: Tensor, device: str) -> float:
    """Largest difference of an engine's gradient from eager's, relative to the largest of that."""
    gaps = [0.0]
    for kind, names in engines(device).items():
        for name in names[:-1]:
            with engine(name):
                found = evaluate(programs[kind].log_density, z0).gradient
            with engine("eager"):
                gaps.append(relative(found, programs[kind].log_density, z0))
    return max(gaps)


def relative(gradient: Tensor, log_density: LogDensity, z0: Tensor) -> float:
    """Its largest difference from a log density's, relative to the largest of that."""
    expected = evaluate(log_density, z0).gradient
    return float((gradient - expected).abs().max() / expected.abs().max())
