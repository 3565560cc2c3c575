"""Values out of noise by Langevin dynamics at falling levels of noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .denoising import Denoise, clean_of
from .schedule import FIRST, LAST, alpha_bar, angle

TOP = 0.9  # the first level: above it there is nothing but noise


def score(denoise: Denoise, u: Tensor, level: Tensor) -> Tensor:
    r"""The gradient of the log density of noisy values, by Tweedie's formula.

    .. math:: \nabla \log p_s(u) = \frac{\sqrt{\bar\alpha_s}\, E[x \mid u] - u}{1 - \bar\alpha_s}

    Example:
        >>> score(lambda u, level: 0 * u, torch.ones(2), torch.tensor([0.5])).round(decimals=3)
        tensor([-2., -2.])
    """
    a = alpha_bar(level)
    return (a.sqrt() * clean_of(denoise(u, level)) - u) / (1 - a)


def annealed_langevin(
    denoise: Denoise,
    start: Tensor,
    levels: int = 10,
    steps: int = 100,
    step_size: float = 1.0,
) -> Tensor:
    r"""A value out of noise by annealed Langevin dynamics (Song & Ermon 2019, arXiv 1907.05600).

    At each level, ``steps`` unadjusted steps :math:`u \leftarrow u + \frac{h}{2} \nabla \log p_s(u)
    + \sqrt{h}\, n` with :math:`h` a multiple of the noise's variance :math:`1 - \bar\alpha_s`. From
    level to level the ratio of noise to value falls by one factor, and :math:`u / \sqrt{\bar
    \alpha}` stays; the result is the prediction at level 0. A slow peer of `implicit`, whose
    variance is a few hundredths too wide: what the last levels have no time to take off.

    Args:
        denoise: ``(u, level) -> clean value``, or a pair whose first is that.
        start: standard normal ``(..., L)``.
        levels: how many levels of noise.
        steps: steps at each.
        step_size: h over the noise's variance.

    Raises:
        ValueError: for fewer than two levels or one step, or a step size that is not in (0, 4).

    Example:
        >>> annealed_langevin(lambda u, s: torch.ones_like(u), torch.randn(3), levels=2, steps=1)
        tensor([1., 1., 1.])
    """
    if levels < 2 or steps < 1:
        raise ValueError(
            f"levels, steps: expected at least 2 and 1, got {levels} levels and {steps} steps"
        )
    if not 0 < step_size < 4:
        raise ValueError(f"step_size: expected a number in (0, 4), got {step_size}")
    ratios = torch.linspace(math.log(math.tan(angle(TOP))), math.log(math.tan(FIRST)), levels)
    u, at, last = start, start.new_zeros(1), None
    for value in ((ratios.exp().atan() - FIRST) / (LAST - FIRST)).tolist():
        at = start.new_full((1,), max(value, 0.0))
        a = alpha_bar(at)
        u = u if last is None else u * (a / last).sqrt()
        h, last = step_size * (1 - a), a
        for _ in range(steps):
            u = u + 0.5 * h * score(denoise, u, at) + h.sqrt() * torch.randn_like(u)
    return clean_of(denoise(u, at))
