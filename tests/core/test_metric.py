"""Metrics and step sizes: what a warm-up learns, against what is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyro_lebm.dynamics.adaptation import dual_average, update, windows
from pyro_lebm.dynamics.langevin import evaluate
from pyro_lebm.dynamics.metric import Metric, add, learned, no_moments, unit_metric


def ill_conditioned(dim: int = 6) -> Tensor:
    """A covariance with variances over twelve orders of magnitude, and correlations of .9."""
    scale = torch.logspace(-3, 3, dim, dtype=torch.float64)
    return scale[:, None] * (0.1 * torch.eye(dim) + 0.9) * scale


def whitened(metric: Metric, cov: Tensor) -> Tensor:
    factor = metric.factor if metric.dense else metric.factor.diag()
    inverse = torch.linalg.inv(factor.double())
    found: Tensor = inverse @ cov @ inverse.T
    return found


def warmed(cov: Tensor, draws: Tensor, dense: bool) -> Metric:
    precision = torch.linalg.inv(cov)
    return learned(
        unit_metric(draws, dense), add(no_moments(draws, dense), draws, -draws @ precision)
    )


@pytest.mark.parametrize("shrunk", [1.0, 1e-4])
def test_a_dense_metric_is_the_covariance_wherever_the_draws_are(shrunk: float) -> None:
    torch.manual_seed(0)
    cov = ill_conditioned()
    # draws from a ball far narrower than the target, its wrong shape included
    draws = (
        shrunk
        * torch.randn(4000, 6, dtype=torch.float64)
        @ torch.linalg.cholesky(cov).T.diag().diag()
    )
    found = whitened(warmed(cov, draws, dense=True), cov)
    assert float(torch.linalg.cond(found)) < 1.3


def test_a_diagonal_metric_is_that_of_uncorrelated_targets() -> None:
    torch.manual_seed(1)
    cov = torch.logspace(-6, 6, 5, dtype=torch.float64).diag()
    draws = 1e-3 * torch.randn(1000, 5, dtype=torch.float64)
    metric = warmed(cov, draws, dense=False)
    assert torch.allclose(metric.factor**2, cov.diag(), rtol=1e-6)


def test_few_draws_leave_unseen_directions_as_they_were() -> None:
    torch.manual_seed(2)
    cov = 4.0 * torch.eye(50, dtype=torch.float64)
    draws = 2 * torch.randn(10, 50, dtype=torch.float64)
    found = torch.linalg.eigvalsh(whitened(warmed(cov, draws, dense=True), cov))
    assert float(found.min()) > 0.3
    assert float(found.max()) < 4.5  # what they were: 4


@pytest.mark.parametrize("dense", [False, True])
def test_nothing_is_learned_from_chains_that_did_not_move(dense: bool) -> None:
    still = torch.ones(20, 3)
    metric = unit_metric(still, dense)
    assert learned(metric, add(no_moments(still, dense), still, still)) is metric
    broken = torch.tensor([[1.0, 2.0, torch.inf], [0.0, 1.0, 2.0]])
    assert learned(metric, add(no_moments(still, dense), broken, broken)) is metric


@pytest.mark.parametrize("dense", [False, True])
def test_states_come_and_go(dense: bool) -> None:
    torch.manual_seed(3)

    def target(z: Tensor) -> Tensor:
        return -(z**4).sum(-1) - (z[..., 0] * z[..., 1])

    factor = (
        torch.rand(3, 3, dtype=torch.float64) + torch.eye(3) if dense else torch.rand(3).double()
    )
    metric = Metric(torch.randn(3, dtype=torch.float64), factor)
    state = evaluate(target, torch.randn(5, 3, dtype=torch.float64))
    white = metric.state(state)
    there = evaluate(metric.target(target), white.position)
    assert torch.allclose(there.log_density, state.log_density)
    assert torch.allclose(there.gradient, white.gradient)
    back = metric.unwhitened(white)
    assert torch.allclose(back.position, state.position)
    assert torch.allclose(back.gradient, state.gradient)


@pytest.mark.parametrize("target", [0.3, 0.8])
def test_dual_averaging_finds_the_step(target: float) -> None:
    torch.manual_seed(4)
    state = dual_average(5.0)
    for _ in range(3000):  # an acceptance of exp(-step), with noise
        state = update(state, (-state.log_step.exp()).exp() + 0.1 * torch.randn(()), target)
    assert float(state.log_average.exp()) == pytest.approx(-math.log(target), rel=0.1)


@pytest.mark.parametrize("warmup", [0, 1, 30, 69, 70, 100, 300, 1000, 10_000])
def test_windows_leave_the_end_to_the_step_size(warmup: int) -> None:
    ends = windows(warmup)
    assert list(ends) == sorted(set(ends))
    assert all(end <= warmup - max(50, warmup // 6) for end in ends)
    assert bool(ends) == (warmup >= 70)
