"""Underdamped, Barker and microcanonical steps: invariance, bias, reversibility, bad regions."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyro_lebm.dynamics.barker import barker_step
from pyro_lebm.dynamics.langevin import State, evaluate, mala_step
from pyro_lebm.dynamics.microcanonical import mclmc_step, random_direction, turn
from pyro_lebm.dynamics.underdamped import baoab_step, leapfrog, malt_step, refresh
from scenarios import CORRELATED, Mixture

Step = Callable[[Callable[[Tensor], Tensor], State], tuple[State, Tensor]]
ADJUSTED: dict[str, Step] = {
    "mala": lambda target, state: mala_step(target, state, 0.6),
    "barker": lambda target, state: barker_step(target, state, 0.8)[:2],
    "malt": lambda target, state: malt_step(target, state, 0.4, friction=1.0, steps=3)[:2],
    "hmc": lambda target, state: malt_step(target, state, 0.4, friction=0.0, steps=3)[:2],
}
# Each test takes the largest of a few means of N independent draws: at 4.5 standard errors a false
# alarm comes once in 10^5 per mean.
FALSE_ALARM = 4.5


def moments(z: Tensor) -> Tensor:
    """Mean, second and third moments of each coordinate, and the product of the first two."""
    x = z.double()
    parts = [x, x**2, x**3, (x[..., :1] * x[..., 1:2])]
    return torch.cat(parts, -1)


def assert_same(z: Tensor, exact: Tensor) -> None:
    a, b = moments(z), moments(exact)
    error = ((a.var(0) / len(a)) + (b.var(0) / len(b))).sqrt()
    assert float(((a.mean(0) - b.mean(0)).abs() / error).max()) < FALSE_ALARM


@pytest.mark.parametrize("name", ADJUSTED)
def test_an_adjusted_step_leaves_an_asymmetric_density_as_it_is(name: str) -> None:
    torch.manual_seed(0)
    mixture = Mixture(weight=0.8)
    state = evaluate(mixture.log_density, mixture.sample(40_000, 2))
    start = state.position
    for _ in range(8):
        state, acceptance = ADJUSTED[name](mixture.log_density, state)
    assert 0.2 < float(acceptance.mean()) < 0.99
    assert float((state.position - start).norm(dim=-1).mean()) > 0.3
    assert_same(state.position, mixture.sample(400_000, 2))


@pytest.mark.parametrize("name", ADJUSTED)
def test_an_adjusted_step_finds_a_correlated_gaussian(name: str) -> None:
    torch.manual_seed(1)
    state = evaluate(CORRELATED.log_density, 4 * torch.randn(20_000, 2))
    for _ in range(60):
        state, _ = ADJUSTED[name](CORRELATED.log_density, state)
    exact = torch.distributions.MultivariateNormal(CORRELATED.mean, CORRELATED.cov)
    assert_same(state.position, exact.sample((400_000,)))


@pytest.mark.parametrize("name", ADJUSTED)
def test_what_is_not_finite_is_rejected(name: str) -> None:
    torch.manual_seed(2)

    def half(z: Tensor) -> Tensor:
        return torch.where(z[..., 0] > 0, -0.5 * (z * z).sum(-1), torch.nan)

    state = evaluate(half, torch.randn(2000, 2).abs())
    for _ in range(30):
        state, acceptance = ADJUSTED[name](half, state)
        assert bool(torch.isfinite(acceptance).all())
    assert bool((state.position[:, 0] > 0).all())
    mean = math.sqrt(2 / math.pi)
    error = math.sqrt((1 - mean**2) / len(state.position))
    assert abs(float(state.position[:, 0].mean()) - mean) < FALSE_ALARM * error


def test_leapfrog_runs_back() -> None:
    target = Mixture().log_density
    start = evaluate(target, torch.randn(50, 2, dtype=torch.float64))
    velocity = torch.randn_like(start.position)
    state, v, there = leapfrog(target, start, velocity, 0.2)
    back, v, again = leapfrog(target, state, -v, 0.2)
    assert torch.allclose(back.position, start.position, atol=1e-12)
    assert torch.allclose(-v, velocity, atol=1e-12)
    assert torch.allclose(there, -again, atol=1e-10)


def test_the_refreshment_keeps_a_standard_normal() -> None:
    torch.manual_seed(3)
    v = refresh(torch.randn(100_000, 2), torch.tensor(0.7))
    assert_same(v, torch.randn(400_000, 2))


def test_a_refreshment_takes_its_noise_from_outside() -> None:
    v, noise, decay = torch.randn(6, 2), torch.randn(6, 2), torch.tensor([[0.6], [0.8], [1.0]] * 2)
    before = torch.get_rng_state()
    found = refresh(v, decay, noise)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.allclose(found, decay * v + (1 - decay**2).sqrt() * noise)
    torch.manual_seed(5)
    drawn = refresh(v, decay)
    torch.manual_seed(5)
    assert torch.equal(drawn, refresh(v, decay, torch.randn_like(v)))


@pytest.mark.parametrize("step", [0.5, 1.0])
def test_baoab_has_the_exact_variance_of_a_gaussian(step: float) -> None:
    torch.manual_seed(4)

    def standard(z: Tensor) -> Tensor:
        return -0.5 * (z * z).sum(-1)

    state = evaluate(standard, torch.randn(40_000, 2))
    velocity = torch.randn_like(state.position)
    for _ in range(30):
        state, velocity, _ = baoab_step(standard, state, velocity, step, 1.0)
    assert_same(state.position, torch.randn(400_000, 2))
    # ... but not that of the velocity, which a step of h shrinks to 1 - h^2 / 4.
    expected = 1 - step**2 / 4
    error = expected * math.sqrt(2 / velocity.numel())
    assert abs(float(velocity.double().var()) - expected) < FALSE_ALARM * error


def test_a_turn_is_the_flow_of_many_small_ones() -> None:
    torch.manual_seed(5)
    u = random_direction(torch.zeros(20, 5, dtype=torch.float64))
    g = 3 * torch.randn_like(u)
    h = torch.full((20, 1), 0.8, dtype=torch.float64)
    once, change = turn(u, g, h)
    small, total = u, torch.zeros(20, dtype=torch.float64)
    for _ in range(64):
        small, part = turn(small, g, h / 64)
        total = total + part
    assert torch.allclose(once, small, atol=1e-10)
    assert torch.allclose(change, total, atol=1e-9)
    # The flow is du/dt = (I - u u') g / (d - 1).
    tiny, _ = turn(u, g, torch.full_like(h, 1e-6))
    slope = (g - (g * u).sum(-1, keepdim=True) * u) / 4
    assert torch.allclose((tiny - u) / 1e-6, slope, atol=1e-4)


def test_mclmc_with_a_short_step_has_the_right_moments() -> None:
    torch.manual_seed(6)
    sd = torch.tensor([1.0, 0.5, 2.0, 1.0])

    def target(z: Tensor) -> Tensor:
        return -0.5 * ((z / sd) ** 2).sum(-1)

    state = evaluate(target, sd * torch.randn(20_000, 4))
    u = random_direction(state.position)
    errors = []
    for _ in range(150):
        state, u, error = mclmc_step(target, state, u, 0.2, 2.0)
        errors.append(error)
    assert float((u.norm(dim=-1) - 1).abs().max()) < 1e-5
    assert float(torch.stack(errors).var()) / 4 < 1e-3
    assert_same(state.position, sd * torch.randn(400_000, 4))


def test_mclmc_refuses_one_dimension() -> None:
    state = evaluate(lambda z: -0.5 * (z * z).sum(-1), torch.zeros(3, 1))
    with pytest.raises(ValueError, match="position: expected at least 2 dimensions, got 1"):
        mclmc_step(lambda z: -0.5 * (z * z).sum(-1), state, torch.ones(3, 1), 0.1, 1.0)
