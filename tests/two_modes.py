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
    """z ~ N(shift, 1)."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def forward(self) -> dist.TorchDistribution:
        normal: dist.TorchDistribution = dist.Normal(torch.full((1,), self.shift), 1.0).to_event(1)
        return normal


class Slope(nn.Module):
    """E(z) = -shift z turns N(0, 1) into N(shift, 1); log Z = shift^2 / 2."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(shift))

    def forward(self, z: Tensor) -> Tensor:
        return -self.slope * z[..., 0]


class Squares(PyroModule):
    """Both signs of z explain x; the prior prefers one."""

    def __init__(self, energy: bool = False, shift: float = SHIFT) -> None:
        super().__init__()
        tilted = EnergyPrior(Slope(shift), 1, num_chains=64)
        self.prior: nn.Module = tilted if energy else Shifted(shift)

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


def quadrature(series: Series, shift: float) -> tuple[Tensor, Tensor]:
    """A grid of z and the log joint density there, (N, grid)."""
    z = torch.linspace(-8, 8, 16001, dtype=torch.float64)
    prior, x = dist.Normal(z.new_tensor(shift), 1.0), dist.Normal(z**2, SIGMA)
    return z, prior.log_prob(z) + x.log_prob(series.values.double()).sum(1)


def positive(series: Series) -> Tensor:
    """Exact p(z > 0 | x), (N,)."""
    z, log_joint = quadrature(series, SHIFT)
    weight: Tensor = log_joint.softmax(-1)
    return weight[:, z > 0].sum(-1)


def evidence(series: Series, shift: float) -> Tensor:
    """Exact log p(x), (N,)."""
    z, log_joint = quadrature(series, shift)
    found: Tensor = log_joint.logsumexp(-1) + (z[1] - z[0]).log()
    return found
