"""LangevinFlow: a latent position and velocity, carried through time by damped Langevin steps."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from pyro_lebm.dynamics.underdamped import refresh
from pyro_lebm.number_checks import check_numbers

from .emissions import PoissonEmission
from .fields import check_sizes
from .potentials import CoupledOscillators, check_potential, gradient
from .stepwise import StepwiseModel
from .transformer import TransformerEmission

Update = Literal["ornstein-uhlenbeck", "published"]


class LangevinFlow(StepwiseModel):
    r"""Latent positions and velocities in a learned potential, damped and driven by noise.

    .. math:: z_k = z_{k-1} + h v_{k-1}, \quad
              \tilde v = v_{k-1} - h (\nabla U(z_k) - B u_k), \quad
              v_k = e^{-\gamma h} \tilde v + \sqrt{1 - e^{-2 \gamma h}}\, \varepsilon_k, \quad
              x_k \sim p(x \mid z, v)

    with :math:`h = \text{step\_size} \cdot \Delta_k / \text{unit}`, so that irregular times are
    answered: a step moves in proportion to its gap, and a gap of 0 moves nothing. LangevinFlow
    (Song, Keller, Yue, Perona & Welling 2025, arXiv 2507.11531) is the source, with h = .01 for
    every bin. The noise is that of the velocity alone, M = L: given the last state, the position is
    not random. As h falls, the steps leave :math:`e^{-U(z) - |v|^2 / 2}` as it is, but for an error
    of order h.

    What is otherwise than published: the force is that at the new position, which keeps orbits from
    gaining energy at no cost (the symplectic Euler method), and the noise is the exact
    Ornstein-Uhlenbeck one above, whose friction is a rate; ``update="published"`` has the force at
    the old position and :math:`v_k = (1 - \gamma) \tilde v + \sqrt{2 \gamma}\,
    \varepsilon_k` instead, with :math:`\gamma` a share a step however long the step is, under which
    positions are as at temperature :math:`1 / (1 - \gamma)` and velocities as at :math:`1 / (1 -
    \gamma / 2)`, however small h is. The potential is bounded below (`CoupledOscillators`). The
    decoder does not see the encoder's state, which a generative model does not have, and the first
    state is at the first time, fed once.

    A step under a force of stiffness k is stable where :math:`h^2 k < 4`; a published one where
    :math:`h^2 k < \gamma / (1 - \gamma)`, and not beyond. In n substeps of h each friction acts but
    once, at their end. They are stable where :math:`h^2 k < 4 \sin^2(\pi / 2n)`, less than half a
    turn of the oscillator in a gap. The published ones are not where :math:`h^2 k \ge (1 -
    \gamma)^{-1/n} - 1`; below it they are up to a quarter turn, :math:`n \arctan(h \sqrt k) \le
    \pi / 2`. Beyond these turns some are stable and some are not.

    The state is [z, v], positions first; sites as for
    :class:`~pyro_lebm.models.stepwise.StepwiseModel`.

    Args:
        latent: L, size of the position, and of the velocity.
        observed: D, size of an observation.
        potential: module U from ``(..., L)`` to ``(...)``, with a method ``gradient`` of its own or
            by autograd; default `CoupledOscillators` of 4 groups, or of 2 or 1 where 4 do not
            divide L. Its stiffness bounds the steps, see above.
        friction: :math:`\gamma`, a rate in the time of h; below 1 if ``update="published"``.
        learn_friction: whether it is learned, from this start.
        step_size: h of a gap of one unit.
        substeps: into so many the moves under U are divided. The noise acts once, over the whole
            gap: with more substeps, a gap of any length leaves the density above as it is.
        update: ``"ornstein-uhlenbeck"`` or ``"published"``.
        prior: module whose call returns the distribution of ``z0`` = [z, v], size 2 L; default
            N(0, I). An `EnergyPrior` of that size is one, too.
        emission: module from paths ``(..., K, 2 L)``; default Poisson with a linear read-out after
            a Transformer layer.
        covariates: C, size of the inputs u that push the velocity, by a learned matrix B.
        unit: the gap that ``step_size`` is of, in the series' unit.

    Raises:
        TypeError: for a size or substeps that are no whole number, a friction, step size or unit
            that is no number.
        ValueError: for sizes below one, a friction, step size or unit out of range, an unknown
            update, a potential that does not return one number per position; and as `StepwiseModel`
            does.

    Example:
        >>> flow = LangevinFlow(latent=4, observed=3)
        >>> flow.generate(2, torch.arange(10.0)).shape
        torch.Size([2, 10, 3])
    """

    def __init__(
        self,
        latent: int,
        observed: int,
        *,
        potential: nn.Module | None = None,
        friction: float = 1.0,
        learn_friction: bool = False,
        step_size: float = 0.1,
        substeps: int = 1,
        update: Update = "ornstein-uhlenbeck",
        prior: nn.Module | None = None,
        emission: nn.Module | None = None,
        covariates: int = 0,
        unit: float = 1.0,
    ) -> None:
        check_sizes(latent=latent, observed=observed, substeps=substeps)
        _check_numbers(friction, step_size, unit, update)
        if emission is None:
            emission = TransformerEmission(PoissonEmission(2 * latent, observed, ()), 2 * latent)
        super().__init__(
            2 * latent, observed, latent, prior=prior, emission=emission, covariates=covariates
        )
        if potential is None:
            potential = CoupledOscillators(latent, math.gcd(latent, 4))
        check_potential(potential, latent)
        self.latent = latent
        h = step_size / unit
        self.flow = _Flow(latent, potential, friction, learn_friction, h, substeps, update)
        if covariates:
            self.flow.drive = nn.Linear(covariates, latent, bias=False)
        learned = "learned" if learn_friction else f"{friction:g}"
        self._flowing = f"{update}, friction {learned}, {h:g} in {substeps} for a gap of 1"

    @property
    def potential(self) -> nn.Module:
        """U, from positions ``(..., L)`` to ``(...)``."""
        return self.flow.potential

    @property
    def friction(self) -> Tensor:
        """The friction as it stands, ``()``."""
        return self.flow.friction

    def step(self, z: Tensor, gap: Tensor, noise: Tensor, u: Tensor | None = None) -> Tensor:
        """The next [z, v]; the arguments of `StepwiseModel.step`."""
        moved: Tensor = self.flow(z, gap, noise, u)
        return moved

    def structure(self) -> dict[str, str]:
        """What equal weights do not tell: also the flow's update, friction and steps."""
        return {"dynamics": self._flowing, **super().structure()}


class _Flow(nn.Module):
    """A step of the flow; a module of its own, as to fetch parts of a PyroModule costs."""

    def __init__(
        self,
        latent: int,
        potential: nn.Module,
        friction: float,
        learn: bool,
        rate: float,
        substeps: int,
        update: Update,
    ) -> None:
        super().__init__()
        self.latent, self.rate, self.substeps = latent, rate, substeps
        self.published = update == "published"
        self.potential = potential
        self.drive: nn.Module | None = None
        start = torch.tensor(friction)
        start = start.logit() if self.published else start.log()
        # A fixed one is a buffer: nothing that thaws parameters can start to train it.
        self.free_friction: Tensor
        if learn:
            self.free_friction = nn.Parameter(start)
        else:
            self.register_buffer("free_friction", start)

    @property
    def friction(self) -> Tensor:
        return self.free_friction.sigmoid() if self.published else self.free_friction.exp()

    def forward(self, z: Tensor, gap: Tensor, noise: Tensor, u: Tensor | None) -> Tensor:
        time = self.rate * gap
        position, velocity = z[..., : self.latent], z[..., self.latent :]
        push = None if self.drive is None else self.drive(u)
        h = time / self.substeps
        for _ in range(self.substeps):
            moved = position + h * velocity
            force = -gradient(self.potential, position if self.published else moved)
            force = force if push is None else force + push
            position, velocity = moved, velocity + h * force
        velocity = self._shaken(velocity, time, noise)
        position = position.expand(velocity.shape)
        return torch.where(gap > 0, torch.cat([position, velocity], -1), z)

    def _shaken(self, velocity: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        if self.published:
            return (1 - self.friction) * velocity + (2 * self.friction).sqrt() * noise
        # at a decay of 1, or what rounds to it, the noise would have an infinite gradient
        limit = 1 - torch.finfo(time.dtype).eps
        return refresh(velocity, (-self.friction * time).exp().clamp(max=limit), noise)


def _check_numbers(friction: float, step_size: float, unit: float, update: str) -> None:
    check_numbers(friction=friction, step_size=step_size, unit=unit)
    for name, value in {"friction": friction, "step_size": step_size, "unit": unit}.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name}: expected a positive number, got {value}")
    if update not in get_args(Update):
        raise ValueError(f"update: expected one of {get_args(Update)}, got {update!r}")
    if update == "published" and friction >= 1:
        raise ValueError(f"friction: expected less than 1 for the published update, got {friction}")
