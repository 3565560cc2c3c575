"""The step size of a warm-up: Nesterov's dual averaging, and when a warm-up learns what."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# Hoffman & Gelman 2014, section 3.2.
SHRINKAGE, DELAY, FORGETTING = 0.05, 10.0, 0.75
FIRST_WINDOW, LEAST_FINAL = 20, 50


class DualAverage(NamedTuple):
    """A step size on its way: one number for all chains, or ``(*chains)``."""

    log_step: Tensor
    log_average: Tensor
    error: Tensor
    centre: Tensor
    steps: int


def dual_average(step_size: float | Tensor) -> DualAverage:
    """Start at ``step_size``; the search is centred at ten times that."""
    log_step = torch.as_tensor(step_size, dtype=torch.float64).log()
    zero = torch.zeros_like(log_step)
    return DualAverage(log_step, log_step, zero, log_step + math.log(10.0), 0)


def update(state: DualAverage, acceptance: Tensor, target: float) -> DualAverage:
    r"""One step of Nesterov's dual averaging (Hoffman & Gelman 2014, arXiv 1111.4246).

    Example:
        >>> state = dual_average(1.0)
        >>> for _ in range(200):  # an acceptance that falls with the step: .5 at a step of .693
        ...     state = update(state, (-state.log_step.exp()).exp(), target=0.5)
        >>> round(float(state.log_average.exp()), 1)
        0.7
    """
    count = state.steps + 1
    weight = 1.0 / (count + DELAY)
    error = (1 - weight) * state.error + weight * (target - acceptance.double())
    log_step = state.centre - math.sqrt(count) / SHRINKAGE * error
    share = count**-FORGETTING
    log_average = share * log_step + (1 - share) * state.log_average
    return DualAverage(log_step, log_average, error, state.centre, count)


def windows(warmup: int) -> tuple[int, ...]:
    """Steps of a warm-up after which a metric is learned from the steps since the last of them.

    They double, so that what far-off starts taught is soon forgotten; the last sixth of the
    warm-up, and no less than fifty steps, is left to the step size alone.

    Example:
        >>> windows(1000)
        (20, 60, 140, 300, 834)
        >>> windows(10)
        ()
    """
    last = warmup - max(warmup // 6, LEAST_FINAL)
    ends: list[int] = []
    end, width = 0, FIRST_WINDOW
    while end + width <= last:
        # one that cannot be followed by its double takes what is left
        end = end + width if end + 3 * width <= last else last
        ends.append(end)
        width *= 2
    return tuple(ends)
