"""Gaussians seen through noise: denoisers that are exact, and one that is not."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pyro_lebm.diffusion.denoising import Denoise
from pyro_lebm.diffusion.schedule import alpha_bar

M = TypeVar("M", bound=nn.Module)
MEAN, VARIANCE = torch.tensor([0.7, -1.0]).double(), torch.tensor([0.3, 2.0]).double()
SQUARES = torch.distributions.Normal(MEAN, VARIANCE.sqrt())


def exact(mean: Tensor = MEAN, variance: Tensor = VARIANCE, *, spread: bool = False) -> Denoise:
    """E[x | u] of a Gaussian x, and its standard deviation."""

    def denoise(u: Tensor, level: Tensor) -> Any:
        a = alpha_bar(level)
        total = a * variance + 1 - a
        clean = mean + variance * a.sqrt() * (u - a.sqrt() * mean) / total
        return (clean, (variance * (1 - a) / total).sqrt()) if spread else clean

    return denoise


class Bumps(nn.Module):
    """A denoiser that is wrong, with a weight to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.3).double())

    def forward(self, u: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(self.weight * u + level), 0.3 + 0.2 * torch.cos(u)


class Shear(nn.Module):
    """A map of the plane of determinant 1."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[..., 0], x[..., 1] + torch.sin(2 * x[..., 0])], -1)

    def inverse(self, y: Tensor) -> Tensor:
        return torch.stack([y[..., 0], y[..., 1] - torch.sin(2 * y[..., 0])], -1)


def stirred(module: M, by: float = 0.1) -> M:
    """The same with random weights where it starts with zeros."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(by * torch.randn_like(p))
    return module
