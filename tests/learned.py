"""Energy priors to be trained in a step or two."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_lebm.energy import MLPEnergy
from pyro_lebm.prior import EnergyPrior
from untyped import optim


class Model(PyroModule):
    """The prior observed (or, without points, not)."""

    def __init__(self, prior: EnergyPrior, points: Tensor | None) -> None:
        super().__init__()
        self.prior, self.points = prior, points

    def forward(self) -> None:
        with pyro.plate("n", 20 if self.points is None else len(self.points)):
            pyro.sample("z", self.prior(), obs=self.points)


class Quadratic(nn.Module):
    """sum_k a_k z_k^2 / 2 + b_k z_k: with a N(0, I) base, N(-b / (1 + a), 1 / (1 + a))."""

    def __init__(self, dim: int = 2) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(dim))
        self.b = nn.Parameter(torch.zeros(dim))

    def forward(self, z: Tensor) -> Tensor:
        energy: Tensor = (0.5 * self.a * z**2 + self.b * z).sum(-1)
        return energy


def bent(dim: int = 2) -> MLPEnergy:
    """An energy that is not flat."""
    energy = MLPEnergy(dim, hidden=(16,))
    nn.init.normal_(energy.net[-1].weight, std=0.5)  # type: ignore[arg-type]
    return energy


def step_of(model: Model, name: str = "Adam", guide: Any = None, **particles: Any) -> SVI:
    optimiser = getattr(optim, name)({"lr": 1e-2})
    return SVI(model, guide or (lambda: None), optimiser, Trace_ELBO(**particles))


def positions(prior: EnergyPrior) -> Tensor:
    return prior.chains.position.clone()


def noisy_guide() -> None:
    loc = pyro.param("loc", torch.zeros(20, 2))
    with pyro.plate("n", 20):
        pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))
