"""How much of a value is left at each level of noise, and the steps between levels."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple, overload

import torch
from torch import Tensor

CLEAN = 1e-4  # share of noise at level 0, and of the value at level 1
FLOOR = 1e-3  # standard deviation that a chain's last step has at least
FIRST, LAST = math.asin(CLEAN**0.5), math.acos(CLEAN**0.5)


@overload
def alpha_bar(level: float) -> float: ...
@overload
def alpha_bar(level: Tensor) -> Tensor: ...
def alpha_bar(level: float | Tensor) -> float | Tensor:
    r"""The share of a value's variance that is left at a level.

    .. math:: u_s = \sqrt{\bar\alpha_s}\, x + \sqrt{1 - \bar\alpha_s}\, \varepsilon, \qquad
              \bar\alpha_s = \cos^2(\theta_0 + s (\theta_1 - \theta_0))

    (cosine schedule of Nichol & Dhariwal 2021, arXiv 2102.09672, in continuous levels). Its ends,
    ours, leave one part in ten thousand: of noise at s = 0, of the value at s = 1.

    Args:
        level: s in [0, 1], a number or a tensor of any shape.

    Example:
        >>> [round(alpha_bar(s), 4) for s in (0.0, 0.5, 1.0)]
        [0.9999, 0.5, 0.0001]
    """
    if isinstance(level, Tensor):
        return torch.cos(FIRST + level * (LAST - FIRST)).square()
    return math.cos(angle(level)) ** 2


def angle(level: float) -> float:
    """theta of a level, where u = cos(theta) x + sin(theta) noise, in radians."""
    return FIRST + level * (LAST - FIRST)


def levels(steps: int) -> tuple[float, ...]:
    """The S + 1 evenly spaced levels of a sampler of S steps, from 0 to 1.

    A denoiser learned on all of [0, 1] serves any number of steps. The library's own trainings look
    at these levels alone, but for 0, at the S that the model then has: another S asks about levels
    that the denoiser has met only where it divides that one.

    Raises:
        ValueError: for fewer than one step.

    Example:
        >>> levels(4)
        (0.0, 0.25, 0.5, 0.75, 1.0)
    """
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    return tuple(s / steps for s in range(steps + 1))


class Weights(NamedTuple):
    """A step's mean ``pull * clean + keep * u`` and its own standard deviation."""

    pull: float
    keep: float
    sigma: float


def weights(a_from: float, a_to: float, eta: float) -> Weights:
    r"""Those of an implicit step (Song, Meng & Ermon 2021, arXiv 2010.02502).

    .. math:: \sigma = \eta \sqrt{\frac{1 - a'}{1 - a}} \sqrt{1 - \frac{a}{a'}}, \quad
              u' = \sqrt{a'}\, \hat x + \sqrt{1 - a' - \sigma^2}
              \frac{u - \sqrt{a}\, \hat x}{\sqrt{1 - a}} + \sigma n

    Args:
        a_from: a, the share left before the step.
        a_to: a', the share left after it; at 1 the step lands on the clean value itself.
        eta: 0 for no randomness, 1 for that of ancestral sampling.
    """
    sigma = eta * math.sqrt((1 - a_to) / (1 - a_from) * (1 - a_from / a_to))
    keep = math.sqrt(max(1 - a_to - sigma**2, 0.0) / (1 - a_from))
    return Weights(math.sqrt(a_to) - keep * math.sqrt(a_from), keep, sigma)


class Step(NamedTuple):
    """One step down: from where, its weights, and its deviation if nothing else is known."""

    level: float
    a: float
    pull: float
    keep: float
    sigma: float
    alone: float


@lru_cache(maxsize=128)
def steps_down(steps: int, eta: float) -> tuple[Step, ...]:
    """The steps of a sampler from level 1 down to the value itself, which is the last one's end.

    The last has the deviation ``FLOOR`` beside the denoiser's own; where that is not known, the one
    that a value far wider than the noise has given the last level, sqrt((1 - a) / a).
    """
    scale = levels(steps)
    found = []
    for s in range(steps, 0, -1):
        a = alpha_bar(scale[s])
        step = weights(a, alpha_bar(scale[s - 1]) if s > 1 else 1.0, eta)
        last = s == 1
        sigma, alone = (FLOOR, math.sqrt((1 - a) / a)) if last else (step.sigma, step.sigma)
        found.append(Step(scale[s], a, step.pull, step.keep, sigma, alone))
    return tuple(found)
