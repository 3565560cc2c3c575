"""Langevin dynamics over batches of chains: pure functions, no Pyro, no module state.

A *target* is a function ``log_density(z)`` from positions ``(*chains, dim)`` to unnormalised log
densities ``(*chains)``. Every chain is independent of the others, so one call of autograd gives the
gradients of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

LogDensity = Callable[[Tensor], Tensor]

OPTIMAL_ACCEPTANCE = 0.574
"""The acceptance at which MALA mixes fastest in high dimension (Roberts & Rosenthal 1998)."""


LARGEST_ERROR = 50.0  # nats
STEP_BOUNDS = (1e-6, 1e3)


class State(NamedTuple):
    """Positions ``(*chains, dim)`` with the target's log density ``(*chains)`` and its gradient."""

    position: Tensor
    log_density: Tensor
    gradient: Tensor


def evaluate(log_density: LogDensity, position: Tensor) -> State:
    """Evaluate a target and its gradient at ``position``; nothing returned carries a graph.

    A non-finite log density becomes -inf and its gradient 0, so that an adjusted step rejects it.

    Raises:
        ValueError: if the target's shape is not ``position.shape[:-1]``.
    """
    # Sampling happens under no_grad (Predictive) and inference_mode too; both are lifted here.
    with torch.inference_mode(False), torch.enable_grad():
        z = position.detach().clone().requires_grad_(True)
        value = log_density(z)
        if value.shape != z.shape[:-1]:
            raise ValueError(
                f"log_density: expected one number per chain, shape {tuple(z.shape[:-1])}, "
                f"got shape {tuple(value.shape)}"
            )
        gradient = torch.zeros_like(z)
        if value.requires_grad:
            (found,) = torch.autograd.grad(value.sum(), z, allow_unused=True)
            gradient = gradient if found is None else found
    return State(z.detach(), *finite(value.detach(), gradient.detach()))


def finite(value: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Replace non-finite log densities by -inf and the gradients there by 0."""
    good = torch.isfinite(value) & torch.isfinite(gradient).all(-1)
    return (
        torch.where(good, value, torch.full_like(value, -math.inf)),
        torch.where(good.unsqueeze(-1), gradient, torch.zeros_like(gradient)),
    )


def where_finite(new: State, old: State, error: Tensor) -> tuple[State, Tensor]:
    """``new`` where its density is positive, elsewhere ``old``; where that is, ``(*chains, 1)``.

    For unadjusted steps, which no acceptance keeps inside: one whose energy error is fifty nats
    has left where the integrator is stable, gains speed with each further step, and is not taken.
    """
    inside = torch.isfinite(new.log_density) & (error < LARGEST_ERROR)
    return _chosen(inside, new, old), inside.unsqueeze(-1)


def _chosen(taken: Tensor, new: State, old: State) -> State:
    """``new`` where ``taken`` ``(*chains)``, elsewhere ``old``."""
    wide = taken.unsqueeze(-1)
    return State(
        torch.where(wide, new.position, old.position),
        torch.where(taken, new.log_density, old.log_density),
        torch.where(wide, new.gradient, old.gradient),
    )


def check_step_size(step_size: float | Tensor) -> None:
    """Refuse a step size that is not positive.

    Raises:
        ValueError: naming the value.
    """
    smallest = float(torch.as_tensor(step_size).min())
    if not smallest > 0:
        raise ValueError(f"step_size: expected a positive number, got {smallest}")


def spread(step_size: float | Tensor, position: Tensor) -> Tensor:
    """A step size per chain ``(*chains)`` or one for all, ready to multiply positions."""
    step = torch.as_tensor(step_size, dtype=position.dtype, device=position.device)
    return step.unsqueeze(-1) if step.ndim else step


def propose(state: State, step_size: float | Tensor, scale: float | Tensor = 1.0) -> Tensor:
    r"""One Euler-Maruyama step of overdamped Langevin dynamics.

    .. math:: z' = z + \tfrac{s^2}{2} C \nabla\log p(z) + s\, C^{1/2} \varepsilon,
              \quad C = \mathrm{diag}(c^2)

    Args:
        state: the chains.
        step_size: the noise's standard deviation ``s``, one for all chains or ``(*chains)``.
        scale: diagonal preconditioner ``c``, broadcastable to the positions.
    """
    s = spread(step_size, state.position) * scale
    noise = torch.randn_like(state.position)
    return state.position + 0.5 * s * s * state.gradient + s * noise


def ula_step(
    log_density: LogDensity,
    state: State,
    step_size: float | Tensor,
    scale: float | Tensor = 1.0,
) -> State:
    """One unadjusted Langevin step (Roberts & Tweedie 1996): biased by its step size.

    Example:
        >>> target = lambda z: -0.5 * (z**2).sum(-1)
        >>> state = evaluate(target, torch.zeros(4, 2))
        >>> ula_step(target, state, 0.1).position.shape
        torch.Size([4, 2])
    """
    return evaluate(log_density, propose(state, step_size, scale))


def mala_step(
    log_density: LogDensity,
    state: State,
    step_size: float | Tensor,
    scale: float | Tensor = 1.0,
) -> tuple[State, Tensor]:
    """One Metropolis-adjusted Langevin step: leaves the target invariant at any step size.

    Returns:
        the new state and each chain's acceptance probability ``(*chains)``.

    Example:
        >>> target = lambda z: -0.5 * (z**2).sum(-1)
        >>> state = evaluate(target, torch.zeros(4, 2))
        >>> state, acceptance = mala_step(target, state, 0.5)
        >>> acceptance.shape
        torch.Size([4])
    """
    state, probability, _ = mala_move(log_density, state, step_size, scale)
    return state, probability


def mala_move(
    log_density: LogDensity,
    state: State,
    step_size: float | Tensor,
    scale: float | Tensor = 1.0,
) -> tuple[State, Tensor, Tensor]:
    """`mala_step`, with the log of the acceptance ratio, which may lie above 0, as well."""
    new = evaluate(log_density, propose(state, step_size, scale))
    log_ratio = log_acceptance(state, new, step_size, scale)
    return *accept(state, new, log_ratio), log_ratio


def log_acceptance(
    old: State, new: State, step_size: float | Tensor, scale: float | Tensor = 1.0
) -> Tensor:
    """Log of the Metropolis-Hastings ratio of a Langevin proposal ``old -> new``, per chain."""
    s = spread(step_size, old.position) * scale

    def log_kernel(a: State, b: State) -> Tensor:
        residual = (b.position - a.position - 0.5 * s * s * a.gradient) / s
        return -0.5 * (residual * residual).sum(-1)

    return new.log_density - old.log_density + log_kernel(new, old) - log_kernel(old, new)


def accept(old: State, new: State, log_ratio: Tensor) -> tuple[State, Tensor]:
    """Keep ``new`` with probability min(1, exp(log_ratio)), chain by chain; NaN rejects."""
    # A chain that starts where the target is -inf or NaN may move anywhere finite.
    stuck = torch.isinf(old.log_density) & torch.isfinite(new.log_density)
    probability = torch.nan_to_num(log_ratio.clamp(max=0.0).exp(), nan=0.0)
    probability = torch.where(stuck, torch.ones_like(probability), probability)
    probability = torch.where(
        torch.isfinite(new.log_density), probability, torch.zeros_like(probability)
    )
    return _chosen(torch.rand_like(probability) < probability, new, old), probability


def hot_step_size(gradient: Tensor, strength: float) -> Tensor:
    r"""A step for chains far from their mode: short where the gradient is steep, per chain.

    With :math:`h = c / (1 + \mathrm{rms}\,\nabla)` the step is :math:`s = \sqrt{2h}`: the drift
    moves each coordinate by about ``c`` however steep the target, which an adjusted step from a bad
    start would not dare. Near the mode it is too hot; adjusted steps take over there.

    Example:
        >>> hot_step_size(torch.zeros(3, 2), 0.5)
        tensor([1., 1., 1.])
    """
    rms = gradient.pow(2).mean(-1).sqrt()
    return (2 * strength / (1 + rms)).sqrt()


def adapt(
    step_size: Tensor,
    acceptance: Tensor,
    *,
    rate: float | Tensor = 0.1,
    target: float = OPTIMAL_ACCEPTANCE,
    bounds: tuple[float, float] = STEP_BOUNDS,
) -> Tensor:
    r"""Stochastic approximation of the step size: :math:`\log s \leftarrow \log s + r (a - a^*)`.

    Adaptation with a fixed rate does not leave the target exactly invariant; stop adapting before
    draws are kept.

    Example:
        >>> adapt(torch.tensor([1.0]), torch.tensor([0.574]))
        tensor([1.])
    """
    return (step_size * (rate * (acceptance - target)).exp()).clamp(*bounds)
