"""Trajectories at integer or infinite times, and what a solver that gives up raises."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyro_lebm.trajectories.ode import SolverError, choose_step, trajectory


def decay(t: Tensor, z: Tensor) -> Tensor:
    return -z


def fast(t: Tensor, z: Tensor) -> Tensor:
    """Far more turns than 4096 steps can follow, yet finite."""
    return 2e3 * torch.stack([z[..., 1], -z[..., 0]], dim=-1)


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_integer_times_keep_a_start_between_them(dtype: torch.dtype, method: str) -> None:
    times = torch.tensor([1, 2, 3])
    path = trajectory(
        decay, torch.ones(1, 1, dtype=dtype), times, t0=0.5, method=method, tolerance=1e-5
    )
    assert path.dtype == dtype
    assert torch.allclose(path[0, :, 0], (0.5 - times).exp().to(dtype), atol=2e-3)


def test_a_step_for_integer_times() -> None:
    z0 = torch.ones(1, 1)
    step = choose_step(decay, z0, torch.tensor([1, 2]), t0=0.5)
    assert step == choose_step(decay, z0, torch.tensor([1.0, 2.0]), t0=0.5)


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_times_that_are_not_finite_are_named(bad: float, method: str) -> None:
    times = torch.tensor([0.0, bad])
    with pytest.raises(ValueError, match="times: expected finite numbers, got"):
        trajectory(decay, torch.ones(1, 1), times, method=method)
    with pytest.raises(ValueError, match="times: expected finite numbers, got"):
        choose_step(decay, torch.ones(1, 1), times)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_start_that_is_not_finite_is_named(bad: float) -> None:
    with pytest.raises(ValueError, match="t0: expected a finite number, got"):
        trajectory(decay, torch.ones(1, 1), torch.ones(2), t0=bad)


def test_giving_up_is_arithmetic_and_a_bad_value() -> None:
    assert issubclass(SolverError, ArithmeticError) and issubclass(SolverError, ValueError)
    with pytest.raises(SolverError, match=r"tolerance: expected to reach .* within 4096 steps"):
        choose_step(fast, torch.ones(1, 2), torch.linspace(0, 1, 300))


def test_an_adaptive_solver_gives_up_alike() -> None:
    with pytest.raises(SolverError, match="field: expected one that dopri5 can follow, got: under"):
        trajectory(lambda t, z: z**2, torch.ones(1, 1), torch.tensor([0.0, 2.0]), method="dopri5")


@pytest.mark.parametrize("adjoint", [False, True])
def test_an_assertion_of_the_field_is_left_alone(adjoint: bool) -> None:
    def picky(t: Tensor, z: Tensor) -> Tensor:
        assert t < 0.5, "too late"
        return -z

    times = torch.tensor([0.0, 1.0])
    with pytest.raises(AssertionError, match="too late"):
        trajectory(picky, torch.ones(1, 1), times, method="dopri5", adjoint=adjoint)


def test_a_field_too_fast_for_any_step_is_not_taken_for_one_at_rest() -> None:
    # damped to nothing, two coarse solutions agree at the only time that is asked for
    with pytest.raises(SolverError, match=r"expected to reach 0\.001 within 4096 steps"):
        choose_step(fast, torch.ones(3, 2), torch.tensor([0.0, 1.0]))
