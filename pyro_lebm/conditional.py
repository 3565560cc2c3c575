"""An energy-based density of one site given another: a constant for each element."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from .distribution import drawing_from_base, is_real
from .dynamics.chains import Chains
from .dynamics.langevin import check_step_size
from .frozen import frozen

Watch = Callable[[Tensor, Tensor], None]


class ConditionalEnergyBased(TorchDistribution):
    r"""Density :math:`p(z \mid c) = \exp(-E(z, c))\, b(z \mid c) / Z(c)`.

    :math:`Z(c)` differs from element to element, so its gradient, in the parameters and in the
    context ``c``, takes negatives for each:

    .. math:: \nabla \log Z(c) = \mathrm{E}_{p(z \mid c)}[\nabla (\log b(z \mid c) - E(z, c))],

    a short run of Langevin steps from the base for every element, inside the backward pass. What
    ``log_prob`` returns lacks :math:`\log Z(c)`, which nobody knows: gradients of an ELBO are those
    of the normalised density, its value is not, and densities of two values of ``c`` cannot be
    compared. This library's kernels and estimates of the evidence therefore refuse it; Pyro's own
    NUTS and HMC do not, and sample another density. A joint energy over all
    sites, a `Tilt`, has one constant instead, and none of these troubles.

    Args:
        energy: ``(*batch, dim of z + dim of c) -> (*batch)``, of both side by side, flat.
        base: module from the context to the base, of the context's batch shape.
        context: values ``(*batch, *context_event)`` of the site that is given.
        context_dim: the number of event dimensions of the context.
        steps: Langevin steps of a run, Metropolis-adjusted.
        step_size: their first one, adapted on the way.
        learn: False holds the energy fixed.
        watch: called in each negative phase with the detached energies of positives and negatives.

    Raises:
        ValueError: for fewer than one step, a step size <= 0, a base of constrained support, or an
            energy of another shape than one number per element.

    Example:
        >>> import pyro.distributions as dist
        >>> class Around(nn.Module):
        ...     def forward(self, c):
        ...         return dist.Normal(c, 1.0).to_event(1)
        >>> from pyro_lebm.energy import MLPEnergy
        >>> tilted = ConditionalEnergyBased(MLPEnergy(2), Around(), torch.zeros(5, 1))
        >>> tilted.sample().shape
        torch.Size([5, 1])
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - the name and type are torch's
    has_rsample = False

    def __init__(
        self,
        energy: nn.Module,
        base: nn.Module,
        context: Tensor,
        *,
        context_dim: int = 1,
        steps: int = 20,
        step_size: float = 0.2,
        learn: bool = True,
        watch: Watch | None = None,
    ) -> None:
        if steps < 1:
            raise ValueError(f"steps: expected at least 1, got {steps}")
        check_step_size(step_size)
        self.energy, self.base, self.context, self.context_dim = energy, base, context, context_dim
        self.steps, self.step_size, self.learn, self.watch = steps, step_size, learn, watch
        self.given: TorchDistribution = base(context)
        if not is_real(self.given.support):
            raise ValueError(
                "base: expected an unconstrained support, as Langevin steps need, got "
                f"{self.given.support}"
            )
        super().__init__(self.given.batch_shape, self.given.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """The base's."""
        return self.given.support

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> ConditionalEnergyBased:
        """The same density of a larger batch."""
        return ConditionalEnergyBased(
            self.energy,
            self.base,
            self.context.expand(torch.Size(batch_shape) + self._context_event),
            context_dim=self.context_dim,
            steps=self.steps,
            step_size=self.step_size,
            learn=self.learn,
            watch=self.watch,
        )

    @property
    def _context_event(self) -> torch.Size:
        return self.context.shape[self.context.ndim - self.context_dim :]

    def energy_at(self, value: Tensor, context: Tensor) -> Tensor:
        """The energy ``(*batch)`` of values ``(*batch, *event)`` given contexts."""
        z = value.flatten(value.ndim - len(self.event_shape))
        c = context.flatten(context.ndim - self.context_dim)
        energy: Tensor = self.energy(torch.cat([z, c.expand(*z.shape[:-1], -1)], -1))
        if energy.shape != z.shape[:-1]:
            raise ValueError(
                f"energy: expected one number per element, shape {tuple(z.shape[:-1])}, got shape "
                f"{tuple(energy.shape)}"
            )
        return energy

    def log_prob(self, value: Tensor) -> Tensor:
        r"""The density without :math:`\log Z(c)`, whose gradient it has."""
        with nullcontext() if self.learn else frozen(self.energy):
            energy = self.energy_at(value, self.context)
        log_density: Tensor = self.given.log_prob(value) - energy
        modules = (self.base, self.energy) if self.learn else (self.base,)
        live = [p for module in modules for p in module.parameters() if p.requires_grad]
        if torch.is_grad_enabled() and (live or self.context.requires_grad):
            context = self.context.expand(log_density.shape + self._context_event)
            log_density = log_density - _LogZ.apply(self, energy.detach(), context, *live)  # type: ignore[no-untyped-call]
        return log_density

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Ends of short runs from the base, ``(*sample_shape, *batch, *event)``."""
        if drawing_from_base():
            draws: Tensor = self.given.sample(torch.Size(sample_shape))
            return draws
        shape = torch.Size(sample_shape) + self.batch_shape
        return self.expand(shape).negatives() if sample_shape else self.negatives()

    def negatives(self) -> Tensor:
        """A draw for every element ``(*batch, *event)``, detached."""
        with torch.inference_mode(False):
            context = self.context.detach()
            base = self.base(context)
            start = base.sample()
            rows = start.reshape(max(self.batch_shape.numel(), 1), -1)

            def target(rows: Tensor) -> Tensor:
                z = rows.reshape(start.shape)
                log_density: Tensor = base.log_prob(z) - self.energy_at(z, context)
                return log_density.reshape(len(rows))

            ends = Chains(rows, step_size=self.step_size).run(target, self.steps)
        return ends.reshape(start.shape).detach()


class _LogZ(torch.autograd.Function):
    """Value 0, gradient that of each element's log Z; negatives are drawn when it is asked for."""

    @staticmethod
    def forward(
        ctx: Any, density: ConditionalEnergyBased, energy: Tensor, context: Tensor, *live: Tensor
    ) -> Tensor:
        ctx.density, ctx.energy = density, energy
        ctx.save_for_backward(context, *live)
        return torch.zeros_like(energy)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        context, *live = ctx.saved_tensors
        density: ConditionalEnergyBased = ctx.density
        c = context.detach().requires_grad_(True)
        whole = density.expand(ctx.energy.shape)
        negatives = whole.negatives()
        with torch.enable_grad():
            energy = density.energy_at(negatives, c)
            log_density = density.base(c).log_prob(negatives) - energy
            total = (upstream[0] * log_density).sum()
            gradients = torch.autograd.grad(total, [c, *live], allow_unused=True)
        if density.watch is not None:
            density.watch(ctx.energy, energy.detach())
        return None, None, *gradients
