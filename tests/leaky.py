"""A stepwise model that is small, and irregular data with hidden entries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pyro_lebm.models import GaussianEmission
from pyro_lebm.models.stepwise import StepwiseModel
from pyro_lebm.series import Series


class Leaky(StepwiseModel):  # type: ignore[misc]
    """A state that leaks, driven by noise that grows with the gap."""

    def __init__(self, **options: Any) -> None:
        super().__init__(2, 1, 2, prior=None, emission=GaussianEmission(2, 1), **options)
        self.kept = nn.Parameter(torch.tensor(0.9))
        self.steps = 0

    def step(self, z: Tensor, gap: Tensor, noise: Tensor, u: Tensor | None = None) -> Tensor:
        self.steps += 1
        moved = self.kept * z + gap * noise
        return moved if u is None else moved + u


def walks(n: int = 5, length: int = 6, *, shared: bool = False, hidden: int = 0) -> Series:
    """Values with some entries hidden, and the last ``hidden`` of each sequence."""
    times = torch.rand((length,) if shared else (n, length)).cumsum(-1)
    mask = torch.rand(n, length, 1) > 0.3
    mask[:, 0], mask[:, length - hidden :] = True, False
    return Series(times, torch.where(mask, torch.randn(n, length, 1), torch.nan))
