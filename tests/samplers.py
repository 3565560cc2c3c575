"""All kernels by name, and a model with known posterior, shared by the tests of samplers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_lebm.inference import (
    MALA,
    MALT,
    MCLMC,
    ULA,
    Barker,
    Tempered,
    Underdamped,
    VectorizedMCMC,
)
from pyro_lebm.inference.sampling.kernel import Kernel

ADJUSTED: dict[str, Callable[..., Kernel]] = {
    "MALA": MALA,
    "Barker": Barker,
    "MALT": MALT,
    "HMC": lambda *args, **options: MALT(*args, friction=0.0, **options),
    "Tempered": lambda *args, **options: Tempered(*args, temperatures=3, hottest=4.0, **options),
}
UNADJUSTED: dict[str, Callable[..., Kernel]] = {
    "ULA": ULA,
    "Underdamped": Underdamped,
    "MCLMC": MCLMC,
}
KERNELS = {**ADJUSTED, **UNADJUSTED}

COUNTS = torch.tensor([3.0, 5.0, 2.0, 4.0])
HEADS, TOSSES = 7.0, 10.0
SEEN = torch.tensor([[1.0, 0.4], [0.6, 1.2], [1.4, 0.2]])


def conjugate(counts: Tensor = COUNTS) -> None:
    """Several sites, supports and plates; every posterior in closed form (`CONJUGATE`)."""
    rate = pyro.sample("rate", dist.Gamma(3.0, 1.0))
    share = pyro.sample("share", dist.Beta(2.0, 2.0))
    with pyro.plate("groups", 2):
        centre = pyro.sample("centre", dist.Normal(0.0, 2.0))
        with pyro.plate("values", 3):
            pyro.sample("x", dist.Normal(centre, 0.5), obs=SEEN)
    with pyro.plate("counts", len(counts)):
        pyro.sample("n", dist.Poisson(rate), obs=counts)
    pyro.sample("heads", dist.Binomial(int(TOSSES), share), obs=torch.tensor(HEADS))


def _normal() -> dist.Normal:
    precision = 1 / 4 + 3 / 0.25
    return dist.Normal(SEEN.sum(0) / 0.25 / precision, precision**-0.5)


CONJUGATE: dict[str, Any] = {
    "rate": dist.Gamma(3.0 + COUNTS.sum(), 1.0 + len(COUNTS)),
    "share": dist.Beta(2.0 + HEADS, 2.0 + TOSSES - HEADS),
    "centre": _normal(),
}


def might_be_singular() -> None:
    """Its matrix is only where ``scale`` is positive."""
    scale = pyro.sample("scale", dist.Normal(0.6, 0.2))
    pyro.sample("beside", dist.Normal(0.0, 1.0))
    matrix = scale[..., None, None] * torch.eye(2)
    pyro.sample(
        "x",
        dist.MultivariateNormal(torch.zeros(2), scale_tril=torch.linalg.cholesky(matrix)),
        obs=torch.ones(2),
    )


def gaussian(data: Tensor) -> None:
    """Data about an unknown mean."""
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(loc, 1.0).expand(data.shape).to_event(1), obs=data)


def ran(kernel: Kernel, draws: int, warmup: int, *args: Any, **options: Any) -> VectorizedMCMC:
    """A finished run of many chains."""
    mcmc = VectorizedMCMC(kernel, draws, warmup, progress=False, **options)
    mcmc.run(*args)
    return mcmc
