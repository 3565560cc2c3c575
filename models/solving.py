"""How a model's trajectories are solved: settings that make sense, a step that still fits."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from pyro_lebm.trajectories.ode import FIRST_STEPS, step_error
from pyro_lebm.trajectories.solvers import ADAPTIVE, FIXED, Field


class Solved(Protocol):
    """What a model says of its solver."""

    t0: float
    method: str
    tolerance: float
    step_size: Tensor


def fits(model: Solved, field: Field, z0: Tensor, times: Tensor) -> bool:
    """Whether a step's error is between a third of the tolerance and all of it.

    Below that a longer step would do, unless it is the longest that a search finds.
    """
    span, step = float(times.max()) - model.t0, float(model.step_size)
    if not span > 0 or step != step:
        return False
    error = step_error(field, z0, times, step, t0=model.t0, method=model.method)
    longest = step * (FIRST_STEPS + 0.5) > span
    return error <= model.tolerance and (longest or error >= model.tolerance / 3)


def check_solver(method: str, tolerance: float, adjoint: bool, recompute: bool) -> None:
    """Refuse settings of a solver that contradict each other."""
    if method not in FIXED and method not in ADAPTIVE:
        raise ValueError(f"method: expected one of {[*FIXED, *ADAPTIVE]}, got {method!r}")
    if not tolerance > 0:
        raise ValueError(f"tolerance: expected a positive number, got {tolerance}")
    if adjoint and method not in ADAPTIVE:
        raise ValueError(f"adjoint: expected one of torchdiffeq's methods, got {method!r}")
    if recompute and method not in FIXED:
        raise ValueError(f"recompute: expected one of {[*FIXED]}, got {method!r}")
