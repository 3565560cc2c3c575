"""The initial state of a model of time: a site of its own, or what a program of sites returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_lebm.distribution import drawn_by, from_base
from pyro_lebm.frozen import apart


def initial(prior: Callable[[], Any]) -> Tensor:
    """The state ``(..., size)``: of site ``z0``, or of the sites that the prior is a program of."""
    drawn = prior()
    if isinstance(drawn, Tensor):
        return drawn
    z0: Tensor = pyro.sample("z0", drawn)
    return z0


def check_initial(prior: Callable[[], Any], size: int) -> None:
    """Refuse a prior of another dimension."""
    with pyro.poutine.block(), apart(prior), drawn_by(from_base), torch.no_grad():
        drawn = prior()
    event = drawn.shape[-1:] if isinstance(drawn, Tensor) else drawn.event_shape
    if event != (size,):
        raise ValueError(f"prior: expected event shape ({size},), got {tuple(event)}")
