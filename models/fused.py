"""Which latent ODEs the fused engines can do, and their observations in their terms."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_lebm import engines, native
from pyro_lebm.observations.prepared import Prepared
from pyro_lebm.observations.problem import ACTIVATIONS, Fused, Perceptron, Problem
from pyro_lebm.observations.seen import SeenPath
from pyro_lebm.series import Series

from .emissions import BernoulliEmission, Emission, GaussianEmission, PoissonEmission
from .fields import MLP, MLPField
from .static import still

LIKELIHOODS: dict[type[nn.Module], str] = {
    GaussianEmission: "gaussian",
    BernoulliEmission: "bernoulli",
    PoissonEmission: "poisson",
}
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class Seen:
    """A series and what it is seen through, see `pyro_lebm.models.LatentODE`."""

    series: Series
    field: nn.Module
    emission: nn.Module
    t0: float
    method: str
    step_size: float | None
    static: int = 0
    static_in_field: bool = False


def observation(
    seen: Seen, z0: Tensor, eager: Callable[[], TorchDistribution]
) -> TorchDistribution:
    """The series' distribution given z0: fused where it can be and was not asked to be eager."""
    if engines.asked() == "eager":
        return eager()
    made = problem(seen, z0)
    if isinstance(made, str):
        engines.refuse(made)
        return eager()
    engines.pick(made.engine)
    emission = seen.emission
    scale = emission.scale if isinstance(emission, GaussianEmission) else z0.new_ones(())
    return SeenPath(z0, made, scale, eager)


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


def problem(seen: Seen, z0: Tensor) -> Problem | str:
    """What the fused engines compute of this, or why they cannot."""
    field, emission, series = seen.field, seen.emission, seen.series
    reason = _network_reason(seen) or _solver_reason(seen) or _states_reason(seen, z0)
    if reason:
        return reason
    assert isinstance(field, MLPField) and isinstance(emission, Emission)
    assert isinstance(emission.network, MLP) and seen.step_size is not None
    latent, network = z0.shape[-1], emission.network
    drift = still(field, seen.static)
    output = Perceptron.of(network.layers, network.activation)
    # PyTorch says what is wrong with most of these
    if misfit := drift.misfit(latent, latent, z0):
        return f"a field with {misfit}"
    if misfit := output.misfit(latent, series.observed, z0):
        return f"an emission with {misfit}"
    prepared = Prepared.of(series)
    t0 = prepared.rounded(seen.t0)
    if t0 > prepared.first or t0 >= prepared.end:
        return f"times from {prepared.first:g} to {prepared.end:g} for states at {t0:g}"
    readout = prepared.readout(t0, seen.step_size, z0.dtype)
    likelihood = LIKELIHOODS[type(emission)]
    return Problem(readout, prepared.data, drift, output, likelihood, chosen(z0))


def _network_reason(seen: Seen) -> str | None:
    field, emission = seen.field, seen.emission
    if type(field) is not MLPField or field.clock is not None or _driven(seen, field):
        return f"a field that is no plain MLPField: {type(field).__name__}"
    if type(emission) not in LIKELIHOODS:
        return f"an emission of another kind: {type(emission).__name__}"
    assert isinstance(emission, Emission)
    if type(emission.network) is not MLP:
        return f"an emission whose network is no plain MLP: {type(emission.network).__name__}"
    for name, network in (("field", field), ("emission", emission.network)):
        if network.activation not in ACTIVATIONS:
            return f"a {name} with the activation {network.activation}"
    if any(_altered(module) for module in (field, emission, emission.network)):
        return "a network with hooks or a forward of its own"
    return None


def _driven(seen: Seen, field: MLPField) -> bool:
    """Whether by anything but static latents."""
    driving = seen.static if seen.static_in_field else 0
    return (0 if field.control is None else field.control.shape[1]) != driving


def _altered(module: nn.Module) -> bool:
    own = vars(module)
    return "forward" in own or any(own[hooks] for hooks in HOOKS)


def _solver_reason(seen: Seen) -> str | None:
    if seen.method != "rk4":
        return f"a trajectory by {seen.method}"
    if seen.step_size is None:
        return "a trajectory whose step is not chosen yet"
    if torch._C._get_tracing_state() is not None or torch.compiler.is_compiling():
        return "a program that is traced"
    return None


def _states_reason(seen: Seen, z0: Tensor) -> str | None:
    if z0.dtype not in (torch.float32, torch.float64):
        return f"latent states of {z0.dtype}"
    if type(z0) is not Tensor:  # of a tracing ELBO, such as TraceGraph_ELBO's
        return f"latent states that are of the type {type(z0).__name__}"
    if z0.ndim < 2 or z0.shape[-2] != len(seen.series):
        return f"latent states of shape {tuple(z0.shape)} for {len(seen.series)} sequences"
    given = {"a series": seen.series.values}
    if isinstance(seen.emission, GaussianEmission):
        given["a scale"] = scale = seen.emission.log_scale
        if scale.shape not in ((), (seen.series.observed,)):
            return f"a scale of shape {tuple(scale.shape)} for {seen.series.observed} features"
    for name, x in given.items():
        if x.dtype != z0.dtype or x.device != z0.device:
            return f"{name} of {x.dtype} on {x.device} for {z0.dtype} on {z0.device}"
    return None


@functools.cache
def _missing_compiler() -> str | None:
    try:
        native.library()
    except native.NativeError as error:
        return str(error)
    return None
