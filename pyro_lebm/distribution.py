"""An unnormalised energy-based distribution that Pyro treats like any other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any, NoReturn

import torch
from pyro.distributions import Delta
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution, register_kl

from .annealing.bridge import Path
from .annealing.ratio import LogRatio
from .annealing.smc import Population, annealed_smc
from .base import white_metric
from .dependence import (
    announce,
    leaves,
    refuse_dependence,
    refuse_hidden,
    refuse_unregistered,
    unseen,
)
from .frozen import frozen

Energy = Callable[[Tensor], Tensor]
Sampler = Callable[["EnergyBased", int], Tensor]

_SOURCE: ContextVar[Sampler | None] = ContextVar("source", default=None)


@contextmanager
def drawn_by(source: Sampler) -> Iterator[None]:
    """Within the block, energy-based distributions draw by this, whatever their own sampler."""
    token = _SOURCE.set(source)
    try:
        yield
    finally:
        _SOURCE.reset(token)


def from_base(distribution: EnergyBased, n: int) -> Tensor:
    """Draws of the base: to read a program, where a site's shape matters and its value does not."""
    draws: Tensor = distribution.base.sample(torch.Size((n,)))
    return draws


def drawing_from_base() -> bool:
    """Whether draws are wanted as `from_base` makes them."""
    return _SOURCE.get() is from_base


class LogZ(torch.autograd.Function):
    """The log constant's place in the graph: value 0, gradient that of the true constant.

    Only a backward pass that wants the *parameters* visits this node, and only then are negatives
    drawn: gradients with respect to z (Langevin, NUTS) and forward passes cost nothing.
    """

    generate_vmap_rule = False

    @staticmethod
    def forward(
        negative_phase: Callable[[], Tensor], shape: torch.Size, *parameters: Tensor
    ) -> Tensor:
        return parameters[0].new_zeros(shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.negative_phase, _, *parameters = inputs
        ctx.save_for_backward(*parameters)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        parameters = ctx.saved_tensors
        with torch.enable_grad():
            mean_log_density = ctx.negative_phase()
            # the way from a parameter to the base's arguments is shared with the outer graph
            gradients = torch.autograd.grad(
                mean_log_density, parameters, allow_unused=True, retain_graph=True
            )
        weight = upstream[0].sum()
        return None, None, *(None if g is None else weight * g for g in gradients)


class EnergyBased(TorchDistribution):
    r"""Density :math:`p(z) = \exp(-E(z))\, b(z) / Z` for an energy ``E`` and a base ``b``.

    ``log_prob`` returns :math:`-E(z) + \log b(z)`, minus ``log_z`` where it is given; its gradient
    in ``z`` is exact and its gradient in the parameters of energy and base is that of the
    *normalised* density, :math:`\nabla\log Z = \mathrm{E}_p[\nabla(-E + \log b)]`, estimated from
    negatives that are drawn inside the backward pass (`LogZ`). So SVI learns it by contrastive
    maximum likelihood (Pang et al. 2020, arXiv 2006.08205) and MCMC draws no negatives at all.

    Args:
        energy: ``(*batch, *event) -> (*batch)``, an `nn.Module` if it has parameters.
        base: a distribution with empty batch shape; ``expand`` or a plate gives the batch.
        negatives: draws of the current density for the parameters' gradient, ``() -> (n, *event)``;
            by default 256 fresh draws of ``sampler``.
        sampler: ``(distribution, n) -> (n, *event)``; by default annealed sequential Monte Carlo
            from the base. Draws of one call share one population.
        log_z: the log constant, if known; then ``log_prob`` is normalised. A number counts as known
            exactly; what `pyro_lebm.log_z` returns brings its error along, to `log_evidence`.
        learn: False holds the energy fixed: no gradient reaches its parameters.
        watch: called in each negative phase with the detached energies of positives and negatives.

    Attributes:
        log_z: the number taken off, None where it is not known.
        constant: what ``log_z`` is the estimate of, None for a number.

    Raises:
        ValueError: if the base has a batch shape, its values or those of the energy come from
            another sample site (then Z would differ from element to element), or an energy returns
            more than one number per point.
        NotImplementedError: by ``entropy`` and ``kl_divergence``.

    Example:
        >>> import pyro.distributions as dist
        >>> _ = torch.manual_seed(0)
        >>> tilted = EnergyBased(lambda z: -2.0 * z, dist.Normal(0.0, 1.0))  # N(2, 1) in disguise
        >>> bool((tilted.sample((500,)).mean() - 2.0).abs() < 0.3)
        True
        >>> tilted.expand([3]).log_prob(torch.zeros(3)).shape
        torch.Size([3])
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - the name and type are torch's
    has_rsample = False

    def __init__(
        self,
        energy: Energy,
        base: TorchDistribution,
        *,
        negatives: Callable[[], Tensor] | None = None,
        sampler: Sampler | None = None,
        log_z: float | Tensor | LogRatio | None = None,
        learn: bool = True,
        watch: Callable[[Tensor, Tensor], None] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if base.batch_shape:
            raise ValueError(
                "base: expected an empty batch shape (one log Z for the distribution; use expand "
                f"or a plate for the batch, to_event for dimensions), got {tuple(base.batch_shape)}"
            )
        announce(energy)
        refuse_dependence(energy, base)
        self.energy, self.base, self.learn, self.unseen = energy, base, learn, unseen()
        self.negatives, self.sampler, self.watch = negatives, sampler, watch
        self.constant = log_z if isinstance(log_z, LogRatio) else None
        self.log_z = log_z.estimate if isinstance(log_z, LogRatio) else log_z
        super().__init__(torch.Size(), base.event_shape, validate_args=validate_args)

    def fixed(self) -> EnergyBased:
        """The same density, unnormalised, of which no gradient reaches the energy's parameters."""
        return EnergyBased(self.energy, self.base, sampler=self.sampler, learn=False)

    @property
    def support(self) -> Any:
        """The base's support."""
        return self.base.support

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> EnergyBased:
        """The same density, batched; all elements share one Z and one energy."""
        new: EnergyBased = self._get_checked_instance(EnergyBased, _instance)  # type: ignore[no-untyped-call]
        for name in _KEPT:
            setattr(new, name, getattr(self, name))
        shape = torch.Size(batch_shape)
        super(EnergyBased, new).__init__(shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density at ``value``: unnormalised unless ``log_z`` is given."""
        if self._validate_args:
            self._validate_sample(value)
        energy = self.energy_at(value)
        log_density: Tensor = self.base.log_prob(value) - energy
        shape = torch.broadcast_shapes(self.batch_shape, log_density.shape)
        log_density = log_density.expand(shape)
        if self.log_z is not None:
            log_density = log_density - torch.as_tensor(self.log_z).detach()
        parameters = leaves(log_density, value)
        if parameters:
            refuse_hidden(self.energy, leaves(energy, value))
            if not self.unseen:  # here too: where Pyro knows none, there is no backward pass
                refuse_unregistered(parameters)
            log_density = self.contrasted(log_density, energy, parameters)
        return log_density

    def contrasted(self, log_density: Tensor, energy: Tensor, parameters: list[Tensor]) -> Tensor:
        """The log density with the gradient of log Z in these parameters, drawn if asked for."""
        phase = partial(self._negative_phase, energy.detach(), parameters)
        log_z: Tensor = LogZ.apply(phase, log_density.shape, *parameters)  # type: ignore[no-untyped-call]
        return log_density - log_z

    def energy_at(self, value: Tensor) -> Tensor:
        """The energy ``(*batch)`` of points ``(*batch, *event)``, its shape checked."""
        energy = self.energy
        with nullcontext() if self.learn else frozen(energy):
            found = energy(value)
        expected = value.shape[: value.ndim - self.event_dim]
        if found.shape != expected:
            raise ValueError(
                f"energy: expected one number per point, shape {tuple(expected)} for points of "
                f"shape {tuple(value.shape)}, got shape {tuple(found.shape)}"
            )
        return found

    def _negative_phase(self, positive: Tensor, parameters: list[Tensor]) -> Tensor:
        refuse_unregistered(parameters)  # no sooner: a step also runs programs for their shapes
        z = (self.negatives() if self.negatives is not None else self._draw(256)).detach()
        energy = self.energy_at(z)
        if self.watch is not None:
            self.watch(positive, energy.detach())
        return (self.base.log_prob(z) - energy).mean()

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws ``(*sample_shape, *batch_shape, *event_shape)``, detached, by the sampler."""
        shape = torch.Size(sample_shape) + self.batch_shape
        return self._draw(shape.numel()).reshape(shape + self.event_shape)

    def _draw(self, n: int) -> Tensor:
        # Predictive samples under no_grad or inference_mode; Langevin needs neither.
        with torch.inference_mode(False), torch.enable_grad():
            source = _SOURCE.get() or self.sampler or annealed_draws
            return (from_base if n == 0 else source)(self, n).detach()

    def entropy(self) -> NoReturn:
        """Refused: it needs log Z.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(_NO_CLOSED_FORM.format("entropy"))


# by `expand`
_KEPT = ("energy", "base", "learn", "unseen", "negatives", "sampler", "watch", "log_z", "constant")

_NO_CLOSED_FORM = (
    "EnergyBased: {} has no closed form for an unnormalised density; estimate it from draws"
)


def annealed_draws(distribution: EnergyBased, n: int, *, particles: int | None = None) -> Tensor:
    """Draw by annealed sequential Monte Carlo from the base: modes come with their right weights.

    The base's support must be unconstrained. Of ``particles``, by default far more than are asked
    for, a random ``n`` are returned: those of a population share ancestors, and the masses of its
    modes scatter as if it were small.
    """
    options: dict[str, Any] = {}
    if particles is None:
        particles = max(2048, min(16 * n, 2**15))
        # more and gentler rungs than where a few negatives are wanted fast
        options = {"keep": 0.85, "moves": 5}
    cloud = annealed(distribution, max(n, particles), **options).position
    chosen = torch.randperm(len(cloud), device=cloud.device)[:n]
    return cloud[chosen].reshape((n, *distribution.event_shape))


def annealed(distribution: EnergyBased, particles: int, **options: Any) -> Population:
    """A population carried from the base to the density; its ``log_evidence`` estimates log Z.

    ``options`` are those of `annealed_smc`.
    """
    path = path_from_base(distribution)
    start = distribution.base.sample(torch.Size((particles,))).reshape(particles, -1)
    metric = white_metric(distribution.base)
    if metric is None:
        return annealed_smc(path, start, **options)
    found = annealed_smc(path, metric.white(start), **options)
    return found._replace(position=metric.position(found.position))


def path_from_base(distribution: EnergyBased) -> Path:
    """The way from the base to the density, in coordinates in which a normal base is round."""
    base = distribution.base
    if not is_real(base.support):
        raise ValueError(
            "base: annealed sampling expects an unconstrained support (transform the base), "
            f"got {base.support}"
        )
    metric = white_metric(base)

    def path(y: Tensor) -> tuple[Tensor, Tensor]:
        z = y if metric is None else metric.position(y)
        value = z.reshape(z.shape[:-1] + distribution.event_shape)
        log_base = base.log_prob(value)
        return log_base, log_base - distribution.energy_at(value)

    return path


def is_real(support: Any) -> bool:
    """Whether a support is all of R or R^d."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support is torch.distributions.constraints.real


def _refuse_kl(p: Any, q: Any) -> NoReturn:
    raise NotImplementedError(_NO_CLOSED_FORM.format("kl_divergence"))


register_kl(EnergyBased, Distribution)(_refuse_kl)
register_kl(Distribution, EnergyBased)(_refuse_kl)
register_kl(EnergyBased, EnergyBased)(_refuse_kl)


@register_kl(Delta, EnergyBased)  # type: ignore[untyped-decorator]
def _kl_delta(p: Delta, q: EnergyBased) -> Tensor:
    """Pyro's rule for a point mass, stated for this pair so that the dispatch is unambiguous."""
    return -q.log_prob(p.v)
