"""Programs of every kind, to be scored by Pyro's potential and by ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroSample
from torch import Tensor

from pyro_lebm.distribution import EnergyBased
from untyped import PyroLinear, poutine

MODELS: dict[str, Callable[[], Any]] = {}
X = torch.linspace(-2.0, 2.0, 24, dtype=torch.float64)


def model(fn: Callable[[], Any]) -> Callable[[], Any]:
    MODELS[fn.__name__] = fn
    return fn


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)


@model
def hierarchy() -> None:
    mu = pyro.sample("mu", dist.Normal(zeros(), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0 + zeros()))
    with pyro.plate("schools", 8):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("x", dist.Normal(theta, 2.0), obs=X[:8])


@model
def many_supports() -> None:
    pyro.sample("gamma", dist.Gamma(2.0 + zeros(), 1.0))
    pyro.sample("beta", dist.Beta(2.0 + zeros(3), 1.5).to_event(1))
    pyro.sample("uniform", dist.Uniform(zeros(2) - 1, 3.0))
    pyro.sample("lognormal", dist.LogNormal(zeros(), 1.0))
    pyro.sample("student", dist.StudentT(4.0 + zeros(), 0.0, 1.0))
    pyro.sample("exponential", dist.Exponential(1.0 + zeros()))
    pyro.sample("halfnormal", dist.HalfNormal(1.0 + zeros(2)).to_event(1))
    pyro.sample("laplace", dist.Laplace(zeros(), 2.0))
    pyro.sample("weibull", dist.Weibull(1.0 + zeros(), 2.0))
    pyro.sample("pareto", dist.Pareto(1.0 + zeros(), 3.0))


@model
def simplex_and_cholesky() -> None:
    pyro.sample("weights", dist.Dirichlet(2.0 + zeros(4)))
    corr = pyro.sample("corr", dist.LKJCholesky(3, 1.0 + zeros()))
    sd = pyro.sample("sd", dist.LogNormal(zeros(3), 0.3).to_event(1))
    with pyro.plate("n", 8):
        tril = sd.diag_embed() @ corr
        pyro.sample("x", dist.MultivariateNormal(zeros(3), scale_tril=tril), obs=X.reshape(8, 3))


@model
def batched_simplex() -> None:
    with pyro.plate("rows", 5, dim=-2), pyro.plate("columns", 2, dim=-1):
        weights = pyro.sample("weights", dist.Dirichlet(1.0 + zeros(3)))
        pyro.sample("corr", dist.LKJCholesky(2, 1.0 + zeros()))
        pyro.sample("x", dist.Categorical(weights), obs=torch.arange(10).reshape(5, 2) % 3)


@model
def nested_plates() -> None:
    with pyro.plate("groups", 3, dim=-2):
        a = pyro.sample("a", dist.Normal(zeros(), 1.0))
        s = pyro.sample("s", dist.LogNormal(zeros(2), 1.0).to_event(1))
        with pyro.plate("items", 4, dim=-1):
            b = pyro.sample("b", dist.Normal(a, 1.0))
            c = pyro.sample("c", dist.Normal(zeros(2, 2), 1.0).to_event(2))
            loc = b + s.sum(-1) * c.sum((-1, -2))
            pyro.sample("x", dist.Normal(loc, 1.0), obs=X[:12].reshape(3, 4))


@model
def crossed_plates() -> None:
    rows, columns = pyro.plate("rows", 3, dim=-2), pyro.plate("columns", 4, dim=-1)
    with rows:
        r = pyro.sample("r", dist.Normal(zeros(), 1.0))
    with columns:
        c = pyro.sample("c", dist.Gamma(2.0 + zeros(), 2.0))
    with rows, columns:
        pyro.sample("x", dist.Normal(r, c), obs=X[:12].reshape(3, 4))


@model
def masks_scales_factors() -> None:
    mask = torch.arange(6) % 2 == 0
    with pyro.plate("n", 6):
        with poutine.mask(mask=mask):
            z = pyro.sample("z", dist.Gamma(2.0 + zeros(), 1.0))
        with poutine.scale(scale=0.3):
            y = pyro.sample("y", dist.Normal(z, 1.0))
            pyro.sample("x", dist.Normal(y, 1.0).mask(~mask), obs=X[:6])
        pyro.factor("bend", -0.1 * y**4)
        pyro.deterministic("twice", 2 * y)
    with poutine.scale(scale=torch.tensor(1.7)), poutine.mask(mask=True):
        pyro.sample("w", dist.LogNormal(zeros(2), 1.0).to_event(1))


@model
def loose_batch() -> None:
    """Dimensions that are neither event nor plate."""
    z = pyro.sample("z", dist.LogNormal(zeros(2, 3), 1.0))
    with pyro.plate("n", 8):
        pyro.sample("x", dist.Normal(z.sum(), 1.0), obs=X[:8])


@model
def one_by_one() -> None:
    a = pyro.sample("a", dist.Normal(zeros(), 1.0))
    for i in map(int, pyro.plate("steps", 3)):
        z = pyro.sample(f"z{i}", dist.Gamma(2.0 + zeros(), 1.0))
        pyro.sample(f"x{i}", dist.Normal(a + z, 1.0), obs=X[i])


@model
def counts() -> None:
    with pyro.plate("n", 6):
        rate = pyro.sample("rate", dist.Gamma(2.0 + zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Poisson(rate).to_event(1), obs=torch.ones(6, 2).double())
        pyro.sample("y", dist.Bernoulli(logits=rate[..., 0]), obs=torch.ones(6).double())


@model
def tilted() -> None:
    base = dist.Normal(zeros(2), 1.0).to_event(1)
    with pyro.plate("n", 4):
        z = pyro.sample("z", EnergyBased(lambda z: (z**4).sum(-1), base))
        pyro.sample("x", dist.Normal(z[..., 0], 0.5), obs=X[:4])


class Bayesian(PyroModule):
    """A linear layer with sampled weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = PyroLinear(1, 1)
        self.layer.weight = PyroSample(dist.Normal(zeros(1, 1), 1.0).to_event(2))
        self.layer.bias = PyroSample(dist.Normal(zeros(1), 1.0).to_event(1))

    def forward(self) -> None:
        loc = self.layer(X[:8, None]).squeeze(-1)  # the weights hang in no plate
        with pyro.plate("n", 8):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=X[:8])


MODELS["a_sampled_module"] = Bayesian()


ROWS = torch.linspace(-2.0, 2.0, 24).reshape(4, 6)


def sequences(x: Tensor, index: Tensor | None = None, total: int | None = None) -> None:
    """Rows of x are the elements; each has two latent sites, one of them constrained."""
    rows = pyro.plate("rows", total or len(x), subsample=index, dim=-1)
    with rows:
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        s = pyro.sample("s", dist.LogNormal(0.0, 1.0))
        loc = z.sum(-1, keepdim=True)
        pyro.sample("x", dist.Normal(loc, s.unsqueeze(-1)).expand(x.shape).to_event(1), obs=x)
