"""Bases: matched to draws, and what an energy and its chains see of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyro_lebm import EnergyPrior, FullNormal, MLPEnergy
from pyro_lebm.distribution import annealed
from pyro_lebm.inference import fit_prior

TILT = torch.tensor([[2.0, 0.0, 0.0], [1.9, 0.05, 0.0], [0.0, 0.1, 0.5]])
SHIFT = torch.tensor([3.0, -1.0, 0.0])


def tilted(n: int) -> Tensor:
    return SHIFT + torch.randn(n, 3) @ TILT.T


class First(torch.nn.Module):
    """Minus three times the first coordinate: N(0, I) becomes N(3 e_1, I)."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(-3.0))

    def forward(self, z: Tensor) -> Tensor:
        return self.slope * z[..., 0]


def matched() -> tuple[FullNormal, Tensor]:
    torch.manual_seed(0)
    base, draws = FullNormal(3), tilted(5000)
    assert torch.equal(base().mean, torch.zeros(3))
    base.match(draws)
    return base, draws


def test_matched_base_has_mean_and_covariance_of_the_draws() -> None:
    base, draws = matched()
    assert torch.allclose(base().mean, draws.mean(0), atol=1e-5)
    assert torch.allclose(base().covariance_matrix, draws.T.cov(), rtol=1e-3, atol=1e-5)
    white = base.white(draws)
    assert torch.allclose(white.T.cov(), torch.eye(3), atol=1e-3)
    assert torch.allclose(white.mean(0), torch.zeros(3), atol=1e-3)


@pytest.mark.parametrize("sampler", ["annealed", "persistent"])
def test_energy_and_chains_live_in_white_coordinates(sampler: str) -> None:
    base, _ = matched()
    prior = EnergyPrior(First(), base, sampler=sampler, num_chains=2000, steps=40)  # type: ignore[arg-type]
    z = tilted(4)
    assert torch.allclose(prior.energy(z), -3.0 * base.white(z)[:, 0])
    prior.train()
    negatives = prior._new_negatives()
    assert float(prior.chains.step_size.mean()) > 0.5  # of a standard normal; .05 of the draws'
    prior.eval()
    for found in (negatives, prior().sample(torch.Size((2000,)))):
        white = base.white(found)
        # 2000 draws, those of annealing with shared ancestors: error .022 to .04 each; 40 adjusted
        # steps forget the start to exp(-10)
        assert torch.allclose(white.mean(0), torch.tensor([3.0, 0.0, 0.0]), atol=0.2)
        assert torch.allclose(white.std(0), torch.ones(3), atol=0.15)


def test_negatives_follow_a_base_that_is_matched_anew() -> None:
    """A match moves no parameter: negatives of the base before would be remembered."""
    torch.manual_seed(0)
    base = FullNormal(3)
    prior = EnergyPrior(First(), base, num_chains=64)
    before = prior._negatives()
    assert prior._negatives() is before
    base.match(tilted(4))
    assert prior._negatives() is not before


def test_annealing_goes_through_white_coordinates_and_keeps_log_z() -> None:
    base, _ = matched()
    torch.manual_seed(1)
    cloud = annealed(EnergyPrior(First(), base)(), 4000)
    # log Z = 3^2 / 2; a run of 4000 particles over a gap of 4.5 nats scatters by .05
    assert abs(float(cloud.log_evidence) - 4.5) < 0.25
    assert float(cloud.acceptance) > 0.3
    assert torch.allclose(base.white(cloud.position).mean(0)[0], torch.tensor(3.0), atol=0.2)


def test_fit_prior_matches_the_base_first() -> None:
    torch.manual_seed(2)
    base, draws = FullNormal(3), 0.5 * tilted(2000)
    prior = EnergyPrior(MLPEnergy(3, (16,)), base, num_chains=128)
    fit_prior(prior, draws, max_steps=3, batch_size=200, progress=False)
    assert torch.allclose(base().mean, draws.mean(0), atol=1e-4)


def test_a_matched_prior_travels_with_its_state() -> None:
    base, draws = matched()
    prior = EnergyPrior(MLPEnergy(3), base)
    other = EnergyPrior(MLPEnergy(3), FullNormal(3))
    other.load_state_dict(prior.state_dict())
    assert torch.equal(other().log_prob(draws[:5]), prior().log_prob(draws[:5]))
    assert sum(p.numel() for p in other.parameters()) == sum(
        p.numel() for p in MLPEnergy(3).parameters()
    )


def test_bad_draws_are_refused() -> None:
    base = FullNormal(2)
    with pytest.raises(ValueError, match=r"draws: expected shape \(n, 2\), got \(3, 3\)"):
        base.match(torch.zeros(3, 3))
    with pytest.raises(ValueError, match="draws: expected finite ones that span all 2"):
        base.match(torch.ones(5, 1) * torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match="draws: expected finite ones"):
        base.match(torch.tensor([[0.0, math.nan], [1.0, 2.0], [3.0, 1.0]]))
    assert torch.equal(base.scale_tril, torch.eye(2))
    with pytest.raises(ValueError, match="dim: expected at least 1, got 0"):
        FullNormal(0)
