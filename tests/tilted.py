"""A model of fixed points whose one site is energy-based, with a learned energy and base."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pyro
import torch
from pyro.infer import (
    Trace_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.nn import PyroModule
from torch import Tensor

from pyro_lebm.distribution import EnergyBased
from scenarios import (
    LearnedNormal,
    Quartic,
    quadrature_draws,
)
from untyped import poutine

POINTS = torch.linspace(-1.5, 1.0, 12, dtype=torch.float64)[:, None]  # (12, 1)
ROWS = POINTS.reshape(3, 4, 1)
MASK = torch.arange(12) % 3 != 0
ELBOS: list[type[Any]] = [Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO]


class Counted:
    """Exact negatives, and how often they were asked for."""

    def __init__(self, tilted: Tilted) -> None:
        self.tilted, self.calls = tilted, 0

    def __call__(self) -> Tensor:
        self.calls += 1
        return quadrature_draws(self.tilted.energy, self.tilted.base)


class Tilted(PyroModule):
    """A model of the points: its one site is energy-based, with a learned energy and base."""

    def __init__(self, place: str = "plain", observed: bool = True) -> None:
        super().__init__()
        self.energy, self.base = Quartic(), LearnedNormal()
        self.place, self.observed = place, observed
        self.count = Counted(self)

    def density(self) -> EnergyBased:
        return EnergyBased(self.energy, self.base(), negatives=self.count)

    def forward(self) -> Tensor:
        index = torch.arange(0, 12, 4)
        fn: Any = self.density()
        points, around, size, subsample = POINTS, [], 12, None
        if self.place == "subsampled":
            points, subsample = POINTS[index], index
        elif self.place == "scale":
            around = [poutine.scale(scale=0.3)]
        elif self.place == "mask":
            around = [poutine.mask(mask=MASK)]
        elif self.place == "masked":
            fn = fn.expand([12]).mask(MASK)
        elif self.place == "to_event":
            fn, size, points = fn.expand([4]).to_event(1), 3, ROWS
        elif self.place == "expanded":
            fn = fn.expand([1]).expand([12])
        with ExitStack() as stack:
            for context in (pyro.plate("points", size, subsample=subsample, dim=-1), *around):
                stack.enter_context(context)
            value: Tensor = pyro.sample("z", fn, obs=points if self.observed else None)
        return value
