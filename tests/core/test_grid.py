"""Draws from a grid: the density's own, and refused where they could not be."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_lebm import EnergyBased
from pyro_lebm.grid import grid_draws

DRAWS = 20_000


def normal(dim: int) -> dist.TorchDistribution:
    base: dist.TorchDistribution = dist.Normal(torch.zeros(dim), 1.0).to_event(1)
    return base


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_moments_and_independence(dim: int) -> None:
    torch.manual_seed(0)
    slope = torch.tensor([1.5, -1.0, 0.5])[:dim]
    found = grid_draws(
        EnergyBased(lambda z: -(slope * z).sum(-1), normal(dim)), DRAWS
    )  # N(slope, I)
    error = 1 / math.sqrt(DRAWS)
    assert found.shape == (DRAWS, dim)
    assert bool(((found.mean(0) - slope).abs() < 4.5 * error).all())  # once in 10^5, each
    # cells of side h add h^2 / 12 to a variance: .0014 of 1 in three dimensions
    variance = found.var(0)
    assert bool(((variance - 1).abs() < 4.5 * math.sqrt(2) * error + 0.002).all())
    lagged = (found[1:] - slope) * (found[:-1] - slope)
    assert bool((lagged.mean(0).abs() < 4.5 * error).all())


def test_masses_of_modes() -> None:
    torch.manual_seed(1)

    def energy(z: Tensor) -> Tensor:
        """A mixture at -3 and 3, sd .5, weights .3 and .7, over the base."""
        modes = dist.Normal(torch.tensor([-3.0, 3.0]), 0.5).log_prob(z)
        mixture = (modes + torch.tensor([0.3, 0.7]).log()).logsumexp(-1)
        found: Tensor = dist.Normal(0.0, 1.0).log_prob(z[..., 0]) - mixture
        return found

    found = grid_draws(EnergyBased(energy, normal(1)), DRAWS)
    share = float((found > 0).double().mean())
    assert abs(share - 0.7) < 4.5 * math.sqrt(0.21 / DRAWS)


def test_what_no_grid_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected one to three dimensions .* got 4"):
        grid_draws(EnergyBased(lambda z: 0 * z.sum(-1), normal(4)), 5)
    with pytest.raises(ValueError, match="of unconstrained support"):
        grid_draws(EnergyBased(lambda z: 0 * z, dist.Exponential(1.0)), 5)
    with pytest.raises(ValueError, match=r"width: expected one that holds the density, got 3.0"):
        grid_draws(EnergyBased(lambda z: 0 * z.sum(-1), normal(1)), 5, width=3.0)
