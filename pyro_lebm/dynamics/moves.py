"""A visit to persistent chains: some Langevin steps of one kind, the step size adapted on the way.

Each function takes and returns a `Walk`; the target is held fixed within a visit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .langevin import (
    LogDensity,
    State,
    adapt,
    evaluate,
    hot_step_size,
    log_acceptance,
    mala_step,
    propose,
    spread,
    ula_step,
    where_finite,
)
from .underdamped import baoab_step, malt_step

Dynamics = Literal["overdamped", "underdamped"]
Visit = Callable[[LogDensity, "Walk", int], "Walk"]

Whole = Callable[["Walk", int, float | None, bool], "Walk"]
"""A visit of overdamped steps as one compiled function, by how hot and whether adjusted."""

FASTEST = 0.1  # rate of adaptation
MALT_ACCEPTANCE = 0.8  # of a whole trajectory, as `inference.MALT` has it
UNADJUSTED_ACCEPTANCE = 0.95  # of a test that is not made, as `inference.Underdamped` has it


def adaptation_rate(steps: Tensor, moving: float = 0.0) -> Tensor:
    r"""How fast step sizes adapt that were adapted over n steps before, ``(*chains)``.

    .. math:: r_n = 0.1 \max\{(1 + n / 10)^{-1/2},\; m\}

    A step that follows its own chain biases it, in proportion to the rate (Andrieu & Thoms 2008):
    at a constant .1 the variance of a normal came out 6 % too small. A rate that fell to nothing
    would lose a density that moves, as it does while a model learns: m, from 0 to 1, says how fast.

    Example:
        >>> adaptation_rate(torch.tensor([0, 30, 1000]), moving=0.2)
        tensor([0.1000, 0.0500, 0.0200])
    """
    return FASTEST * (1.0 + steps / 10.0).rsqrt().clamp(min=moving)


class Walk(NamedTuple):
    """Where chains are, and what moves them.

    Attributes:
        state: positions, log densities, gradients.
        velocity: ``(*chains, dim)``; overdamped steps leave it as it is.
        step_size: ``(*chains)``.
        rate: of the step sizes' adaptation, ``(*chains)``; zero: they stay as they are.
        acceptance: ``(*chains)``: the mean probability of acceptance over the visit, NaN where no
            test was asked for. Of unadjusted steps it is that of a test not made.
    """

    state: State
    velocity: Tensor
    step_size: Tensor
    rate: Tensor
    acceptance: Tensor


def hot(strength: float) -> Visit:
    """Unadjusted overdamped steps of a strength, see `hot_step_size`."""

    def visit(target: LogDensity, walk: Walk, steps: int) -> Walk:
        state = walk.state
        for _ in range(steps):
            state = ula_step(target, state, hot_step_size(state.gradient, strength))
        return walk._replace(state=state)

    return visit


def mala(target: LogDensity, walk: Walk, steps: int) -> Walk:
    """Metropolis-adjusted overdamped steps."""
    state, step, accepted = walk.state, walk.step_size, torch.zeros_like(walk.step_size)
    for _ in range(steps):
        state, probability = mala_step(target, state, step)
        accepted += probability / steps
        step = adapt(step, probability, rate=walk.rate)
    return walk._replace(state=state, step_size=step, acceptance=accepted)


def ula(target: LogDensity, walk: Walk, steps: int) -> Walk:
    """Unadjusted overdamped steps of the stored size."""
    state = walk.state
    for _ in range(steps):
        state = ula_step(target, state, walk.step_size)
    return walk._replace(state=state)


def tested_ula(target: LogDensity, walk: Walk, steps: int) -> Walk:
    """Unadjusted overdamped steps, their size adapted by the test that is not made."""
    state, step, accepted = walk.state, walk.step_size, torch.zeros_like(walk.step_size)
    for _ in range(steps):
        new = evaluate(target, propose(state, step))
        error = -log_acceptance(state, new, step)
        state, _ = where_finite(new, state, error)
        probability = _probability(error)
        accepted += probability / steps
        step = _adapt_unadjusted(step, probability, walk.rate)
    return walk._replace(state=state, step_size=step, acceptance=accepted)


def malt(friction: float) -> Visit:
    """One adjusted trajectory, see `malt_step`; its velocity is drawn anew, the walk's is kept."""

    def visit(target: LogDensity, walk: Walk, steps: int) -> Walk:
        step = walk.step_size
        gamma = friction / spread(step, walk.state.position)
        state, probability, *_ = malt_step(target, walk.state, step, friction=gamma, steps=steps)
        rate = walk.rate * math.sqrt(steps)  # one test for many steps: it tells more
        step = adapt(step, probability, rate=rate, target=MALT_ACCEPTANCE)
        return walk._replace(state=state, step_size=step, acceptance=probability)

    return visit


def baoab(friction: float) -> Visit:
    """Unadjusted underdamped steps, see `baoab_step`, from the velocity that the chains had."""

    def visit(target: LogDensity, walk: Walk, steps: int) -> Walk:
        state, velocity, step, *_ = walk
        accepted = torch.zeros_like(step)
        for _ in range(steps):
            gamma = friction / spread(step, state.position)
            state, velocity, error = baoab_step(target, state, velocity, step, gamma)
            probability = _probability(error)
            accepted += probability / steps
            step = _adapt_unadjusted(step, probability, walk.rate)
        return walk._replace(state=state, velocity=velocity, step_size=step, acceptance=accepted)

    return visit


def _adapt_unadjusted(step_size: Tensor, probability: Tensor, rate: Tensor) -> Tensor:
    # Near .95 a test tells less of the step than near MALA's .574, and scatters less.
    return adapt(step_size, probability, rate=4 * rate, target=UNADJUSTED_ACCEPTANCE)


def _probability(error: Tensor) -> Tensor:
    """Of accepting a step of this energy error."""
    return (-error).clamp(max=0.0).exp().nan_to_num(nan=0.0)
