"""A Gaussian hierarchy of two sites under a quadratic energy: all of its tilt is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_lebm.tilting.coordinates import Own
from pyro_lebm.tilting.tilt import Tilt


def number(value: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(value, dtype=torch.float64))


class Hierarchy(PyroModule):
    """top ~ N(0, 1), low ~ N(weight top + bias, scale^2)."""

    def __init__(self, rows: int | None = None, index: Tensor | None = None) -> None:
        super().__init__()
        self.weight, self.bias, self.log_scale = number(0.7), number(0.2), number(-0.3)
        self.rows, self.index = rows, index

    def forward(self) -> Tensor:
        if self.rows is None:
            return self.sites()
        with pyro.plate("rows", self.rows, subsample=self.index):
            return self.sites()

    def sites(self) -> Tensor:
        zero = torch.zeros(1, dtype=torch.float64)
        top = pyro.sample("top", dist.Normal(zero, 1.0).to_event(1))
        loc = self.weight * top + self.bias
        low: Tensor = pyro.sample("low", dist.Normal(loc, self.log_scale.exp()).to_event(1))
        return low


class Quadratic(nn.Module):
    """E = a low^2 / 2 + b low top + c low + d top."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = number(0.5), number(0.12), number(0.3), number(-0.2)

    def forward(self, sites: Mapping[str, Tensor]) -> Tensor:
        low, top = sites["low"][..., 0], sites["top"][..., 0]
        return 0.5 * self.a * low**2 + self.b * low * top + self.c * low + self.d * top


class Exact(NamedTuple):
    """The tilted density of (top, low): N(mean, cov), and the log of its constant."""

    mean: Tensor
    cov: Tensor
    log_z: Tensor

    def draws(self, n: int) -> dict[str, Tensor]:
        """Exact ones, ``(n, 1)`` each."""
        normal = torch.distributions.MultivariateNormal(self.mean.detach(), self.cov.detach())
        top, low = normal.sample(torch.Size((n,))).unsqueeze(-1).unbind(1)
        return {"top": top, "low": low}


def exact(program: Hierarchy, energy: Quadratic) -> Exact:
    """In closed form, as a function of all parameters."""
    w, b, precision = program.weight, program.bias, (-2 * program.log_scale).exp()
    one = torch.ones_like(w)
    across = energy.b - w * precision
    rows = [
        torch.stack([one + w**2 * precision, across]),
        torch.stack([across, precision + energy.a]),
    ]
    precisions = torch.stack(rows)
    linear = torch.stack([-w * b * precision - energy.d, b * precision - energy.c])
    mean = torch.linalg.solve(precisions, linear)
    # of the normalised p: -log(2 pi) - log scale - bias^2 / (2 scale^2)
    log_z = 0.5 * (linear @ mean - torch.logdet(precisions)) - program.log_scale
    return Exact(mean, torch.linalg.inv(precisions), log_z - 0.5 * b**2 * precision)


def log_joint(program: Hierarchy, energy: Quadratic, values: Mapping[str, Tensor]) -> Tensor:
    """The normalised tilted log density of each of ``(n, 1)`` values."""
    top, low = values["top"][..., 0], values["low"][..., 0]
    at_low = dist.Normal(program.weight * top + program.bias, program.log_scale.exp())
    base = dist.Normal(0.0, 1.0).log_prob(top) + at_low.log_prob(low)
    found: Tensor = base - energy(values) - exact(program, energy).log_z
    return found


class ExactTilt(Tilt):
    """A tilt of the hierarchy whose negatives are a quadrature: gradients have no noise."""

    def __init__(self, program: Hierarchy, energy: Quadratic, **options: Any) -> None:
        self.calls = 0
        super().__init__(program, energy, **{"num_chains": 8, **options})

    def _negatives(self) -> Tensor:
        self.calls += 1
        program, energy = self.program, self.energy.energy
        assert isinstance(program, Hierarchy) and isinstance(energy, Quadratic)
        known = exact(program, energy)
        # points whose moments up to the third are those of the normal distribution
        root = torch.linalg.cholesky(known.cov.detach()) * math.sqrt(2)
        points = known.mean.detach() + torch.cat([root.T, -root.T])
        if self.names != ("top", "low"):
            raise AssertionError(self.names)
        if isinstance(self.coordinates, Own):
            return points
        top, low = points.T
        at = program.weight * top + program.bias
        return torch.stack([top, (low - at) / program.log_scale.exp()], -1).detach()
