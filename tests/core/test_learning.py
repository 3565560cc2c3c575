"""Energy learning against densities that are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from learned import Quadratic
from pyro_lebm.energy import MLPEnergy
from pyro_lebm.prior import EnergyPrior
from scenarios import Mixture


def learn(prior: EnergyPrior, data: Callable[[int], Tensor], steps: int, lr: float = 0.02) -> None:
    """Maximum likelihood on fresh data, the rate falling to nothing."""
    optimiser = torch.optim.Adam(prior.parameters(), lr=lr)
    for k in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1.0, 2 * (1 - k / steps))
        optimiser.zero_grad()
        loss = -prior().log_prob(data(256)).mean()
        loss.backward()
        optimiser.step()


TRUTH = torch.tensor([0.499, 1.587])


def ellipse(n: int) -> Tensor:
    return torch.randn(n, 2) * TRUTH


def sd_of(energy: Quadratic) -> Tensor:
    return (1 + energy.a.detach()).rsqrt()


def test_persistent_adjusted_chains_learn_a_gaussian_and_short_runs_do_not() -> None:
    """In a family that holds the truth: what is off is the learning's own error."""
    learned = {}
    for negatives, options in (
        ("persistent", {"steps": 5}),
        ("short_run", {"steps": 60, "step_size": 0.4}),
    ):
        prior = EnergyPrior(
            Quadratic(),
            2,
            negatives=negatives,  # type: ignore[arg-type]
            num_chains=256,
            **options,
        )
        learn(prior, ellipse, 150 if negatives == "persistent" else 60, lr=0.2)
        learned[negatives] = sd_of(prior.energy)  # type: ignore[arg-type]
    # Six standard deviations over seeds (.006 and .03): a false alarm once in 500 million
    assert ((learned["persistent"] - TRUTH).abs() < torch.tensor([0.036, 0.18])).all()
    # Unadjusted steps of .4 widen the narrow direction's variance by 1 / (1 - s^2 / 4 v), and the
    # learner answers by making it too narrow, by 8 of its own standard deviations (.005)
    expected = narrow_sd_learned_by_unadjusted_steps(0.4)
    assert expected < 0.46
    assert abs(float(learned["short_run"][0]) - expected) < 0.03
    assert float(learned["short_run"][0]) < 0.499 - 0.03


def narrow_sd_learned_by_unadjusted_steps(s: float) -> float:
    """Of N(0, v) whose unadjusted chain has the data's variance: v / (1 - s^2 / 4v) = .499^2."""
    # v^2 - d v + d s^2 / 4 = 0
    d = 0.499**2
    return math.sqrt((d + math.sqrt(d * d - d * s * s)) / 2)


def test_an_mlp_with_persistent_chains_learns_two_unequal_modes() -> None:
    truth = Mixture(left=-1.0, right=1.0, sd=0.5)
    prior = EnergyPrior(MLPEnergy(2, hidden=(32, 32)), 2, num_chains=256, steps=5)
    learn(prior, lambda n: truth.sample(n, 2), 300, lr=0.01)
    # the learned density itself, by quadrature over a grid: no sampler's error in it
    axis = torch.linspace(-4, 4, 161)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        learned = (prior().log_prob(grid)).softmax(0)
    exact = truth.log_density(grid).softmax(0)
    share = float(learned[grid[:, 0] < 0].sum())
    exact_share = float(exact[grid[:, 0] < 0].sum())
    mean, sd = learned @ grid, (learned @ grid**2 - (learned @ grid) ** 2).sqrt()
    exact_mean, exact_sd = exact @ grid, (exact @ grid**2 - (exact @ grid) ** 2).sqrt()
    # Over seeds the share is off by .015 +- .008, mean and sd by up to .04, the divergence is
    # .012 +- .001: bounds of four times that, against .2, 1, and 1 for the modes evenly weighted
    assert abs(share - exact_share) < 0.06
    assert (mean - exact_mean).abs().max() < 0.12
    assert (sd / exact_sd - 1).abs().max() < 0.12
    assert float((learned * (learned / exact).log()).sum()) < 0.05
