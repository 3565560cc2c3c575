"""Chains with a velocity: the moments they keep, what is stored, how their steps adapt."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_lebm.checkpoint import CheckpointError
from pyro_lebm.dynamics.chains import Chains
from pyro_lebm.dynamics.langevin import evaluate
from pyro_lebm.dynamics.moves import adaptation_rate
from pyro_lebm.dynamics.underdamped import baoab_step
from scenarios import CORRELATED, gaussian

NARROW = gaussian(torch.tensor([0.5, 0.0, -1.0]), torch.diag(torch.tensor([1.0, 0.3, 0.05]) ** 2))
# means and (co)variances of independent chains: five standard errors, a false alarm in 1.7 million
FALSE_ALARM = 5.0


def underdamped(position: Tensor, **options: Any) -> Chains:
    return Chains(position, dynamics="underdamped", **options)


def assert_moments(z: Tensor, mean: Tensor, cov: Tensor) -> None:
    """Of draws ``(n, dim)``."""
    n, scale = len(z), cov.diagonal().sqrt()
    assert bool(((z.mean(0) - mean).abs() < FALSE_ALARM * scale / math.sqrt(n)).all())
    error = (torch.cov(z.T) - cov) / torch.outer(scale, scale)
    assert bool((error.abs() < FALSE_ALARM * math.sqrt(2 / n)).all())


@pytest.mark.parametrize("adjusted", [True, False])
@pytest.mark.parametrize("known", [CORRELATED, NARROW])
def test_chains_reach_a_gaussian_from_afar_and_stay(known: Any, adjusted: bool) -> None:
    torch.manual_seed(0)
    chains = underdamped(4 * torch.randn(2000, len(known.mean)), step_size=0.5)
    for visit in range(90):  # BAOAB's positions are exact in a Gaussian, too, but not while adapted
        z = chains.run(known.log_density, 10, adjusted=adjusted, adapt=visit < 70)
        assert torch.equal(z, chains.position)
    assert_moments(z, known.mean, known.cov)
    velocity = chains.velocity
    assert velocity is not None
    assert bool((velocity.mean(0).abs() < FALSE_ALARM / math.sqrt(len(z))).all())
    if adjusted:  # BAOAB's own falls short of 1, as (h / sd)^2 / 4
        assert_moments(velocity, torch.zeros(z.shape[1]), torch.eye(z.shape[1]))
    assert abs(float(chains.acceptance) - (0.8 if adjusted else 0.95)) < 0.05


@pytest.mark.parametrize("step_size", [0.3, 1.2])
def test_adjusted_steps_of_a_fixed_size_leave_the_density_as_it_is(step_size: float) -> None:
    torch.manual_seed(1)
    root = torch.linalg.cholesky(CORRELATED.cov)
    start = CORRELATED.mean + torch.randn(40_000, 2) @ root.T
    chains = underdamped(start, step_size=step_size)
    for _ in range(6):
        z = chains.run(CORRELATED.log_density, 4, adapt=False)
    assert chains.step_size.eq(step_size).all() and not chains.adapted.any()
    assert 0.2 < float(chains.acceptance) < 0.99
    assert float((z - start).norm(dim=-1).mean()) > 0.3
    assert_moments(z, CORRELATED.mean, CORRELATED.cov)


def test_a_velocity_goes_on_where_the_last_visit_left_it() -> None:
    chains = underdamped(torch.randn(50, 2), step_size=0.4, friction=0.1)
    assert chains.velocity is not None
    state, velocity = evaluate(CORRELATED.log_density, chains.position), chains.velocity.clone()
    torch.manual_seed(2)
    for _ in range(3):
        z = chains.run(CORRELATED.log_density, 2, adjusted=False, adapt=False)
    torch.manual_seed(2)
    for _ in range(6):
        state, velocity, _ = baoab_step(CORRELATED.log_density, state, velocity, 0.4, 0.1 / 0.4)
    assert torch.allclose(z, state.position) and torch.allclose(chains.velocity, velocity)


def test_only_the_chosen_chains_change_and_none_without_keep() -> None:
    chains = underdamped(torch.randn(6, 2))
    before = chains.training_state()
    chains.run(CORRELATED.log_density, 2, adjusted=False, keep=False)
    after = chains.training_state()
    assert all(torch.equal(before[n].nan_to_num(), after[n].nan_to_num()) for n in before)
    chains.run(CORRELATED.log_density, 2, index=(torch.tensor([4, 1]),), adjusted=False)
    assert chains.velocity is not None
    moved = torch.tensor([False, True, False, False, True, False])
    for name in ("position", "velocity"):
        same = (getattr(chains, name) == before[name]).all(-1)
        assert torch.equal(~same, moved)
    assert torch.equal(chains.adapted.bool(), moved)


@pytest.mark.parametrize("adjusted", [True, False])
def test_a_run_taken_up_again_gives_the_same_numbers(adjusted: bool) -> None:
    chains = underdamped(torch.randn(5, 2))
    chains.run(CORRELATED.log_density, 3, adjusted=adjusted)
    saved = chains.training_state()
    others = [underdamped(torch.zeros(5, 2)), copy.deepcopy(chains)]
    others[0].load_training_state(saved)
    found = []
    for each in (chains, *others):
        torch.manual_seed(3)
        for _ in range(2):
            z = each.run(CORRELATED.log_density, 3, adjusted=adjusted)
        found.append((z, each.step_size))
    for z, step in found[1:]:
        assert torch.equal(z, found[0][0]) and torch.equal(step, found[0][1])


def test_a_state_without_velocities_is_refused_and_one_without_counts_is_not() -> None:
    plain = Chains(torch.ones(4, 2)).training_state()
    with pytest.raises(CheckpointError, match=r"velocity: expected nothing, got shape \(4, 2\)"):
        Chains(torch.ones(4, 2)).load_training_state(underdamped(torch.ones(4, 2)).training_state())
    chains = underdamped(torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"chains' velocity: expected shape \(4, 2\), got nothing"):
        chains.load_training_state(plain)
    assert not chains.position.any()
    older = Chains(torch.zeros(4, 2))
    older.adapted.fill_(7)
    older.load_training_state({n: t for n, t in plain.items() if n != "adapted"})
    assert older.position.eq(1).all() and not older.adapted.any()


def test_hot_visits_leave_velocities_and_counts_alone() -> None:
    chains = underdamped(torch.randn(5, 2))
    before = chains.training_state()
    chains.run(CORRELATED.log_density, 3, hot=0.25)
    after = chains.training_state()
    same = {n for n in before if torch.equal(before[n].nan_to_num(), after[n].nan_to_num())}
    assert same == {"velocity", "step_size", "adapted", "acceptance"}


def test_unadjusted_overdamped_steps_adapt_where_asked() -> None:
    torch.manual_seed(4)
    chains = Chains(0.05 * torch.randn(500, 1), step_size=1.0)
    narrow = lambda z: -0.5 * (z / 0.05).square().sum(-1)  # noqa: E731
    for _ in range(60):
        chains.run(narrow, 10, adjusted=False, adapt=True)
    assert abs(float(chains.acceptance) - 0.95) < 0.02
    s = chains.step_size / 0.05
    expected = 1 / (1 - s.square() / 4)  # of ULA on a normal
    ratio = float((chains.position.var() / 0.05**2) / expected.mean())
    assert abs(ratio - 1) < 0.03 + FALSE_ALARM * math.sqrt(2 / 500)


def test_an_unadjusted_chain_that_blows_up_stays_where_it_was() -> None:
    quartic = lambda z: -(z**4).sum(-1)  # noqa: E731
    chains = underdamped(torch.tensor([[0.0], [1e8]]), step_size=1.0)
    for _ in range(3):
        chains.run(quartic, 10, adjusted=False)
    assert bool(torch.isfinite(chains.position).all()) and chains.position.abs().max() <= 1e8
    assert chains.velocity is not None and bool(torch.isfinite(chains.velocity).all())


def test_step_sizes_follow_a_density_that_moves() -> None:
    torch.manual_seed(5)
    chains = underdamped(torch.randn(200, 2), step_size=0.5)
    steps = []
    for scale in (1.0, 0.1, 1.0):
        target = gaussian(torch.zeros(2), scale**2 * torch.eye(2)).log_density
        for _ in range(80):
            chains.run(target, 5, adjusted=False)
        steps.append(float(chains.step_size.median()))
    assert steps[1] == pytest.approx(0.1 * steps[0], rel=0.25)
    # growing takes longer: a test that wants .95 and finds 1 has little to say
    assert steps[2] > 3 * steps[1]


def test_the_rate_falls_to_one_that_can_follow() -> None:
    rates = adaptation_rate(torch.arange(1000), moving=0.2)
    assert rates[0] == pytest.approx(0.1) and rates[-1] == pytest.approx(0.02)
    assert bool((rates.diff() <= 0).all())
    assert adaptation_rate(torch.tensor(10**6)) < 1e-3


@pytest.mark.parametrize(("moving", "biased"), [(0.0, False), (1.0, True)])
def test_steps_that_settle_leave_a_normal_its_variance(moving: float, biased: bool) -> None:
    torch.manual_seed(5)
    n = 40_000
    chains = Chains(torch.randn(n, 1))
    chains.moving = moving
    for _ in range(40):
        z = chains.run(lambda z: -0.5 * z.square().sum(-1), 10)
    standard_errors = (float(z.var()) - 1.0) / math.sqrt(2 / n)
    assert (standard_errors < -FALSE_ALARM) is biased


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dynamics": "newton"},
            r"dynamics: expected one of .* got 'newton'",
        ),
        ({"friction": 0.0}, "friction: expected a positive number, got 0.0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Chains(torch.zeros(3, 2), **options)
