"""Energy networks: one number per point, lower where a point is likelier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
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
        _check_activation(activation)
        widths = [dim, *hidden]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[activation]()]
        self.dim = dim
        self.net = nn.Sequential(*layers, _zeroed(nn.Linear(widths[-1], 1)))

    def forward(self, z: Tensor) -> Tensor:
        """Energies of the points ``z``."""
        energy: Tensor = self.net(z)
        return energy.squeeze(-1)


class ConvolutionalEnergy(nn.Module):
    r"""An energy of a spatial latent: convolutions that halve it, then one number.

    The last layer starts at zero, as that of `MLPEnergy`.

    Args:
        shape: channels, height and width of the latent.
        channels: of each 3 x 3 convolution of stride 2.
        activation: as for `MLPEnergy`.

    Shapes:
        ``(*batch, channels, height, width) -> (*batch)``.

    Raises:
        ValueError: for a size or number of channels below one, no convolution, or an unknown
            activation.

    Example:
        >>> import torch
        >>> ConvolutionalEnergy((2, 8, 8))(torch.randn(5, 2, 8, 8)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        channels: Sequence[int] = (16, 32),
        activation: str = "silu",
    ) -> None:
        super().__init__()
        if min(*shape, *channels, 1) < 1 or not channels:
            raise ValueError(
                f"shape, channels: expected sizes of at least 1, got {shape} and {channels}"
            )
        _check_activation(activation)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([shape[0], *channels]):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)]
            layers += [ACTIVATIONS[activation]()]
        height, width = (-(-size // 2 ** len(channels)) for size in shape[1:])
        last = _zeroed(nn.Linear(channels[-1] * height * width, 1))
        self.net = nn.Sequential(*layers, nn.Flatten(), last)

    def forward(self, z: Tensor) -> Tensor:
        """Energies of the maps ``z``."""
        energy: Tensor = self.net(z.reshape(-1, *z.shape[-3:]))
        return energy.reshape(z.shape[:-3])


class LayerwiseEnergy(nn.Module):
    r"""A sum of energies, one of each of several sites: :math:`E(z) = \sum_i E_i(z_i)`.

    For `pyro_lebm.Tilt`: between sites it knows nothing, but the tilted density does, through the
    program's own conditionals (Cui, Wu & Han 2023, arXiv 2306.06323).

    Args:
        energies: by the site's name, of its value ``(*batch, *event) -> (*batch)``.

    Raises:
        ValueError: for no energy.

    Example:
        >>> import torch
        >>> energy = LayerwiseEnergy({"z1": MLPEnergy(3), "z2": MLPEnergy(2)})
        >>> energy({"z1": torch.zeros(5, 3), "z2": torch.zeros(5, 2)}).shape
        torch.Size([5])
    """

    def __init__(self, energies: Mapping[str, nn.Module]) -> None:
        super().__init__()
        if not energies:
            raise ValueError("energies: expected at least one, got none")
        # a site's name may be one that no module can have
        self.sites, self.energies = tuple(energies), nn.ModuleList(energies.values())

    def forward(self, sites: Mapping[str, Tensor]) -> Tensor:
        """Energies of elements, of the sites' values."""
        named = zip(self.sites, self.energies, strict=True)
        parts: list[Tensor] = [energy(sites[name]) for name, energy in named]
        return sum(parts[1:], parts[0])


class JointEnergy(nn.Module):
    r"""One energy of several sites together: :math:`E(z) = E(z_1, \dots, z_L)`, side by side.

    Args:
        energy: of the concatenation ``(*batch, dim) -> (*batch)``, such as `MLPEnergy`.
        sites: name and number of dimensions of each site's values, in order: what a value has
            more of than so many is batch.

    Raises:
        ValueError: for no site.

    Example:
        >>> import torch
        >>> energy = JointEnergy(MLPEnergy(5), {"z1": 1, "z2": 1})
        >>> energy({"z1": torch.zeros(7, 3), "z2": torch.zeros(7, 2)}).shape
        torch.Size([7])
    """

    def __init__(self, energy: nn.Module, sites: Mapping[str, int]) -> None:
        super().__init__()
        if not sites:
            raise ValueError("sites: expected at least one, got none")
        self.energy, self.sites = energy, dict(sites)

    def forward(self, sites: Mapping[str, Tensor]) -> Tensor:
        """Energies of elements, of the sites' values."""
        values = (
            sites[name].flatten(sites[name].ndim - n) if n else sites[name].unsqueeze(-1)
            for name, n in self.sites.items()
        )
        energy: Tensor = self.energy(torch.cat(list(values), -1))
        return energy


def _check_activation(activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {sorted(ACTIVATIONS)}, got {activation}")


def _zeroed(last: nn.Linear) -> nn.Linear:
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return last
