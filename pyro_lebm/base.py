"""Bases of energy-based priors: what an energy tilts."""

from __future__ import annotations

from typing import cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .dynamics.metric import Metric


class StandardNormal(nn.Module):
    """The base N(0, I) on ``dim`` dimensions, following its module's device and dtype.

    Example:
        >>> StandardNormal(3)().event_shape
        torch.Size([3])
    """

    loc: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim: expected at least 1, got {dim}")
        self.register_buffer("loc", torch.zeros(dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """The distribution."""
        standard = dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1)
        return cast(dist.TorchDistribution, standard)


class FullNormal(nn.Module):
    r"""The base N(m, L L^T), to be matched to draws; N(0, I) until then.

    Posterior draws of all training sequences often lie in a thin, tilted cloud: with its mean and
    covariance in the base, an energy has only the cloud's shape left to learn, and its chains move
    in coordinates in which the cloud is round. An `EnergyPrior` shows such a base's energy the
    white coordinates :math:`L^{-1}(z - m)`.

    m, L and its inverse are buffers: `match` sets them, gradients do not.

    Example:
        >>> base = FullNormal(2)
        >>> draws = torch.tensor([[0.0, 0.0], [2.0, 2.1], [4.0, 3.9], [6.0, 6.0]])
        >>> base.match(draws)
        >>> base().mean
        tensor([3., 3.])
        >>> base.white(draws).T.cov().round(decimals=3)
        tensor([[1., 0.],
                [0., 1.]])
    """

    loc: Tensor
    scale_tril: Tensor
    whitener: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim: expected at least 1, got {dim}")
        self.register_buffer("loc", torch.zeros(dim))
        self.register_buffer("scale_tril", torch.eye(dim))
        self.register_buffer("whitener", torch.eye(dim))

    def forward(self) -> dist.TorchDistribution:
        """The distribution."""
        full = dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril)
        return cast(dist.TorchDistribution, full)

    @torch.no_grad()
    def match(self, draws: Tensor) -> None:
        """Take the mean and the covariance of ``(n, dim)``.

        Raises:
            ValueError: for another shape, draws that are not finite, or a singular covariance.
        """
        dim = len(self.loc)
        if draws.ndim != 2 or draws.shape[1] != dim:
            raise ValueError(f"draws: expected shape (n, {dim}), got {tuple(draws.shape)}")
        x = draws.double()
        factor, failed = torch.linalg.cholesky_ex(x.T.cov().reshape(dim, dim))
        if not bool(torch.isfinite(factor).all()) or int(failed):
            raise ValueError(
                f"draws: expected finite ones that span all {dim} dimensions, got {len(draws)} of "
                "singular covariance"
            )
        self.loc.copy_(x.mean(0))
        self.scale_tril.copy_(factor)
        self.whitener.copy_(factor.inverse())

    def white(self, z: Tensor) -> Tensor:
        """Coordinates ``(*batch, dim)`` in which the base is N(0, I)."""
        return (z - self.loc) @ self.whitener.mT


def white_metric(base: dist.TorchDistribution) -> Metric | None:
    """Coordinates in which a normal base is round, where it is not already as its own are."""
    if isinstance(base, dist.MultivariateNormal):
        return Metric(base.loc.detach(), base.scale_tril.detach())
    return None


class OfWhite(nn.Module):
    """An energy of a base's white coordinates, as an energy of positions."""

    def __init__(self, energy: nn.Module, base: FullNormal) -> None:
        super().__init__()
        self.energy = energy
        self._base = (base,)  # in a tuple: the base is not this module's own

    def forward(self, z: Tensor) -> Tensor:
        """``(*batch, dim) -> (*batch)``."""
        energy: Tensor = self.energy(self._base[0].white(z))
        return energy
