"""Targets with known answers, shared by the tests of samplers, energies and guides."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor, nn

LogDensity = Callable[[Tensor], Tensor]


class Target(NamedTuple):
    """An unnormalised log density ``(*chains, dim) -> (*chains)`` with its moments and log Z."""

    log_density: LogDensity
    mean: Tensor
    cov: Tensor
    log_z: float


def gaussian(mean: Tensor, cov: Tensor) -> Target:
    """N(mean, cov) without its constant."""
    precision = torch.linalg.inv(cov)

    def log_density(z: Tensor) -> Tensor:
        r = z - mean
        return -0.5 * torch.einsum("...i,ij,...j->...", r, precision, r)

    log_z = 0.5 * (len(mean) * math.log(2 * math.pi) + float(torch.logdet(cov)))
    return Target(log_density, mean, cov, log_z)


CORRELATED = gaussian(torch.tensor([1.0, -2.0]), torch.tensor([[1.0, 0.8], [0.8, 1.5]]))
STANDARD = gaussian(torch.zeros(1), torch.eye(1))


class Mixture(NamedTuple):
    """``weight N(left, sd^2) + (1 - weight) N(right, sd^2)`` in the first of ``dim`` coordinates.

    The others are N(0, sd^2). Normalised: its log Z is 0.
    """

    weight: float = 0.8
    left: float = -2.0
    right: float = 2.0
    sd: float = 0.5

    def log_density(self, z: Tensor) -> Tensor:
        def mode(at: float, weight: float) -> Tensor:
            centre = z.new_zeros(z.shape[-1])
            centre[0] = at
            normal = dist.Normal(centre, self.sd, validate_args=False)
            log_p: Tensor = normal.log_prob(z).sum(-1) + math.log(weight)
            return log_p

        return torch.logaddexp(mode(self.left, self.weight), mode(self.right, 1 - self.weight))

    def sample(self, n: int, dim: int) -> Tensor:
        z = self.sd * torch.randn(n, dim)
        z[:, 0] += torch.where(torch.rand(n) < self.weight, self.left, self.right)
        return z

    def share(self, z: Tensor) -> float:
        """The share of draws ``(n, dim)`` nearer to the left mode."""
        return float((z[..., 0] < 0.5 * (self.left + self.right)).double().mean())


class Quartic(nn.Module):
    """Energy stiff z^4/4 + slope z, summed over dimensions: a density with no closed form."""

    def __init__(self, stiff: float = 0.3, slope: float = 0.7) -> None:
        super().__init__()
        self.stiff = nn.Parameter(torch.tensor(stiff, dtype=torch.float64))
        self.slope = nn.Parameter(torch.tensor(slope, dtype=torch.float64))

    def forward(self, z: Tensor) -> Tensor:
        return (self.stiff * z**4 / 4 + self.slope * z).sum(-1)


class LearnedNormal(nn.Module):
    """The base N(loc, exp(log_scale)^2) in one dimension, of event shape (1,)."""

    def __init__(self, loc: float = 0.4, log_scale: float = 0.2) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([loc], dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.tensor([log_scale], dtype=torch.float64))

    def forward(self) -> Any:
        return dist.Normal(self.loc, self.log_scale.exp()).to_event(1)


GRID = torch.linspace(-9.0, 9.0, 6001, dtype=torch.float64)[:, None]


def log_unnormalised(energy: nn.Module, base: nn.Module) -> Tensor:
    """-E + log b on `GRID`."""
    on_grid: Tensor = base().log_prob(GRID) - energy(GRID)
    return on_grid


def quadrature_log_z(energy: nn.Module, base: nn.Module) -> Tensor:
    """log Z by the trapezoidal rule, exact to rounding for densities that vanish at the ends."""
    return torch.trapezoid(log_unnormalised(energy, base).exp(), GRID[:, 0]).log()


def quadrature_draws(energy: nn.Module, base: nn.Module, n: int = 20_000) -> Tensor:
    """``(n, 1)`` quantiles of the density: a sample whose averages are those of the density."""
    with torch.no_grad():
        density = log_unnormalised(energy, base).exp()
        cdf = torch.cumulative_trapezoid(density, GRID[:, 0])
        cdf = torch.cat([cdf.new_zeros(1), cdf]) / cdf[-1]
        level = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        right = torch.searchsorted(cdf, level).clamp(1, len(cdf) - 1)
        below, above = cdf[right - 1], cdf[right]
        share = ((level - below) / (above - below)).unsqueeze(-1)
        return torch.lerp(GRID[right - 1], GRID[right], share)
