"""A Transformer over the times of a path, in front of an emission."""

from __future__ import annotations

import math

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn import functional as F

from .emissions import check_latent
from .fields import check_sizes


class TransformerEmission(nn.Module):
    r"""Each state as seen beside all others of its path, read by another emission.

    .. math:: p(x_k \mid z_{1..K}) = p(x_k \mid \tilde z_k), \quad
              \tilde z = z + B\, \text{Transformer}(A z + \text{position})

    The decoder of LangevinFlow (Song, Keller, Yue, Perona & Welling 2025, arXiv 2507.11531), with
    pre-norm layers of self-attention (Vaswani et al. 2017, arXiv 1706.03762) and no dropout. B
    starts near 0, and so the emission near the plain one.

    All times of a path attend to all others, those where nothing was observed and a padded tail
    among them, and a position is an index: the emission at a time depends on which times are asked
    for. Ask for all those of the data where that matters.

    Args:
        emission: module from ``(..., K, S)`` to a distribution of batch shape ``(..., K, D)``.
        state: S, size of a state.
        heads: of attention.
        width: numbers that stand for a time within, a multiple of ``2 * heads``.
        layers: how many.

    Raises:
        TypeError: for a size that is no whole number.
        ValueError: for a size below 1, a width that is no such multiple, or an emission whose
            attribute ``latent`` is another size than S.

    Example:
        >>> from pyro_lebm.models import PoissonEmission
        >>> emission = TransformerEmission(PoissonEmission(4, 7, ()), 4)
        >>> emission(torch.randn(5, 10, 4)).batch_shape
        torch.Size([5, 10, 7])
    """

    def __init__(
        self, emission: nn.Module, state: int, *, heads: int = 4, width: int = 64, layers: int = 1
    ) -> None:
        super().__init__()
        check_sizes(state=state, heads=heads, width=width, layers=layers)
        check_latent(emission, state)
        if width % (2 * heads):
            raise ValueError(f"width: expected a multiple of 2 * heads={2 * heads}, got {width}")
        self.emission, self.latent = emission, state
        self.inward = nn.Linear(state, width)
        self.layers = nn.Sequential(*(EncoderLayer(width, heads) for _ in range(layers)))
        self.norm, self.outward = nn.LayerNorm(width), nn.Linear(width, state)
        nn.init.normal_(self.outward.weight, std=0.01)
        nn.init.zeros_(self.outward.bias)

    @property
    def observed(self) -> int:
        """D, where the emission tells it."""
        observed: int = self.emission.observed  # type: ignore[assignment]
        return observed

    def read(self, path: Tensor) -> Tensor:
        """The states beside each other, ``(..., K, S) -> (..., K, S)``."""
        x = self.inward(path)
        change: Tensor = self.outward(self.norm(self.layers(x + positions(x))))
        return path + change

    def forward(self, path: Tensor) -> TorchDistribution:
        """The distribution of x, batch shape ``(..., K, D)``."""
        x: TorchDistribution = self.emission(self.read(path))
        return x

    def seen(self, path: Tensor, mask: Tensor) -> TorchDistribution:
        """The same, for an emission that is told what is observed."""
        told = getattr(self.emission, "seen", None)
        if told is None:
            return self(path)  # type: ignore[no-any-return]
        x: TorchDistribution = told(self.read(path), mask)
        return x

    def mean(self, path: Tensor) -> Tensor:
        """E[x | path], ``(..., K, D)``."""
        mean: Tensor = self.emission.mean(self.read(path))  # type: ignore[operator]
        return mean


class EncoderLayer(nn.Module):
    """Self-attention, then two linear layers, each beside what it changes; pre-norm.

    Written out, as PyTorch's own has no rule for `torch.func.vmap`.

    Args:
        width: of a time.
        heads: that divide it.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width)
        # Heads are a dimension of the weights: a file with other heads is another model's.
        asked = torch.empty(3, heads, width // heads, width).uniform_(-bound, bound)
        self.asked = nn.Parameter(asked)
        self.back = nn.Linear(width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., K, width) -> (..., K, width)``."""
        x = x + self._attended(self.first(x))
        change: Tensor = self.narrow(F.gelu(self.wide(self.second(x))))
        return x + change

    def _attended(self, x: Tensor) -> Tensor:
        three, heads, size, width = self.asked.shape
        flat = F.linear(x, self.asked.reshape(-1, width))
        query, key, value = flat.unflatten(-1, (three, heads, size)).unbind(-3)
        weight = torch.einsum("...qhd,...khd->...hqk", query, key) / math.sqrt(size)
        mixed = torch.einsum("...hqk,...khd->...qhd", weight.softmax(-1), value)
        back: Tensor = self.back(mixed.flatten(-2))
        return back


def positions(x: Tensor) -> Tensor:
    """Sinusoids of the index, ``(K, width)`` for ``(..., K, width)``.

    Example:
        >>> positions(torch.zeros(3, 4))[0]
        tensor([0., 0., 1., 1.])
    """
    steps, width = x.shape[-2:]
    at = torch.arange(steps, device=x.device).to(x.dtype)
    exponent = torch.arange(0, width, 2, device=x.device).to(x.dtype) / width
    angle = at[:, None] * torch.exp(-math.log(1e4) * exponent)
    return torch.cat([angle.sin(), angle.cos()], -1)
