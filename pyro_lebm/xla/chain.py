"""Whole visits of overdamped Langevin steps: compiled as one.

Random numbers come from torch, drawn beforehand in the order in which the steps would draw them, so
that a seed gives the chain that the other engines give.
"""

from __future__ import annotations

import jax
import torch
from torch import Tensor

from ..dynamics import langevin
from ..dynamics.moves import Walk
from .bound import Bound, to_jax, to_torch
from .steps import State

LEAST_ROOM = 16


def visit(bound: Bound, walk: Walk, steps: int, hot: float | None, adjusted: bool) -> Walk:
    """Hot steps, MALA with adapted step sizes, or ULA, as `pyro_lebm.dynamics.moves` has them."""
    kind = "hot" if hot is not None else "mala" if adjusted else "ula"
    drawn = [_drawn(walk, kind) for _ in range(steps)]
    drawn += drawn[-1:] * (_room(steps) - steps)  # not used: compiled for some numbers of steps
    with bound.precision():
        noise, uniform = (to_jax(torch.stack(each)) for each in zip(*drawn, strict=True))
        state, step = State(*map(to_jax, walk.state)), to_jax(walk.step_size)
        rate, strength = to_jax(walk.rate), 0.0 if hot is None else hot
        run = bound.compiled.visit
        found = run(bound.constants, state, step, rate, noise, uniform, steps, strength, kind=kind)
        *parts, size, accepted = map(to_torch, jax.tree.leaves(found))
    walk = walk._replace(state=langevin.State(*parts), step_size=size)
    return walk._replace(acceptance=accepted) if kind == "mala" else walk


def _room(steps: int) -> int:
    """A power of two, so that visits of 3 to 40 steps take three compilations."""
    return max(LEAST_ROOM, 1 << (steps - 1).bit_length())


def _drawn(walk: Walk, kind: str) -> tuple[Tensor, Tensor]:
    """The noise of a step, and the uniform number of its test."""
    noise, step = torch.randn_like(walk.state.position), walk.step_size
    return noise, torch.rand_like(step) if kind == "mala" else step
