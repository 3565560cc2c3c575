"""Energy networks: one number per point, lower where a point is likelier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


class MLPEnergy(nn.Module):
    r"""A multi-layer perceptron :math:`E: \mathbb{R}^d \to \mathbb{R}`.

    The last layer starts at zero: a fresh energy tilts nothing, the prior begins as its base.

    Args:
        dim: the points' dimension ``d``.
        hidden: widths of the hidden layers (200-200 in Pang et al. 2020, arXiv 2006.08205).
        activation: one of ``leaky_relu``, ``silu``, ``softplus``, ``tanh``. Langevin proposals use
            the gradient, so a smooth activation is the default.

    Shapes:
        ``(*batch, dim) -> (*batch)``.

    Raises:
        ValueError: for a dimension or width below one or an unknown activation.

    Example:
        >>> import torch
        >>> MLPEnergy(2)(torch.randn(5, 2))
        tensor([0., 0., 0., 0., 0.], grad_fn=<SqueezeBackward1>)
    """

    def __init__(
        self, dim: int, hidden: Sequence[int] = (100, 100), activation: str = "silu"
    ) -> None:
        super().__init__()
        if dim < 1 or any(width < 1 for width in hidden):
            raise ValueError(f"dim, hidden: expected sizes of at least 1, got {dim}, {hidden}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation: expected one of {sorted(ACTIVATIONS)}, got {activation}")
        widths = [dim, *hidden]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[activation]()]
        last = nn.Linear(widths[-1], 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.dim = dim
        self.net = nn.Sequential(*layers, last)

    def forward(self, z: Tensor) -> Tensor:
        """Energies of the points ``z``."""
        energy: Tensor = self.net(z)
        return energy.squeeze(-1)
