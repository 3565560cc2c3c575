"""Pyro models of many kinds, for what compiles them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_lebm import EnergyBased, EnergyPrior, FullNormal, MLPEnergy, trajectory
from pyro_lebm.programs.potential import Potential, potential
from samplers import conjugate


def univariate() -> None:
    pyro.sample("a", dist.Normal(1.0, 2.0))
    pyro.sample("b", dist.HalfCauchy(2.0))
    pyro.sample("c", dist.Beta(2.0, 3.0))
    pyro.sample("d", dist.Gamma(2.0, 3.0))
    pyro.sample("e", dist.StudentT(4.0, 0.0, 1.0))
    pyro.sample("f", dist.Uniform(-1.0, 3.0))
    pyro.sample("g", dist.Laplace(0.0, 1.0))
    pyro.sample("h", dist.LogNormal(0.0, 1.0))
    pyro.sample("i", dist.Weibull(2.0, 1.5))
    pyro.sample("j", dist.Gumbel(0.0, 1.0))
    pyro.sample("k", dist.VonMises(0.3, 2.0).mask(False))
    pyro.sample("l", dist.InverseGamma(3.0, 2.0))


def multivariate() -> None:
    p = pyro.sample("p", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
    chol = pyro.sample("chol", dist.LKJCholesky(3, 1.5))
    scale = pyro.sample("scale", dist.HalfNormal(torch.ones(3)).to_event(1))
    x = pyro.sample("x", dist.MultivariateNormal(torch.zeros(3), scale_tril=scale[:, None] * chol))
    cov = torch.eye(3) + x[:, None] * x
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(3), cov), obs=torch.ones(3))
    pyro.sample("z", dist.Categorical(p), obs=torch.tensor(2))


MASK: Any = torch.eye(4, 3).bool()


def structured() -> None:
    with pyro.plate("groups", 3):
        centre = pyro.sample("centre", dist.Normal(0.0, 1.0))
        with pyro.plate("values", 4), pyro.poutine.mask(mask=MASK):
            pyro.sample("x", dist.Poisson(centre.exp()), obs=torch.ones(4, 3))
    with pyro.poutine.scale(scale=3.0):
        pyro.sample("count", dist.Binomial(10, logits=centre).to_event(1), obs=torch.ones(3))
    pyro.factor("extra", -(centre**4).sum())
    weights = torch.softmax(centre, -1)
    pyro.deterministic("first", weights[0] * 2)
    mixture = dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(centre, 1.0))
    pyro.sample("m", mixture, obs=torch.tensor(0.3))


class Tilted(pyro.nn.PyroModule):
    """An energy-based site, and a trajectory from it."""

    def __init__(self, step: float = 0.25) -> None:
        super().__init__()
        self.energy, self.field, self.step = MLPEnergy(2, (8,)), nn.Linear(2, 2), step
        nn.init.normal_(list(self.energy.parameters())[-2])

    def forward(self, times: Tensor) -> None:
        base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        z0 = pyro.sample("z0", EnergyBased(self.energy, base))
        path = trajectory(
            lambda t, z: torch.tanh(self.field(z)) * torch.cos(t), z0, times, step_size=self.step
        )
        pyro.sample("x", dist.Normal(path, 0.5).to_event(2), obs=torch.zeros(len(times), 2))


class Layers(pyro.nn.PyroModule):
    """Layers of a convolutional emission, and of a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.norm = nn.LayerNorm(6)
        self.down = nn.Conv2d(6, 3, (3, 2), stride=(2, 1), padding=1, dilation=(1, 2), groups=3)

    def forward(self) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(2, 4, 3, 3), 1.0).to_event(4))
        up = self.norm(torch.tanh(self.up(z)))
        pyro.sample(
            "x", dist.Normal(self.down(up).sum((1, 2)), 1.0).to_event(2), obs=torch.zeros(())
        )


class Matched(pyro.nn.PyroModule):
    """A learned prior with a full base."""

    def __init__(self) -> None:
        super().__init__()
        base = FullNormal(2)
        base.match(torch.randn(20, 2) @ torch.tensor([[1.0, 0.5], [0.0, 0.3]]))
        self.prior = EnergyPrior(MLPEnergy(2, (8,)), base, num_chains=8)

    def forward(self) -> None:
        with pyro.plate("sequences", 3):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=torch.ones(3, 2))


def random_walk() -> None:
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    one = torch.eye(1)
    start, seen = (dist.MultivariateNormal(torch.zeros(1), one) for _ in range(2))
    step = dist.MultivariateNormal(torch.zeros(1), scale * one)
    pyro.sample(
        "x", dist.GaussianHMM(start, one, step, one, seen, duration=4), obs=torch.ones(4, 1)
    )


def picking(mask: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(z[mask].sum(), 1.0), obs=torch.tensor(1.0))


TIMES = torch.tensor([0.1, 0.7, 1.3, 2.0, 4.0])
MODELS: dict[str, Callable[[], Potential]] = {
    "univariate": lambda: potential(univariate),
    "multivariate": lambda: potential(multivariate),
    "structured": lambda: potential(structured),
    "conjugate": lambda: potential(conjugate),
    "energy and trajectory": lambda: potential(Tilted(), TIMES),
    "layers": lambda: potential(Layers()),
    "matched base": lambda: potential(Matched()),
    "random walk": lambda: potential(random_walk),
}


class Seen(nn.Module):
    """A mean that a user's own network makes of each element's latent value."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor, mask: Tensor, scale: float = 0.9) -> None:
        with pyro.plate("n", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = self.second(torch.tanh(self.first(z)))
            seen = dist.Normal(mean, scale).mask(mask).to_event(1)
            pyro.sample("x", seen, obs=x)


def seen(seed: int = 0, n: int = 5) -> tuple[Seen, Tensor, Tensor]:
    torch.manual_seed(seed)
    return Seen(), torch.randn(n, 2), torch.rand(n, 2) < 0.5
