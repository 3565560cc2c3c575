"""A program whose posterior is known: x = a + b t + c·covariates + noise, (a, b) ~ N(0, I)."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_lebm.series import Series

SIGMA = 0.5


class Lines(pyro.nn.PyroModule):
    """The signature of the library's models; counts how often the data site is scored."""

    def __init__(self) -> None:
        super().__init__()
        self.conditioned = 0

    def forward(
        self,
        series: Series | None = None,
        *,
        times: Tensor | None = None,
        n: int | None = None,
        covariates: Tensor | None = None,
    ) -> None:
        size, rows = (series.total, series.index) if series is not None else (n, None)
        with pyro.plate("sequences", size, subsample=rows):
            prior = dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1)
            z0 = pyro.sample("z0", prior)
            if series is not None:
                self.conditioned += 1
                noise = dist.Normal(mean(z0, series.times, series.covariates), SIGMA)
                pyro.sample("x", noise.mask(series.mask).to_event(2), obs=series.filled)
            if times is not None:
                noise = dist.Normal(mean(z0, times, covariates), SIGMA)
                pyro.sample("x_new", noise.to_event(2))


def mean(z0: Tensor, times: Tensor, covariates: Tensor | None = None) -> Tensor:
    """(..., N, 2) and (T,) or (N, T) -> (..., N, T, 1)."""
    line = z0[..., :1] + z0[..., 1:] * times
    return line[..., None] + (0 if covariates is None else covariates.sum(-1, keepdim=True))


def lines(n: int = 4, length: int = 6, shared: bool = True, driven: bool = False) -> Series:
    """Data drawn from the program, everything observed."""
    times = torch.rand((length,) if shared else (n, length), dtype=torch.float64).cumsum(-1)
    z0 = torch.randn(n, 2, dtype=torch.float64)
    covariates = torch.randn(n, length, 1, dtype=torch.float64) if driven else None
    values = mean(z0, times, covariates)
    values = values + SIGMA * torch.randn_like(values)
    return Series(times, values, covariates=covariates)


def posterior(series: Series) -> dist.MultivariateNormal:
    """Exact p(a, b | observed entries), batch shape (N,); without covariates."""
    times = series.times.expand(len(series), series.length)
    design = torch.stack([torch.ones_like(times), times], -1) * series.mask
    precision = torch.eye(2, dtype=torch.float64) + design.mT @ design / SIGMA**2
    loc = torch.linalg.solve(precision, design.mT @ series.filled / SIGMA**2)[..., 0]
    return dist.MultivariateNormal(loc, precision_matrix=precision)


def evidence(series: Series) -> Tensor:
    """Exact log p(observed entries), (N,); without covariates."""
    scores = []
    for n in range(len(series)):
        times = series.times.expand(len(series), series.length)[n]
        seen = series.mask[n, :, 0]
        design = torch.stack([torch.ones_like(times), times], -1)[seen]
        covariance = design @ design.mT + SIGMA**2 * torch.eye(len(design), dtype=torch.float64)
        gaussian = dist.MultivariateNormal(torch.zeros(len(design)).double(), covariance)
        scores.append(gaussian.log_prob(series.values[n, seen, 0]))
    return torch.stack(scores)
