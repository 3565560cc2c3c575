"""Which latent ODEs the fused engines can do, and their observations in their terms."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_lebm import engines, native
from pyro_lebm.prepared import Prepared
from pyro_lebm.problem import ACTIVATIONS, Fused, Perceptron, Problem
from pyro_lebm.seen import SeenPath
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
    if reason:
        engines.refuse(reason)
        return eager()
    name = chosen(z0)
    engines.pick(name)
    return _fused(seen, z0, eager, name)


def chosen(z0: Tensor) -> Fused:
    """The engine for these states: native where there can be any, unless vjp was asked for.

    Raises:
        ValueError: native code was asked for by name, and there is none.
    """
    if engines.asked() == "vjp":
        return "vjp"
    if z0.device.type != "cpu":
        engines.refuse(f"latent states on {z0.device.type}", by=("native",), instead="vjp")
        return "vjp"
    missing = _missing_compiler()
    if missing:
        engines.refuse(missing, by=("native",), instead="vjp", warn=True)
    return "vjp" if missing else "native"


def why_not(seen: Seen, z0: Tensor) -> str | None:
    """What the fused engines cannot do of this; None where they can."""
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
    if z0.dtype not in (torch.float32, torch.float64):
        return f"latent states of {z0.dtype}"
    if type(z0) is not Tensor:  # of a tracing ELBO, such as TraceGraph_ELBO's
        return f"latent states that are of the type {type(z0).__name__}"
    if emission.network.layers[-1].out_features != series.observed:
        return "an emission of another shape"  # PyTorch says what is wrong with it
    if torch._C._get_tracing_state() is not None or torch.compiler.is_compiling():
        return "a program that is traced"
    if z0.ndim < 2 or z0.shape[-2] != len(series) or not _after(series, seen.t0):
        return f"states of shape {tuple(z0.shape)} for {len(series)} sequences after {seen.t0:g}"
    return None


def _after(series: Series, t0: float) -> bool:
    prepared = Prepared.of(series)
    return prepared.first >= t0 and prepared.end > t0


@functools.cache
def _missing_compiler() -> str | None:
    try:
        native.library()
    except native.NativeError as error:
        return str(error)
    return None


def _fused(
    seen: Seen, z0: Tensor, eager: Callable[[], TorchDistribution], name: Fused
) -> TorchDistribution:
    field, emission, prepared = seen.field, seen.emission, Prepared.of(seen.series)
    assert isinstance(field, MLPField) and isinstance(emission, Emission)
    assert isinstance(emission.network, MLP) and seen.step_size is not None
    problem = Problem(
        prepared.readout(seen.t0, seen.step_size, z0.dtype),
        prepared.data,
        Perceptron.of(field.layers, field.activation),
        Perceptron.of(emission.network.layers, emission.network.activation),
        LIKELIHOODS[type(emission)],
        name,
    )
    scale = emission.scale if isinstance(emission, GaussianEmission) else z0.new_ones(())
    return SeenPath(z0, problem, scale, eager)
