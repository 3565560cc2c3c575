"""A program whose posterior has two modes of unequal, known weight: x = z^2 + noise."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_lebm.prior import EnergyPrior
from pyro_lebm.series import Series

SIGMA, SHIFT = 0.3, 0.3


class Shifted(nn.Module):
    """z ~ N(SHIFT, 1)."""

    def forward(self) -> dist.TorchDistribution:
        normal: dist.TorchDistribution = dist.Normal(torch.full((1,), SHIFT), 1.0).to_event(1)
        return normal


class Slope(nn.Module):
    """E(z) = -SHIFT z turns N(0, 1) into N(SHIFT, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(SHIFT))

    def forward(self, z: Tensor) -> Tensor:
        return -self.slope * z[..., 0]


class Squares(PyroModule):
    """Both signs of z explain x; the prior prefers one."""

    def __init__(self, energy: bool = False) -> None:
        super().__init__()
        self.prior: nn.Module = EnergyPrior(Slope(), 1, num_chains=64) if energy else Shifted()

    def forward(self, series: Series) -> None:
        prior = self.prior
        with pyro.plate("sequences", series.total, subsample=series.index):
            z = pyro.sample("z0", prior())
            loc = z.square().unsqueeze(-2).expand(*z.shape[:-1], series.length, 1)
            x = dist.Normal(loc, SIGMA).mask(series.mask).to_event(2)
            pyro.sample("x", x, obs=series.filled)


def squares(n: int = 6) -> Series:
    """Sequences whose |z| is clearly not 0, so that the modes are apart."""
    generator = torch.Generator().manual_seed(1)
    z = 0.9 + 0.8 * torch.rand(n, 1, 1, generator=generator)
    return Series(torch.arange(2.0), z**2 + SIGMA * torch.randn(n, 2, 1, generator=generator))


def positive(series: Series) -> Tensor:
    """Exact p(z > 0 | x), (N,), by quadrature."""
    z = torch.linspace(-6, 6, 6001, dtype=torch.float64)
    density = -0.5 * (z - SHIFT) ** 2
    residual = (series.values.double() - z**2) / SIGMA  # (N, T, grid)
    weight: Tensor = (density - 0.5 * residual.square().sum(1)).softmax(-1)
    return weight[:, z > 0].sum(-1)
