"""Negatives by chains with a velocity, and steps of unadjusted ones that adapt."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyro_lebm.prior import EnergyPrior


class Quadratic(nn.Module):
    """E(z) = rate |z - 1|^2 / 2: with the base N(0, I) a normal of mean rate / (1 + rate)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate))

    def forward(self, z: Tensor) -> Tensor:
        return 0.5 * self.rate * (z - 1).square().sum(-1)


@pytest.mark.parametrize(
    "options",
    [
        {"dynamics": "underdamped"},
        {"dynamics": "underdamped", "adjusted": False},
        {"dynamics": "overdamped"},
    ],
)
def test_negatives_are_draws_of_the_prior_whatever_the_dynamics(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    n, rate = 2000, 8.0
    prior = EnergyPrior(Quadratic(rate), 2, num_chains=n, **options)
    for visit in range(50):
        prior.adapt = visit < 40
        prior.forget()
        (-prior().log_prob(torch.zeros(1, 2))).sum().backward()
    z, sd = prior.chains.position, (1 + rate) ** -0.5
    # five standard errors
    assert bool(((z.mean(0) - rate / (1 + rate)).abs() < 5 * sd / math.sqrt(n)).all())
    assert bool(((z.var(0) / sd**2 - 1).abs() < 5 * math.sqrt(2 / n)).all())
    wanted = {True: 0.8, False: 0.95}[options.get("adjusted", True)]
    if options["dynamics"] == "underdamped":
        assert abs(prior.statistics()["negative_acceptance"] - wanted) < 0.1


def test_unadjusted_steps_adapt_only_where_asked() -> None:
    for adapt in (None, True):
        torch.manual_seed(1)
        prior = EnergyPrior(Quadratic(50.0), 2, num_chains=64, adjusted=False, adapt=adapt)
        for _ in range(30):
            prior.forget()
            (-prior().log_prob(torch.zeros(1, 2))).sum().backward()
        step = float(prior.chains.step_size.mean())
        assert (step < 0.3) if adapt else step == pytest.approx(0.4)
