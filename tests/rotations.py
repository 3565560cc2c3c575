"""A latent ODE that is linear and Gaussian: its likelihood and posterior are known exactly."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_lebm.models import LatentODE
from pyro_lebm.series import Series

SIGMA = 0.3
TRUTH = (2.5, 1.5, 0.5)  # frequency, weight, offset of the data


class Rotation(nn.Module):
    """The plane turns, the angle w t counted from the first axis; the frequency w is learned."""

    def __init__(self, frequency: float) -> None:
        super().__init__()
        self.frequency = nn.Parameter(torch.tensor(frequency))

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return self.frequency * torch.stack([-z[..., 1], z[..., 0]], -1)


class FirstCoordinate(nn.Module):
    """x ~ N(weight z1 + offset, SIGMA)."""

    def __init__(self, weight: float, offset: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.offset = nn.Parameter(torch.tensor(offset))

    def forward(self, path: Tensor) -> dist.TorchDistribution:
        return dist.Normal(self.weight * path[..., :1] + self.offset, SIGMA)


def rotating(
    frequency: float = TRUTH[0], weight: float = TRUTH[1], offset: float = TRUTH[2], **kwargs: Any
) -> LatentODE:
    """z0 ~ N(0, I) in the plane, turning, its first coordinate observed."""
    field, emission = Rotation(frequency), FirstCoordinate(weight, offset)
    return LatentODE(2, 1, field=field, emission=emission, **{"tolerance": 1e-5} | kwargs)


def swings(n: int, length: int = 6, *, hidden: float = 0.25, seed: int = 0) -> Series:
    """Data drawn from the model at `TRUTH`; hidden entries are NaN."""
    g = torch.Generator().manual_seed(seed)
    times = (1.2 * torch.rand(length, generator=g)).sort().values
    z0 = torch.randn(n, 2, 1, generator=g)
    noise = SIGMA * torch.randn(n, length, 1, generator=g)
    values = design(times, *TRUTH[:2]) @ z0 + TRUTH[2] + noise
    seen = torch.rand(n, length, 1, generator=g) > hidden
    seen[:, 0] = True
    return Series(times, torch.where(seen, values, torch.nan))


def design(times: Tensor, frequency: Tensor | float, weight: Tensor | float) -> Tensor:
    """The mean of x - offset as a matrix times z0, ``(T, 2)``."""
    angle = frequency * times
    return weight * torch.stack([angle.cos(), -angle.sin()], -1)


def log_likelihood(series: Series, theta: Tensor) -> Tensor:
    """Exact log p(observed entries) per sequence, up to a constant of the mask, in float64."""
    series = series.to(dtype=torch.float64)
    frequency, weight, offset = theta
    rows = design(series.times, frequency, weight)
    seen = series.mask[..., 0]
    both = seen.unsqueeze(-1) & seen.unsqueeze(-2)
    noise = torch.where(seen, SIGMA**2, 1.0).double().diag_embed()
    covariance = torch.where(both, rows @ rows.mT, 0.0) + noise
    x = torch.where(seen, series.filled[..., 0] - offset, 0.0)
    density: Tensor = dist.MultivariateNormal(torch.zeros_like(x), covariance).log_prob(x)
    return density


def evidence(series: Series, theta: tuple[float, float, float] = TRUTH) -> Tensor:
    """Exact log p(observed entries) per sequence."""
    density = log_likelihood(series, torch.tensor(theta, dtype=torch.float64))
    hidden = (~series.mask).sum((-1, -2))
    return density + 0.5 * hidden * torch.log(torch.tensor(2 * torch.pi))


def maximum_likelihood(series: Series) -> tuple[Tensor, Tensor]:
    """(frequency, weight, offset) of the highest likelihood, and the Hessian of -log p there."""
    theta = torch.tensor(TRUTH, dtype=torch.float64, requires_grad=True)

    def loss(at: Tensor) -> Tensor:
        return -log_likelihood(series, at).sum()

    optimiser = torch.optim.LBFGS([theta], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(theta)
        value.backward()
        return value

    optimiser.step(closure)
    found = theta.detach()
    hessian: Tensor = torch.autograd.functional.hessian(loss, found)
    return found, hessian


def posterior(series: Series, theta: tuple[float, float, float] = TRUTH) -> dist.MultivariateNormal:
    """Exact p(z0 | observed entries), batch shape (N,), float64."""
    series = series.to(dtype=torch.float64)
    rows = design(series.times, *theta[:2]) * series.mask
    precision = torch.eye(2, dtype=torch.float64) + rows.mT @ rows / SIGMA**2
    residual = torch.where(series.mask, series.filled - theta[2], 0.0)
    loc = torch.linalg.solve(precision, rows.mT @ residual / SIGMA**2)[..., 0]
    return dist.MultivariateNormal(loc, precision_matrix=precision)
