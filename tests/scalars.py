"""One number behind each sequence: the shortest program whose maximum likelihood is known."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_lebm.series import Series

SIGMA = 0.5


class Scalars(PyroModule):
    """z ~ N(loc, scale), x ~ N(z, SIGMA): x is N(loc, scale^2 + SIGMA^2)."""

    def __init__(self, loc: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(loc))
        self.log_scale = nn.Parameter(torch.tensor(scale).log())

    def forward(self, series: Series) -> None:
        loc, scale = self.loc, self.log_scale.exp()
        with pyro.plate("sequences", series.total, subsample=series.index):
            z = pyro.sample("z0", dist.Normal(loc, scale))
            x = dist.Normal(z[..., None, None], SIGMA).expand((*z.shape, 1, 1)).to_event(2)
            pyro.sample("x", x, obs=series.filled)

    @property
    def estimate(self) -> Tensor:
        """(loc, scale)."""
        return torch.stack([self.loc, self.log_scale.exp()]).detach()


def scalars(n: int = 200) -> Series:
    """Data of mean about .6 and standard deviation about 1.6."""
    generator = torch.Generator().manual_seed(0)
    return Series(torch.zeros(1), 0.6 + 1.6 * torch.randn(n, 1, 1, generator=generator))


def maximum_likelihood(series: Series) -> Tensor:
    """The exact (loc, scale)."""
    x = series.values.flatten()
    return torch.stack([x.mean(), (x.var(correction=0) - SIGMA**2).sqrt()])


def posterior(series: Series, loc: float, scale: float) -> tuple[Tensor, float]:
    """Exact mean (N,) and standard deviation of z given x."""
    precision = scale**-2 + SIGMA**-2
    x = series.values.flatten()
    return (loc / scale**2 + x / SIGMA**2) / precision, precision**-0.5
