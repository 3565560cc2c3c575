"""Potentials that a Langevin flow moves in: U(z), and its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .fields import check_sizes


def gradient(potential: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Grad U at ``(..., L)``: by the potential's own ``gradient`` if it has one, else by autograd.

    Works under ``no_grad`` and `torch.func.vmap`; further gradients go through it.

    Example:
        >>> gradient(lambda z: (z**3).sum(-1), torch.tensor([[1.0, 2.0]]))
        tensor([[ 3., 12.]])
    """
    own = getattr(potential, "gradient", None)
    if own is not None:
        return cast(Tensor, own(z))
    slope = torch.func.grad(lambda at: potential(at).sum())
    return cast(Tensor, slope(z))


def check_potential(potential: Callable[[Tensor], Tensor], latent: int) -> None:
    """Refuse what does not give one number per position.

    Raises:
        ValueError: for another shape.
    """
    like = next(potential.parameters(), None) if isinstance(potential, nn.Module) else None
    with torch.no_grad():
        probe = torch.zeros(3, 2, latent) if like is None else like.new_zeros(3, 2, latent)
        found = potential(probe).shape
    if found != (3, 2):
        raise ValueError(
            f"potential: expected one number per position, shape (3, 2) for (3, 2, {latent}), got "
            f"shape {tuple(found)}"
        )
    if (slope := gradient(potential, probe)).shape != probe.shape:
        raise ValueError(
            f"potential: expected a gradient of shape {tuple(probe.shape)}, got "
            f"{tuple(slope.shape)}"
        )


class CoupledOscillators(nn.Module):
    r"""Oscillators on a ring, each coupled to its neighbours; the couplings are learned.

    .. math:: U(z) = \tfrac{1}{2} k |z|^2 + \sum \varphi(z) \cdot (W * \varphi(z)), \quad
              \varphi(z) = s \tanh(z / s)

    The state is ``groups`` channels of L / groups sites, channel by channel; W * is a circular
    convolution over the sites and between the channels. LangevinFlow (Song, Keller, Yue, Perona &
    Welling 2025, arXiv 2507.11531) has the sum alone, with :math:`\varphi(z) = z`: a quadratic form
    that has no lower bound where W has a direction of negative sign, and linear forces. So here
    couplings saturate beyond the reach s and a spring of stiffness k > 0 holds every site: near the
    origin it is the published form beside the spring, :math:`U \ge -s^2 \sum |W|` (W as the matrix
    that the convolution is) whatever the weights, forces grow no faster than z, and couplings
    stronger than the spring make several wells. k and s are learned, both 1 at the start; couplings
    start small.

    Args:
        latent: L, a multiple of ``groups``.
        groups: channels.
        kernel: sites that one is coupled to in each channel, itself among them: odd. On a ring of
            fewer sites they wrap around it.

    Raises:
        ValueError: for a size below 1, an even kernel, a size that ``groups`` does not divide.

    Example:
        >>> potential = CoupledOscillators(12)
        >>> potential(torch.zeros(5, 12)).shape, potential.gradient(torch.zeros(5, 12)).shape
        (torch.Size([5]), torch.Size([5, 12]))
    """

    places: Tensor

    def __init__(self, latent: int, groups: int = 4, kernel: int = 3) -> None:
        super().__init__()
        check_sizes(latent=latent, groups=groups, kernel=kernel)
        if latent % groups:
            raise ValueError(f"latent: expected a multiple of groups={groups}, got {latent}")
        if not kernel % 2:
            raise ValueError(f"kernel: expected an odd size, got {kernel}")
        std = 0.1 / math.sqrt(groups * kernel)
        self.weight = nn.Parameter(std * torch.randn(groups, groups, kernel))
        self.log_stiffness = nn.Parameter(torch.zeros(()))
        self.log_reach = nn.Parameter(torch.zeros(()))
        sites = torch.arange(latent // groups)
        taps = torch.arange(kernel)[:, None, None] - kernel // 2
        meets = sites == (sites[:, None] + taps) % len(sites)
        self.register_buffer("places", meets.to(self.weight.dtype), persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """U ``(...)`` of positions ``(..., L)``."""
        reach = self.log_reach.exp()
        bent = reach * torch.tanh(z / reach)
        coupling = (bent * F.linear(bent, self._matrix())).sum(-1)
        return 0.5 * self.log_stiffness.exp() * (z * z).sum(-1) + coupling

    def gradient(self, z: Tensor) -> Tensor:
        """Grad U ``(..., L)``, in closed form: no autograd in the flow's loop."""
        reach, matrix = self.log_reach.exp(), self._matrix()
        bent = torch.tanh(z / reach)
        coupling = F.linear(reach * bent, matrix + matrix.mT)
        return self.log_stiffness.exp() * z + (1 - bent * bent) * coupling

    def _matrix(self) -> Tensor:
        """The convolution as a matrix ``(L, L)``: at these sizes one product is faster."""
        square = torch.einsum("ogt,tij->oigj", self.weight, self.places)
        return square.flatten(2).flatten(0, 1)
