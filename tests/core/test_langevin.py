"""Langevin steps against targets whose moments are known.

Tolerances are five standard errors of the average over independent chains: a false alarm once in
1.7 million checks, were the seed free.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyro_lebm.dynamics.langevin import (
    OPTIMAL_ACCEPTANCE,
    State,
    accept,
    adapt,
    check_step_size,
    evaluate,
    hot_step_size,
    log_acceptance,
    mala_step,
    propose,
    ula_step,
)
from scenarios import CORRELATED, STANDARD, Mixture, Target

SIGMAS = 5.0


def check_moments(z: Tensor, target: Target) -> None:
    n = len(z)
    variance = target.cov.diagonal()
    assert (z.mean(0) - target.mean).abs().lt(SIGMAS * (variance / n).sqrt()).all()
    # the variance of a product of two correlated Gaussians, averaged over n
    error = ((torch.outer(variance, variance) + target.cov**2) / n).sqrt()
    assert (torch.cov(z.T).reshape(target.cov.shape) - target.cov).abs().lt(SIGMAS * error).all()


@pytest.mark.parametrize("step_size", [0.5, 1.1])
def test_mala_reaches_the_target_at_a_fine_and_at_a_coarse_step(step_size: float) -> None:
    state = evaluate(CORRELATED.log_density, torch.zeros(5000, 2))
    for _ in range(120):
        state, _ = mala_step(CORRELATED.log_density, state, step_size)
    check_moments(state.position, CORRELATED)


def test_mala_leaves_a_mixture_invariant() -> None:
    target = Mixture(left=-1.0, right=1.0, sd=0.6)
    start = target.sample(5000, 1)
    state = evaluate(target.log_density, start)
    for _ in range(50):
        state, _ = mala_step(target.log_density, state, 0.9)
    exact = target.share(target.sample(1_000_000, 1))
    error = math.sqrt(exact * (1 - exact) / 5000)
    assert abs(target.share(state.position) - exact) < SIGMAS * error
    assert (state.position != start).double().mean() > 0.9


def test_ula_is_biased_as_its_stationary_variance_says() -> None:
    s, n = 1.0, 20_000
    state = evaluate(STANDARD.log_density, torch.zeros(n, 1))
    for _ in range(40):
        state = ula_step(STANDARD.log_density, state, s)
    expected = 1 / (1 - s**2 / 4)
    error = expected * math.sqrt(2 / n)
    assert abs(float(state.position.var()) - expected) < SIGMAS * error
    assert abs(float(state.position.var()) - 1.0) > 20 * error


def test_proposal_is_the_stated_step() -> None:
    state = State(torch.zeros(3, 2), torch.zeros(3), torch.ones(3, 2))
    step, scale = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 10.0])
    torch.manual_seed(1)
    noise = torch.randn(3, 2)
    torch.manual_seed(1)
    s = step[:, None] * scale
    assert torch.allclose(propose(state, step, scale), 0.5 * s**2 + s * noise)


def test_acceptance_is_the_metropolis_hastings_ratio() -> None:
    old = evaluate(CORRELATED.log_density, torch.randn(6, 2))
    new = evaluate(CORRELATED.log_density, torch.randn(6, 2))
    step, scale = torch.linspace(0.2, 0.9, 6), torch.tensor([1.0, 2.0])
    s = step[:, None] * scale

    def kernel(a: State, b: State) -> Tensor:
        mean = a.position + 0.5 * s**2 * a.gradient
        log_p: Tensor = torch.distributions.Normal(mean, s).log_prob(b.position).sum(-1)
        return log_p

    expected = new.log_density - old.log_density + kernel(new, old) - kernel(old, new)
    assert torch.allclose(log_acceptance(old, new, step, scale), expected, atol=1e-4)


def test_a_preconditioner_makes_scales_alike() -> None:
    scale = torch.tensor([0.01, 100.0])

    def log_density(z: Tensor) -> Tensor:
        return -0.5 * (z / scale).pow(2).sum(-1)

    state = evaluate(log_density, torch.zeros(3000, 2))
    for _ in range(60):
        state, acceptance = mala_step(log_density, state, 0.9, scale)
    check_moments(state.position / scale, Target(log_density, torch.zeros(2), torch.eye(2), 0.0))
    assert float(acceptance.mean()) > 0.7
    plain = evaluate(log_density, torch.zeros(3000, 2))
    for _ in range(60):
        plain, _ = mala_step(log_density, plain, 0.01)
    assert float(plain.position[:, 1].std()) < 1.0  # of 100: without it nothing moves


def test_chains_keep_to_themselves() -> None:
    """A bad chain beside good ones changes nothing for them, with step sizes chain by chain."""

    def log_density(z: Tensor) -> Tensor:
        return -0.5 * (z**2).sum(-1)

    start = torch.randn(3, 4, 2)
    step = torch.rand(3, 4) + 0.1
    torch.manual_seed(3)
    good, probability = mala_step(log_density, evaluate(log_density, start), step)
    broken = start.clone()
    broken[0, 0] = math.nan
    torch.manual_seed(3)
    other, _ = mala_step(log_density, evaluate(log_density, broken), step)
    assert probability.shape == (3, 4)
    assert torch.equal(good.position.flatten(0, 1)[1:], other.position.flatten(0, 1)[1:])


@pytest.mark.parametrize("outside", [math.nan, -math.inf, math.inf])
def test_a_target_undefined_somewhere_is_never_entered_there(outside: float) -> None:
    def exponential(z: Tensor) -> Tensor:
        z = z.squeeze(-1)
        return torch.where(z > 0, -z, torch.full_like(z, outside))

    state = evaluate(exponential, torch.full((8000, 1), 0.5))
    for _ in range(150):
        state, probability = mala_step(exponential, state, 0.8)
        assert not probability.isnan().any()
        assert (state.position > 0).all()
    n = len(state.position)
    assert abs(float(state.position.mean()) - 1) < SIGMAS / math.sqrt(n)
    # the exponential's fourth central moment is 9
    assert abs(float(state.position.var()) - 1) < SIGMAS * math.sqrt(8 / n)


@pytest.mark.parametrize("outside", [math.nan, -math.inf])
def test_an_unadjusted_step_gives_no_nan(outside: float) -> None:
    def log_density(z: Tensor) -> Tensor:
        z = z.squeeze(-1)
        return torch.where(z > 0, -z, z * outside)

    state = evaluate(log_density, torch.randn(100, 1))
    for _ in range(20):
        state = ula_step(log_density, state, 0.5)
        assert torch.isfinite(state.position).all()
        assert torch.isfinite(state.gradient).all()


def test_non_finite_values_and_gradients_are_marked_and_rejected() -> None:
    def log_density(z: Tensor) -> Tensor:
        return z.squeeze(-1).sqrt()  # NaN below 0, gradient inf at 0

    state = evaluate(log_density, torch.tensor([[-1.0], [0.0], [4.0]]))
    assert state.log_density.tolist() == [-math.inf, -math.inf, 2.0]
    assert state.gradient.flatten().tolist() == [0.0, 0.0, 0.25]
    good = evaluate(log_density, torch.full((3, 1), 4.0))
    kept, probability = accept(good, state, torch.full((3,), math.nan))
    assert probability.tolist() == [0.0, 0.0, 0.0]
    assert torch.equal(kept.position, good.position)


def test_a_chain_that_starts_where_there_is_no_density_gets_out() -> None:
    def exponential(z: Tensor) -> Tensor:
        return torch.where(z > 0, -z, torch.full_like(z, -math.inf)).sum(-1)

    state = evaluate(exponential, torch.full((50, 1), -0.1))
    for _ in range(30):
        state, _ = mala_step(exponential, state, 0.5)
    assert (state.position > 0).all()


def test_adaptation_reaches_the_target_acceptance_chain_by_chain() -> None:
    # every chain has a target of its own scale, so it needs a step size of its own
    scale = torch.logspace(-2, 2, 5).repeat_interleave(200)

    def log_density(z: Tensor) -> Tensor:
        return -0.5 * (z / scale[:, None]).pow(2).sum(-1)

    state = evaluate(log_density, torch.randn(1000, 3) * scale[:, None])
    step, rates = torch.full((1000,), 0.3), []
    for i in range(400):
        state, acceptance = mala_step(log_density, state, step)
        step = adapt(step, acceptance)
        if i >= 200:
            rates.append(acceptance)
    rate = torch.stack(rates).mean(0).reshape(5, 200).mean(-1)
    assert (rate - OPTIMAL_ACCEPTANCE).abs().max() < 0.02
    ratio = (step / scale).reshape(5, 200).log().mean(-1).exp()
    assert float(ratio.max() / ratio.min()) < 1.1


def test_adaptation_keeps_within_its_bounds() -> None:
    step = adapt(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0]), rate=100.0, bounds=(0.5, 2.0))
    assert step.tolist() == [0.5, 2.0]


def test_hot_steps_move_by_their_strength_however_steep_the_target() -> None:
    gradient = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3e6, 4e6]])
    step = hot_step_size(gradient, 0.5)
    drift = 0.5 * step[:, None] ** 2 * gradient
    assert torch.allclose(drift.pow(2).mean(-1).sqrt(), torch.tensor([0.0, 0.39, 0.5]), atol=2e-2)


def test_gradients_are_taken_under_no_grad_and_inference_mode() -> None:
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            state = evaluate(STANDARD.log_density, torch.full((2, 1), 3.0))
            state, _ = mala_step(STANDARD.log_density, state, 0.1)
        assert not state.position.requires_grad
    assert torch.equal(
        evaluate(STANDARD.log_density, torch.full((2, 1), 3.0)).gradient, torch.full((2, 1), -3.0)
    )


def test_a_target_that_ignores_its_position_has_gradient_zero() -> None:
    assert evaluate(lambda z: torch.zeros(3), torch.ones(3, 2)).gradient.eq(0).all()


def test_float64_stays_float64() -> None:
    state = evaluate(lambda z: -(z**2).sum(-1), torch.ones(3, 2, dtype=torch.float64))
    state, _ = mala_step(lambda z: -(z**2).sum(-1), state, torch.tensor(0.1))
    assert {x.dtype for x in state} == {torch.float64}


def test_a_target_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"log_density: expected one number per chain, .*\(3,\)"):
        evaluate(lambda z: -(z**2), torch.ones(3, 2))


@pytest.mark.parametrize("step", [0.0, -1.0, math.nan])
def test_a_step_size_that_is_not_positive_is_refused(step: float) -> None:
    for value in (step, torch.tensor([0.1, step])):
        with pytest.raises(ValueError, match="step_size: expected a positive number, got"):
            check_step_size(value)
