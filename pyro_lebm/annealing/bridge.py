"""A geometric bridge between two densities, and clouds of particles that move along it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..dynamics.langevin import State, accept, finite, log_acceptance, propose

Path = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Positions ``(particles, *problems, dim)`` to (log start, log target), each without ``dim``."""


class Cloud(NamedTuple):
    """Particles with value and gradient at both ends: a new temperature costs nothing."""

    position: Tensor
    start: Tensor
    target: Tensor
    start_gradient: Tensor
    target_gradient: Tensor

    @property
    def gain(self) -> Tensor:
        """Log target over log start; -inf where it is not finite, as where neither has density."""
        return _finite_or_nothing(self.target - self.start)

    @property
    def loss(self) -> Tensor:
        """Log start over log target, for the way back; -inf where it is not finite."""
        return _finite_or_nothing(self.start - self.target)

    def at(self, temperature: Tensor) -> State:
        r"""The chains of :math:`p_0^{1-\lambda} p_1^{\lambda}`, at a temperature per problem."""
        value = torch.lerp(self.start, self.target, temperature)
        # lerp of -inf is NaN where the weight is 0; `finite` makes both a rejection
        slope = torch.lerp(self.start_gradient, self.target_gradient, temperature.unsqueeze(-1))
        return State(self.position, *finite(value, slope))

    def take(self, index: Tensor) -> Cloud:
        """The particles at ``index`` (particles, problems), problem by problem."""
        wide = index.unsqueeze(-1).expand_as(self.position)
        return Cloud(*(x.gather(0, wide if x.ndim == wide.ndim else index) for x in self))

    def where(self, taken: Tensor, other: Cloud) -> Cloud:
        """This cloud's particles where ``taken``, the other's elsewhere."""
        wide = taken.unsqueeze(-1)
        return Cloud(
            *(
                torch.where(wide if a.ndim > taken.ndim else taken, a, b)
                for a, b in zip(self, other, strict=True)
            )
        )


def evaluate(path: Path, position: Tensor) -> Cloud:
    """Both ends of a path, and their gradients, at positions; nothing carries a graph."""
    with torch.inference_mode(False), torch.enable_grad():
        z = position.detach().clone().requires_grad_(True)
        log_start, log_target = path(z)
        check_ends(z.shape[:-1], log_start, log_target)
        start_gradient = _gradient(log_start, z)
        target_gradient = _gradient(log_target, z)
    return Cloud(
        z.detach(), log_start.detach(), log_target.detach(), start_gradient, target_gradient
    )


def _finite_or_nothing(log_weight: Tensor) -> Tensor:
    # a particle where its own end has no density, which is no draw of that, weighs nothing either
    nothing = torch.full_like(log_weight, -torch.inf)
    return torch.where(torch.isfinite(log_weight), log_weight, nothing)


def check_ends(shape: torch.Size, *ends: Tensor) -> None:
    """Refuse log densities of another shape than the particles'."""
    for end in ends:
        if end.shape != shape:
            raise ValueError(
                f"path: expected log densities of shape {tuple(shape)}, got {tuple(end.shape)}"
            )


def _gradient(value: Tensor, z: Tensor) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(z)
    (found,) = torch.autograd.grad(value.sum(), z, retain_graph=True, allow_unused=True)
    return torch.zeros_like(z) if found is None else found


def move(
    path: Path, cloud: Cloud, temperature: Tensor, step_size: Tensor, scale: Tensor
) -> tuple[Cloud, Tensor]:
    """One adjusted Langevin step, which leaves the density at the temperature invariant.

    Args:
        temperature, step_size: per problem.
        scale: diagonal preconditioner, per problem and dimension.

    Returns:
        the moved cloud, and each particle's acceptance probability.
    """
    old = cloud.at(temperature)
    proposal = evaluate(path, propose(old, step_size, scale))
    new = proposal.at(temperature)
    kept, probability = accept(old, new, log_acceptance(old, new, step_size, scale))
    taken = (kept.position == new.position).all(-1)
    return proposal.where(taken, cloud), probability
