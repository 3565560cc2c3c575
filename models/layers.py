"""Latent layers of a hierarchy: the distribution of one given the one above."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_lebm.conditional import ConditionalEnergyBased

from .convolutions import Deconvolution
from .fields import MLP

Shape = int | tuple[int, int, int]
FLOOR = 1e-2  # of a conditional's standard deviation, in the units of its layer


class GaussianLayer(nn.Module):
    r"""One layer given the one above: :math:`N(\mu(z), \mathrm{diag}\,\sigma^2(z))`.

    A perceptron between vectors; where the layer is spatial, transposed convolutions.

    Args:
        above: size of the layer above, a number or ``(channels, height, width)``.
        shape: size of this one.
        hidden: widths of a perceptron's hidden layers, or channels of convolutions.
        activation: between the layers.
        network: one of your own in its place, ``(..., above) -> (..., 2 * size)``, both flat.

    Shapes:
        ``(*batch, *above)`` to a distribution of event shape ``shape``, or ``(shape,)``.
    """

    def __init__(
        self,
        above: Shape,
        shape: Shape,
        hidden: Sequence[int] = (100,),
        activation: str = "silu",
        network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.event = event(shape)
        self.above, size = event(above), math.prod(event(shape))
        if network is None and isinstance(shape, int):
            network = MLP(math.prod(self.above), 2 * size, hidden, activation)
        elif network is None:
            channels, height, width = self.event
            network = Deconvolution(above, (2 * channels, height, width), hidden, activation)
        self.network = network

    def forward(self, z: Tensor) -> TorchDistribution:
        """The layer's distribution."""
        flat = z.flatten(z.ndim - len(self.above))
        loc, raw = self.network(flat).chunk(2, -1)
        batch = loc.shape[:-1]
        # near 1 whatever the weights are at the start: the prior begins round
        scale = FLOOR + F.softplus(raw + 0.54)
        normal = dist.Normal(loc.reshape(batch + self.event), scale.reshape(batch + self.event))
        layer: TorchDistribution = normal.to_event(len(self.event))
        return layer


class EnergyLayer(nn.Module):
    r"""One layer under an energy of its own: :math:`\exp(-E(z_i, z_{i+1}))\, p(z_i \mid z_{i+1})
    / Z(z_{i+1})`.

    A constant for every value of the layer above, which takes negatives for each: see
    `pyro_lebm.ConditionalEnergyBased`. The baseline of Cui, Wu & Han (2023, arXiv 2306.06323) for
    an energy over all layers, which has one constant.

    Args:
        layer: the conditional, such as a `GaussianLayer`.
        energy: ``(*batch, size + size above) -> (*batch)``, such as `pyro_lebm.MLPEnergy`.
        context_dim: dimensions of an event of the layer above, 1 of vectors and 3 of maps.
        steps, step_size: of the short Langevin runs.

    Attributes:
        learning: False holds the energy fixed (`fit` phases the energy in).

    Example:
        >>> from pyro_lebm.energy import MLPEnergy
        >>> EnergyLayer(GaussianLayer(2, 3), MLPEnergy(5))(torch.zeros(7, 2)).sample().shape
        torch.Size([7, 3])
    """

    def __init__(
        self,
        layer: nn.Module,
        energy: nn.Module,
        *,
        context_dim: int = 1,
        steps: int = 20,
        step_size: float = 0.2,
    ) -> None:
        super().__init__()
        self.layer, self.energy, self.context_dim = layer, energy, context_dim
        self.steps, self.step_size, self.learning = steps, step_size, True
        self._seen: dict[str, float] = {}

    def forward(self, z: Tensor) -> TorchDistribution:
        """The layer's distribution."""
        return ConditionalEnergyBased(
            self.energy,
            self.layer,
            z,
            context_dim=self.context_dim,
            steps=self.steps,
            step_size=self.step_size,
            learn=self.learning,
            watch=self._watch,
        )

    def energy_parameters(self) -> list[nn.Parameter]:
        """What ``learning`` holds fixed, and `fit` moves more slowly than all else."""
        return list(self.energy.parameters())

    def _watch(self, positive: Tensor, negative: Tensor) -> None:
        self._seen = {
            "energy_positive": float(positive.mean()),
            "energy_negative": float(negative.mean()),
        }

    def statistics(self) -> dict[str, float]:
        """Mean energies of the last positives and negatives."""
        return dict(self._seen)


def event(shape: Shape) -> torch.Size:
    """The event shape of a layer."""
    return torch.Size((shape,) if isinstance(shape, int) else shape)
