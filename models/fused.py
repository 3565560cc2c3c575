"""Which latent ODEs the native code can do, and their observations in its terms."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_lebm import engines, native
from pyro_lebm.seen import ACTIVATIONS, Perceptron, Problem, Readout, SeenPath
from pyro_lebm.series import Series

from .emissions import BernoulliEmission, Emission, GaussianEmission, PoissonEmission
from .fields import MLP, MLPField

LIKELIHOODS: dict[type[nn.Module], str] = {
    GaussianEmission: "gaussian",
    BernoulliEmission: "bernoulli",
    PoissonEmission: "poisson",
}


@dataclass(frozen=True)
class Seen:
    """A series and what it is seen through, see `pyro_lebm.models.LatentODE`."""

    series: Series
    field: nn.Module
    emission: nn.Module
    t0: float
    method: str
    step_size: float | None


def observation(
    seen: Seen, z0: Tensor, eager: Callable[[], TorchDistribution]
) -> TorchDistribution:
    """The series' distribution given z0: fused where it can be and was not asked to be eager."""
    if engines.asked() == "eager":
        return eager()
    reason = why_not(seen, z0)
    missing = None if reason else _missing_compiler()
    if reason or missing:
        engines.refuse(str(reason or missing), warn=bool(missing))
        return eager()
    engines.pick("native")
    return _fused(seen, z0, eager)


def why_not(seen: Seen, z0: Tensor) -> str | None:
    """What the native code cannot do of this; None where it can."""
    field, emission, series = seen.field, seen.emission, seen.series
    if type(field) is not MLPField or field.clock is not None or field.control is not None:
        return f"a field that is no plain MLPField: {type(field).__name__}"
    if type(emission) not in LIKELIHOODS:
        return f"an emission of another kind: {type(emission).__name__}"
    assert isinstance(emission, Emission)
    if type(emission.network) is not MLP:
        return f"an emission whose network is no plain MLP: {type(emission.network).__name__}"
    for name, network in (("field", field), ("emission", emission.network)):
        if network.activation not in ACTIVATIONS:
            return f"a {name} with the activation {network.activation}"
    if seen.method != "rk4" or seen.step_size is None:
        return f"a trajectory by {seen.method}"
    if any(m._forward_hooks or m._forward_pre_hooks for m in (field, emission, emission.network)):
        return "a network with hooks"
    if z0.device.type != "cpu" or z0.dtype not in (torch.float32, torch.float64):
        return f"latent states of {z0.dtype} on {z0.device.type}"
    if type(z0) is not Tensor:  # of a tracing ELBO, such as TraceGraph_ELBO's
        return f"latent states that are of the type {type(z0).__name__}"
    if emission.network.layers[-1].out_features != series.observed:
        return "an emission of another shape"  # PyTorch says what is wrong with it
    if z0.ndim < 2 or z0.shape[-2] != len(series) or not _after(series, seen.t0):
        return f"states of shape {tuple(z0.shape)} for {len(series)} sequences after {seen.t0:g}"
    if torch._C._get_tracing_state() is not None or torch.compiler.is_compiling():
        return "a program that is traced"
    return None


def _after(series: Series, t0: float) -> bool:
    first, last = torch.aminmax(series.times)
    return float(first) >= t0 and float(last) > t0


@functools.cache
def _missing_compiler() -> str | None:
    try:
        native.library()
    except native.NativeError as error:
        return str(error)
    return None


def _fused(seen: Seen, z0: Tensor, eager: Callable[[], TorchDistribution]) -> TorchDistribution:
    series, field, emission = seen.series, seen.field, seen.emission
    assert isinstance(field, MLPField) and isinstance(emission, Emission)
    assert isinstance(emission.network, MLP) and seen.step_size is not None
    end = float(series.times.max())
    steps = max(1, math.ceil((end - seen.t0) / seen.step_size - 1e-6))
    problem = Problem(
        Readout.at(series.times, seen.t0, end, steps, z0.dtype),
        series.filled,
        series.mask.to(torch.uint8).contiguous(),
        Perceptron.of(field.layers, field.activation),
        Perceptron.of(emission.network.layers, emission.network.activation),
        LIKELIHOODS[type(emission)],
    )
    scale = emission.scale if isinstance(emission, GaussianEmission) else z0.new_ones(())
    return SeenPath(z0, problem, scale, eager)
