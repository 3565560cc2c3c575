"""A linear Gaussian process of known smoothing, and what the best filter of its states reaches.

z_1 ~ N(0, 1), z_k = a z_{k-1} + sqrt(Q) e_k, x_k ~ N(z_k, R), with a² + Q = 1: stationary.
"""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor

from pyro_lebm.series import Series

A = 0.8
Q = 1 - A**2
STEPS = 6


class LinearGaussian(PyroModule):
    """The process; the covariate of a sequence is the logarithm of its noise R / Q."""

    noise = 1

    def step(self, z: Tensor, gap: Tensor, noise: Tensor, u: Tensor | None = None) -> Tensor:
        return A * z + math.sqrt(Q) * noise

    def forward(self, series: Series) -> None:
        assert series.covariates is not None
        sd = (Q * series.covariates.exp()).sqrt()
        with pyro.plate("sequences", series.total, subsample=series.index, dim=-1):
            z = pyro.sample("z0", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            zero = torch.zeros(STEPS - 1, 1)
            e = pyro.sample("noise", dist.Normal(zero, 1.0).to_event(2))
            states = [z]
            for k in range(STEPS - 1):
                states.append(self.step(states[-1], torch.ones(1), e[..., k, :]))
            x = dist.Normal(torch.stack(states, -2), sd)
            pyro.sample("x", x.mask(series.mask).to_event(2), obs=series.filled)


def sequences(n: int, ratios: Tensor, seed: int = 0) -> Series:
    """``n`` of each ratio R / Q, one after the other."""
    g = torch.Generator().manual_seed(seed)
    ratio = ratios.repeat_interleave(n)
    z = torch.randn(len(ratio), generator=g)
    states = [z]
    for _ in range(STEPS - 1):
        states.append(A * states[-1] + math.sqrt(Q) * torch.randn(len(ratio), generator=g))
    path = torch.stack(states, -1)
    x = path + (Q * ratio[:, None]).sqrt() * torch.randn(path.shape, generator=g)
    covariates = ratio.log()[:, None, None].expand(-1, STEPS, 1)
    return Series(torch.arange(float(STEPS)), x[..., None], covariates=covariates)


def covariance(r: float) -> Tensor:
    """Of the observations."""
    k = torch.arange(STEPS)
    return A ** (k[:, None] - k).abs().double() + r * torch.eye(STEPS, dtype=torch.float64)


def evidence(series: Series) -> Tensor:
    """Exact log p(x), ``(N,)``."""
    assert series.covariates is not None
    found = [
        dist.MultivariateNormal(
            torch.zeros(STEPS, dtype=torch.float64), covariance(Q * float(ratio))
        ).log_prob(x.double())
        for x, ratio in zip(series.values[..., 0], series.covariates[:, 0, 0].exp(), strict=True)
    ]
    return torch.stack(found)


def filter_bound(ratio: float) -> float:
    r"""E[ELBO] of the best q(z_k | z_{k-1}, x_{1:k}), in closed form.

    By dynamic programming: with the filter's mean m of x_{1:k}, the value V_k(z_k, m_k) of what is
    still to come is quadratic, and

    .. math:: V_{k-1}(z, m) = E_x \log \int p(z' \mid z) p(x \mid z') \exp V_k(z', m') dz'.

    The best q is proportional to the integrand. A form is ``M`` in ½ y' M y, the last entry of y
    being 1.
    """
    r, variance = Q * ratio, 1.0
    gains, spreads = [], []
    for k in range(STEPS):
        if k:
            variance = A**2 * variance + Q
        spreads.append(variance + r)
        gains.append(variance / (variance + r))
        variance *= 1 - gains[-1]
    value = torch.zeros(3, 3, dtype=torch.float64)  # of (z, m, 1)
    for k in reversed(range(STEPS)):
        a, q = (A, Q) if k else (0.0, 1.0)
        # y = (z', x, z, m, 1); rows of what is squared
        new = torch.zeros(3, 5, dtype=torch.float64)  # (z', m', 1) from y
        new[0, 0], new[2, 4] = 1.0, 1.0
        new[1, 1], new[1, 3] = gains[k], (1 - gains[k]) * a
        form = new.mT @ value @ new
        for row, v in (((1.0, 0, -a, 0, 0), q), ((1.0, -1.0, 0, 0, 0), r)):
            d = torch.tensor(row, dtype=torch.float64)
            form = form - torch.outer(d, d) / v
            form[4, 4] -= math.log(2 * math.pi * v)
        # the integral over z'
        form = _without_first(form, 2 * math.pi)
        # x = a m + sqrt(spread) e, e ~ N(0, 1)
        at = torch.zeros(4, 3, dtype=torch.float64)  # (x, z, m, 1) from (z, m, 1)
        at[0, 1], at[1, 0], at[2, 1], at[3, 2] = a, 1.0, 1.0, 1.0
        value = at.mT @ form @ at
        value[2, 2] += form[0, 0] * spreads[k]
    return 0.5 * float(value[2, 2])


def _without_first(form: Tensor, constant: float) -> Tensor:
    """log of the integral of exp(½ y' form y) over the first entry, as a form of the others."""
    rest = form[1:, 1:] - torch.outer(form[1:, 0], form[0, 1:]) / form[0, 0]
    rest[-1, -1] += torch.log(constant / -form[0, 0])
    return rest


def exact_bound(ratio: float) -> float:
    """E[log p(x)]."""
    return -0.5 * float(torch.logdet(covariance(Q * ratio)) + STEPS * (math.log(2 * math.pi) + 1))
