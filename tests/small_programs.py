"""A linear-Gaussian program and an encoder for it: what `fit` is tried on."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

from pyro_lebm.inference.draws import Draws
from pyro_lebm.series import Series

QUIET: dict[str, Any] = {"progress": False, "batch_size": 16}


class Linear(PyroModule):
    """z ~ N(0, 1), x ~ N(weight z + bias, 1): its marginal likelihood is known."""

    def __init__(self, width: int = 2, name: str = "") -> None:
        super().__init__(name)
        self.net = nn.Linear(1, width)

    def forward(self, series: Series) -> None:
        net = self.net
        with pyro.plate("sequences", series.total, subsample=series.index):
            z = pyro.sample("z0", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            x = dist.Normal(net(z).unsqueeze(-1), 1.0).mask(series.mask).to_event(2)
            pyro.sample("x", x, obs=series.filled)


class Encoder(PyroModule):
    loss_name = "negative ELBO"

    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.encoder = nn.Linear(width, 1)
        self.scale: Any = PyroParam(torch.tensor(0.5), constraint=dist.constraints.positive)

    def forward(self, series: Series) -> None:
        encoder, scale = self.encoder, self.scale
        with pyro.plate("sequences", series.total, subsample=series.index):
            loc = encoder(series.filled[..., 0])
            pyro.sample("z0", dist.Normal(loc, scale).to_event(1))

    def posterior(self, series: Series, draws: int) -> Draws:
        loc = self.encoder(series.filled[..., 0]).detach()
        noise = torch.randn(1, draws, *loc.shape)
        return Draws({"z0": loc + self.scale.detach() * noise}, method="encoder")


def data(n: int = 64, width: int = 2, mean: float = 1.0) -> Series:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n, 1, 1, generator=generator)
    values = mean + 2.0 * z + torch.randn(n, width, 1, generator=generator)
    return Series(torch.arange(float(width)), values)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def changed(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {n for n, p in module.named_parameters() if not torch.equal(p, before[n])}
