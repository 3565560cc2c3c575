"""Implicit diffusion: the schedule, and samplers that are exact for Gaussians."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from noisy import MEAN, VARIANCE, exact
from pyro_lebm.diffusion.annealed import annealed_langevin, score
from pyro_lebm.diffusion.denoising import clean_of
from pyro_lebm.diffusion.implicit import ancestral, implicit, implicit_step
from pyro_lebm.diffusion.schedule import alpha_bar, levels, weights


def moments(steps: int, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """Mean and variance that `implicit` has with `exact`: it is affine in all of its noise."""
    eta = kwargs.get("eta", 0.0)
    count = steps if eta else 1
    inputs = torch.cat([torch.zeros(1, count), torch.eye(count)]).double()
    inputs = inputs.T[..., None].expand(count, count + 1, 2)
    found = implicit(exact(), inputs[0], steps, noise=inputs[1:] if eta else None, **kwargs)
    return found[0], (found[1:] - found[0]).square().sum(0)


# Schedule


def test_shares_fall_from_almost_all_to_almost_nothing() -> None:
    scale = torch.tensor(levels(200), dtype=torch.float64)
    a = alpha_bar(scale)
    assert bool((a.diff() < 0).all())
    assert math.isclose(1 - float(a[0]), 1e-4) and math.isclose(float(a[-1]), 1e-4)
    assert [alpha_bar(s) for s in scale.tolist()] == pytest.approx(a.tolist())


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("a_from", "a_to"), [(0.2, 0.6), (1e-4, 0.01), (0.9, 0.9999), (0.5, 1.0)])
def test_a_step_keeps_the_marginal_of_each_level(eta: float, a_from: float, a_to: float) -> None:
    pull, keep, sigma = weights(a_from, a_to, eta)
    assert pull + keep * a_from**0.5 == pytest.approx(a_to**0.5)
    assert keep**2 * (1 - a_from) + sigma**2 == pytest.approx(1 - a_to)
    # Ho, Jain & Abbeel 2020: the variance of q(x_{t-1} | x_t, x_0), here times eta^2
    beta = 1 - a_from / a_to
    assert sigma**2 == pytest.approx(eta**2 * (1 - a_to) / (1 - a_from) * beta)


def test_one_step_by_hand() -> None:
    u, clean, noise = (torch.tensor([x]).double() for x in (1.5, -0.4, 0.8))
    sigma = 0.5 * math.sqrt(0.4 / 0.8) * math.sqrt(1 - 0.2 / 0.6)
    direction = (1.5 + 0.4 * math.sqrt(0.2)) / math.sqrt(0.8)
    expected = math.sqrt(0.6) * -0.4 + math.sqrt(0.4 - sigma**2) * direction + sigma * 0.8
    assert float(implicit_step(u, clean, 0.2, 0.6, 0.5, noise)) == pytest.approx(expected)


# Samplers


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_samplers_reach_a_gaussians_moments_in_many_steps(eta: float) -> None:
    # First order: the errors go as 1 / S. Nothing is random here.
    errors = []
    for steps in (100, 200, 400):
        mean, variance = moments(steps, eta=eta)
        errors.append(torch.stack([mean - MEAN, variance / VARIANCE - 1]).abs())
    assert bool((errors[-1] < 0.02).all())
    falling = errors[1][1] / errors[0][1], errors[2][1] / errors[1][1]
    assert all(bool((ratio < 0.65).all()) for ratio in falling)


def test_the_second_order_keeps_the_variance_in_few_steps() -> None:
    start = torch.randn(50, 2).double()
    kept = {}
    for order in (1, 2):
        same = implicit(exact(torch.zeros(2), torch.ones(2)), start, 5, order=order)
        kept[order] = (same / start).square().mean()
        assert torch.allclose(same / start, kept[order].sqrt().expand(50, 2))
    assert 0.6 < kept[1] < 0.62 and 0.97 < kept[2] < 1.0
    for steps in (1, 2, 5):  # where the prediction does not move, no step may pass it by
        there = implicit(lambda u, level: 0 * u + 3, start, steps, order=2)
        assert torch.allclose(there, torch.full_like(there, 3.0), atol=1e-9)
    errors = [(moments(steps, order=2)[1] / VARIANCE - 1).abs() for steps in (10, 40, 160)]
    first = (moments(10)[1] / VARIANCE - 1).abs()
    assert bool((errors[0] < first / 3).all())
    # Better than first order, beside the schedule's ends: 1e-4 of the variance at most.
    assert bool((errors[2] < errors[1] / 5 + 1e-3 / 4).all())


def test_a_short_first_step_is_one_and_the_others_are_even() -> None:
    called: list[float] = []

    def denoise(u: Tensor, level: Tensor) -> Tensor:
        called.append(float(level))
        return clean_of(exact(torch.zeros(2), torch.ones(2))(u, level))

    start = torch.randn(50, 2).double()
    drawn = implicit(denoise, start, 10, order=2, first=0.5)
    gaps = -torch.tensor([*called, 0.0]).diff()
    assert called[0] == 1 and torch.allclose(gaps[1:], gaps[1])
    assert float(gaps[0]) == pytest.approx(float(gaps[1]) / 2)
    # N(0, 1) stays so but for the steps' own error
    assert torch.allclose(drawn, start, rtol=0.03)


def test_the_slow_samplers_reach_a_gaussians_moments() -> None:
    n = 4000
    for sample, bias in ((ancestral, 0.01), (annealed_langevin, 0.06)):
        x: Tensor = sample(exact(), torch.randn(n, 2).double())
        # Five standard errors, and the biases: 1e-5 false alarms.
        # Ancestral: below that of 400 steps, above; annealed: a few hundredths, as documented.
        assert bool(((x.mean(0) - MEAN).abs() < 5 * (VARIANCE / n).sqrt() + 0.01).all())
        assert bool(((x.var(0) / VARIANCE - 1).abs() < 5 * (2 / n) ** 0.5 + bias).all())


def test_ancestral_sampling_is_implicit_with_all_of_the_randomness() -> None:
    start, noise = torch.randn(5, 2).double(), torch.randn(9, 5, 2).double()
    torch.manual_seed(3)
    drawn = ancestral(exact(), start, steps=10)
    torch.manual_seed(3)
    noise = torch.stack([torch.randn_like(start) for _ in range(9)])
    assert torch.equal(drawn, implicit(exact(), start, 10, eta=1.0, noise=noise))


def test_the_score_is_that_of_the_noisy_density() -> None:
    u, level = torch.randn(6, 2).double(), torch.tensor([0.3]).double()
    a = alpha_bar(level)
    slope = (a.sqrt() * MEAN - u) / (a * VARIANCE + 1 - a)
    assert torch.allclose(score(exact(), u, level), slope)


# Bad inputs


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda u: levels(0), "steps: expected at least 1, got 0"),
        (lambda u: implicit(exact(), u, 0), "steps: expected at least 1, got 0"),
        (lambda u: implicit(exact(), u, 3, eta=1.5), r"eta: expected .* in \[0, 1\], got 1.5"),
        (lambda u: implicit(exact(), u, 3, first=0.5), "first: expected 1 at order 1, got 0.5"),
        (lambda u: implicit(exact(), u, 3, order=2, first=0.0), "first: expected a number in"),
        (lambda u: implicit(exact(), u, 3, order=3), "order: expected 1, or 2 at eta 0, got 3"),
        (lambda u: implicit(exact(), u, 3, eta=0.5, order=2), "order: .* got 2 and eta=0.5"),
        (
            lambda u: implicit(exact(), u, 3, eta=1.0, noise=u[None]),
            "noise: expected 2 draws for 3 steps, got 1",
        ),
        (lambda u: implicit_step(u, u, 0.6, 0.2), "expected 0 < a_from < a_to <= 1, got 0.6 and"),
        (lambda u: implicit_step(u, u, 0.2, 0.6, 1.0), "noise: expected a tensor at eta above 0"),
        (lambda u: implicit_step(u, u, 0.2, 0.6, -1.0), r"eta: expected .*, got -1.0"),
        (lambda u: annealed_langevin(exact(), u, 1), "expected at least 2 and 1, got 1 levels"),
        (lambda u: annealed_langevin(exact(), u, steps=0), "got 10 levels and 0 steps"),
        (lambda u: annealed_langevin(exact(), u, step_size=4.0), "step_size: .* got 4.0"),
    ],
)
def test_bad_inputs(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.randn(4, 2).double())
