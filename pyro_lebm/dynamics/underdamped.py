"""Underdamped Langevin dynamics over batches of chains: positions with velocities of unit mass.

Preconditioning is not here: run a chain in whitened coordinates instead. A step size is a time, and
friction an inverse time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .langevin import LogDensity, State, accept, evaluate, spread, where_finite


def refresh(velocity: Tensor, decay: Tensor, noise: Tensor | None = None) -> Tensor:
    r"""An exact Ornstein-Uhlenbeck step: :math:`v' = c v + \sqrt{1 - c^2}\,\varepsilon`.

    Args:
        velocity: ``(*chains, dim)``.
        decay: :math:`c = e^{-\gamma t}` for friction :math:`\gamma` over a time t, broadcastable.
        noise: the standard normal :math:`\varepsilon`, where it is not to be drawn here.

    Example:
        >>> refresh(torch.ones(4, 2), torch.tensor(1.0)).tolist()[0]
        [1.0, 1.0]
    """
    noise = torch.randn_like(velocity) if noise is None else noise
    return decay * velocity + (1 - decay * decay).sqrt() * noise


def leapfrog(
    log_density: LogDensity, state: State, velocity: Tensor, step_size: float | Tensor
) -> tuple[State, Tensor, Tensor]:
    """One velocity Verlet step.

    Returns:
        the new state, the new velocity, and the error of the energy ``(*chains)``: NaN or inf where
        the step left the density.

    Example:
        >>> target = lambda z: -0.5 * (z**2).sum(-1)
        >>> state, velocity = evaluate(target, torch.ones(4, 2)), torch.zeros(4, 2)
        >>> _, _, error = leapfrog(target, state, velocity, 0.01)
        >>> bool((error.abs() < 1e-4).all())
        True
    """
    h = spread(step_size, state.position)
    half = velocity + 0.5 * h * state.gradient
    new = evaluate(log_density, state.position + h * half)
    after = half + 0.5 * h * new.gradient
    error = state.log_density - new.log_density + kinetic(after) - kinetic(velocity)
    return new, after, error


def kinetic(velocity: Tensor) -> Tensor:
    """Kinetic energy ``(*chains)`` of velocities ``(*chains, dim)``."""
    return 0.5 * (velocity * velocity).sum(-1)


def baoab_step(
    log_density: LogDensity,
    state: State,
    velocity: Tensor,
    step_size: float | Tensor,
    friction: float | Tensor = 1.0,
) -> tuple[State, Tensor, Tensor]:
    r"""One unadjusted BAOAB step (Leimkuhler & Matthews 2013, arXiv 1203.5428).

    Half a kick, half a drift, the noise, half a drift, half a kick: exact in the variance of a
    Gaussian target's positions whatever the step, and biased by its square elsewhere. A chain that
    would leave the density stays where it is, with a new velocity.

    Returns:
        the new state, the new velocity, and the error of the energy ``(*chains)``, the noise's own
        work apart: a Metropolis test would accept the step with probability exp(-error).

    Example:
        >>> target = lambda z: -0.5 * (z**2).sum(-1)
        >>> state, velocity = evaluate(target, torch.zeros(4, 2)), torch.zeros(4, 2)
        >>> state, velocity, error = baoab_step(target, state, velocity, 0.5)
        >>> state.position.shape
        torch.Size([4, 2])
    """
    h = spread(step_size, state.position)
    before = velocity + 0.5 * h * state.gradient
    middle = state.position + 0.5 * h * before
    after = refresh(before, (-friction * h).exp())
    new = evaluate(log_density, middle + 0.5 * h * after)
    v = after + 0.5 * h * new.gradient
    work = kinetic(v) - kinetic(after) + kinetic(before) - kinetic(velocity)
    error = state.log_density - new.log_density + work
    kept, inside = where_finite(new, state, error)
    return kept, torch.where(inside, v, torch.randn_like(v)), error


def malt_step(
    log_density: LogDensity,
    state: State,
    step_size: float | Tensor,
    *,
    friction: float | Tensor = 1.0,
    steps: int = 8,
) -> tuple[State, Tensor, Tensor, Tensor]:
    r"""One Metropolis-adjusted Langevin trajectory (Riou-Durand & Vogrinc 2022, arXiv 2202.13230).

    The velocity is drawn anew; ``steps`` OBABO steps follow; the whole trajectory is accepted with
    probability :math:`\min(1, e^{-\sum\Delta})`, the sum over the leapfrog parts' errors alone. At
    friction 0 it is Hamiltonian Monte Carlo.

    Returns:
        the new state; each chain's acceptance probability, summed energy error, and Hamiltonian
        at the beginning, ``(*chains)`` each.

    Example:
        >>> target = lambda z: -0.5 * (z**2).sum(-1)
        >>> start = evaluate(target, torch.zeros(4, 2))
        >>> state, acceptance, error, energy = malt_step(target, start, 0.3)
        >>> acceptance.shape, error.shape
        (torch.Size([4]), torch.Size([4]))
    """
    h = spread(step_size, state.position)
    decay = (-0.5 * friction * h).exp()
    velocity = torch.randn_like(state.position)
    energy = kinetic(velocity) - state.log_density
    new, total = state, torch.zeros_like(state.log_density)
    for _ in range(steps):
        velocity = refresh(velocity, decay)
        new, velocity, error = leapfrog(log_density, new, velocity, step_size)
        total = total + error
        velocity = refresh(velocity, decay)
    kept, probability = accept(state, new, -total)
    return kept, probability, total, energy
