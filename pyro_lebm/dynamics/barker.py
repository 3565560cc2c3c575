"""Barker's proposal over batches of chains: a gradient that chooses the sign of a random step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .langevin import LogDensity, State, accept, evaluate, spread

OPTIMAL_ACCEPTANCE = 0.4
"""Livingstone & Zanella 2022 take it for their adaptive version."""


def barker_step(
    log_density: LogDensity, state: State, step_size: float | Tensor
) -> tuple[State, Tensor, Tensor]:
    r"""One Metropolis-adjusted Barker step (Livingstone & Zanella 2022, arXiv 1908.11812).

    Each coordinate's increment :math:`w \sim N(0, s^2)` keeps its sign with probability
    :math:`1 / (1 + e^{-w g}),\ g = \nabla\log p`: however steep the target, a step is of size s.
    Accepted with probability

    .. math:: \min\Big(1, \frac{p(y)}{p(x)} \prod_i
              \frac{1 + e^{-w_i g_i(x)}}{1 + e^{w_i g_i(y)}}\Big),\quad w = y - x.

    Args:
        log_density: the target.
        state: the chains.
        step_size: the increment's standard deviation s, one for all chains or ``(*chains)``.

    Returns:
        the new state, each chain's acceptance probability, and the log of the ratio in it,
        ``(*chains)`` each.

    Example:
        >>> target = lambda z: -0.5 * (z**2).sum(-1)
        >>> state, acceptance, log_ratio = barker_step(
        ...     target, evaluate(target, torch.zeros(4, 2)), 0.5
        ... )
        >>> acceptance.shape
        torch.Size([4])
    """
    noise = torch.randn_like(state.position) * spread(step_size, state.position)
    forward = torch.rand_like(noise) < torch.sigmoid(noise * state.gradient)
    w = torch.where(forward, noise, -noise)
    new = evaluate(log_density, state.position + w)
    correction = (softplus(-w * state.gradient) - softplus(w * new.gradient)).sum(-1)
    log_ratio = new.log_density - state.log_density + correction
    return *accept(state, new, log_ratio), log_ratio
