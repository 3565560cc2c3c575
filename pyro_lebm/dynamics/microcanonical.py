"""Microcanonical Langevin dynamics over batches of chains: velocities of unit length."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .langevin import LogDensity, State, evaluate, spread, where_finite


def random_direction(position: Tensor) -> Tensor:
    """Uniform unit vectors of ``position``'s shape."""
    return _unit(torch.randn_like(position))


def _unit(x: Tensor) -> Tensor:
    size: Tensor = x.norm(dim=-1, keepdim=True)
    return x / size.clamp(min=torch.finfo(x.dtype).tiny)


def turn(direction: Tensor, gradient: Tensor, step_size: Tensor) -> tuple[Tensor, Tensor]:
    r"""Turn unit velocities towards the gradient of log p for a time h, ``(*chains, 1)``.

    With :math:`e = g/|g|` and :math:`\delta = h |g| / (d - 1)`

    .. math:: u' = \frac{u + e\,(\sinh\delta + (e \cdot u)(\cosh\delta - 1))}
                        {\cosh\delta + (e \cdot u) \sinh\delta}.

    Returns:
        the directions, and the change of the kinetic energy :math:`(d-1) \log` of the denominator.
    """
    dim = direction.shape[-1]
    strength = gradient.norm(dim=-1, keepdim=True)
    e = gradient / strength.clamp(min=torch.finfo(gradient.dtype).tiny)
    along = (e * direction).sum(-1, keepdim=True)
    delta = step_size * strength / (dim - 1)
    # All divided by exp(delta): nothing overflows on a steep slope.
    zeta = (-delta).exp()
    new = e * (1 - zeta) * (1 + zeta + along * (1 - zeta)) + 2 * zeta * direction
    change = delta - math.log(2.0) + (1 + along + (1 - along) * zeta**2).log()
    return _unit(new), (dim - 1) * change.squeeze(-1)


def mclmc_step(
    log_density: LogDensity,
    state: State,
    direction: Tensor,
    step_size: float | Tensor,
    length: float | Tensor,
) -> tuple[State, Tensor, Tensor]:
    r"""One unadjusted step of microcanonical Langevin Monte Carlo (Robnik & Seljak 2023, arXiv
    2303.18221).

    Half a turn, a drift, half a turn, and a partial refreshment of the direction that forgets it
    over the distance ``length``. Biased by the square of its step; the variance of the energy error
    over the dimension says how much. Needs at least two dimensions.

    Returns:
        the new state, the new direction, and the error of the energy ``(*chains)``.

    Raises:
        ValueError: one dimension, in which a unit velocity cannot turn.

    Example:
        >>> target = lambda z: -0.5 * (z**2).sum(-1)
        >>> state = evaluate(target, torch.zeros(4, 2))
        >>> state, direction, error = mclmc_step(
        ...     target, state, random_direction(state.position), 0.1, 1.4
        ... )
        >>> bool((direction.norm(dim=-1) - 1).abs().max() < 1e-5)
        True
    """
    dim = state.position.shape[-1]
    if dim < 2:
        raise ValueError(f"position: expected at least 2 dimensions, got {dim}")
    h = torch.ones_like(state.position[..., :1]) * spread(step_size, state.position)
    u, first = turn(direction, state.gradient, 0.5 * h)
    new = evaluate(log_density, state.position + h * u)
    u, second = turn(u, new.gradient, 0.5 * h)
    error = state.log_density - new.log_density + first + second
    kept, inside = where_finite(new, state, error)
    noise = (torch.expm1(2 * h / spread(length, state.position)) / dim).sqrt()
    u = _unit(u + noise * torch.randn_like(u))
    return kept, torch.where(inside, u, random_direction(u)), error
