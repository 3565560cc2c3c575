"""Latent layers, each Gaussian given the one above, seen through an emission."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Unpack

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_lebm.factor import Sites
from pyro_lebm.frozen import apart
from pyro_lebm.learned import Options
from pyro_lebm.series import Series, check_series
from pyro_lebm.tilting.tilt import CoordinateName, Tilt

from .emissions import Emission, GaussianEmission
from .fields import check_sizes
from .layers import GaussianLayer, Shape, event
from .saved import SavedModel


class HierarchicalPrior(PyroModule):
    r"""The program of latent layers from the top down.

    .. math:: z_L \sim N(0, I), \qquad z_i \sim N(\mu_i(z_{i+1}), \sigma_i^2(z_{i+1}))

    Sites ``z1``, the one that data are made of, to ``zL``. A `pyro_lebm.Tilt` of it is the joint
    energy prior of Cui, Wu & Han (2023, arXiv 2306.06323).

    Args:
        latents: sizes of ``z1`` to ``zL``, numbers or ``(channels, height, width)``.
        hidden, activation: of every `GaussianLayer`.
        layers: conditionals of your own, of ``z1`` to ``z(L-1)``, each a module from the layer
            above to a distribution; such as `EnergyLayer`.
        top: the distribution of ``zL`` in the place of N(0, I), a module without arguments such as
            an `pyro_lebm.EnergyPrior`; of one layer this is the prior of Pang et al. (2020, arXiv
            2006.08205).

    Raises:
        ValueError: for no layer, a size below 1, or another number of ``layers``.

    Example:
        >>> [tuple(z.shape) for z in HierarchicalPrior((4, 2))()]
        [(4,), (2,)]
    """

    zero: Tensor

    def __init__(
        self,
        latents: Sequence[Shape],
        hidden: Sequence[int] = (100,),
        *,
        activation: str = "silu",
        layers: Sequence[nn.Module] | None = None,
        top: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not latents:
            raise ValueError("latents: expected at least one layer, got none")
        for i, shape in enumerate(latents, 1):
            if len(event(shape)) not in (1, 3):
                raise ValueError(
                    f"latents: expected numbers or (channels, height, width), got {shape} of z{i}"
                )
            check_sizes(**{f"latents: z{i}": min(event(shape))})
        if layers is None:
            pairs = zip(latents[1:], latents[:-1], strict=True)
            layers = [GaussianLayer(above, shape, hidden, activation) for above, shape in pairs]
        if len(layers) != len(latents) - 1:
            raise ValueError(f"layers: expected {len(latents) - 1}, got {len(layers)}")
        self.latents, self.layers = tuple(latents), nn.ModuleList(layers)
        self.top = top
        if top is not None:
            with apart(top):
                given = top().event_shape
            if given != event(latents[-1]):
                raise ValueError(
                    f"top: expected event shape {tuple(event(latents[-1]))}, got {tuple(given)}"
                )
        self.register_buffer("zero", torch.zeros(event(latents[-1])), persistent=False)

    def forward(self) -> list[Tensor]:
        """The layers, ``z1`` first."""
        layers, zero = self.layers, self.zero
        fn: Any = dist.Normal(zero, torch.ones_like(zero)).to_event(zero.ndim)
        found = [pyro.sample(f"z{len(self.latents)}", fn if self.top is None else self.top())]
        for i in range(len(self.latents) - 1, 0, -1):
            found.insert(0, pyro.sample(f"z{i}", layers[i - 1](found[0])))
        return found


class HierarchicalGenerator(SavedModel):
    r"""Data made of the lowest of several latent layers: :math:`x \sim p(x \mid z_1)`.

    Data without time, such as images, are a `Series` of one time point whose features are the
    pixels, row by row. With the default prior it is a hierarchical variational autoencoder's
    decoder; see `JointPrior`. Nothing here knows how it will be inferred.

    Sites: those of the prior, and ``x`` observed or ``x_new`` sampled, in the plate ``sequences``.

    Args:
        latents: sizes of ``z1`` to ``zL``, numbers or ``(channels, height, width)``.
        observed: number of features.
        hidden, activation: of the `HierarchicalPrior` and the emission.
        emission: module from ``(..., 1, size of z1)`` to a distribution of batch shape
            ``(..., 1, observed)``; default Gaussian with learned scale.
        prior: program that returns the layers, ``z1`` first; default `HierarchicalPrior`.

    Raises:
        ValueError: as `HierarchicalPrior` does; when called: for neither data nor ``n``, or a
            series of another size.

    Example:
        >>> HierarchicalGenerator((4, 2), observed=9).generate(3).shape
        torch.Size([3, 9])
    """

    def __init__(
        self,
        latents: Sequence[Shape],
        observed: int,
        *,
        hidden: Sequence[int] = (100,),
        activation: str = "silu",
        emission: Emission | None = None,
        prior: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.latents, self.observed = tuple(latents), observed
        self.prior = (
            HierarchicalPrior(latents, hidden, activation=activation) if prior is None else prior
        )
        size = math.prod(event(latents[0]))
        if emission is None:
            emission = GaussianEmission(size, observed, hidden, activation=activation)
        self.emission = emission

    def forward(
        self,
        series: Series | None = None,
        *,
        n: int | None = None,
        times: Tensor | None = None,
        covariates: Tensor | None = None,
    ) -> list[Tensor]:
        """The program.

        Args:
            series: what was observed; hidden entries say nothing.
            n: how many to sample, without a series.
            times, covariates: those of a series, as predictions give them; nothing hangs on them.

        Returns:
            the layers, ``z1`` first.
        """
        if (series is None) == (n is None):
            raise ValueError("series, n: expected one of the two")
        if series is not None:
            check_series(series)
        size, index = (n, None) if series is None else (series.total, series.index)
        with pyro.plate("sequences", size, subsample=index, dim=-1):
            layers: list[Tensor] = self.prior()
            lowest = layers[0].flatten(layers[0].ndim - len(event(self.latents[0])))
            seen: Any = self.emission(lowest.unsqueeze(-2))
            if series is None:
                pyro.sample("x_new", seen.to_event(2))
                return layers
            if series.observed != self.observed or series.values.shape[1] != 1:
                raise ValueError(
                    f"series: expected {self.observed} features of one time, got "
                    f"{series.observed} of {series.values.shape[1]}"
                )
            pyro.sample("x", seen.mask(series.mask).to_event(2), obs=series.filled)
        return layers

    @torch.no_grad()
    def generate(self, n: int) -> Tensor:
        """``n`` new ones ``(n, observed)``, drawn from the model itself.

        Raises:
            ValueError: for fewer than one.
        """
        if n < 1:
            raise ValueError(f"n: expected at least 1, got {n}")
        with pyro.poutine.block(), pyro.poutine.trace() as trace:
            self(n=n)
        x = trace.trace.nodes["x_new"]["value"]
        assert isinstance(x, Tensor)
        return x[:, 0]


class JointPrior(HierarchicalGenerator):
    r"""A hierarchical generator whose layers have a joint energy-based prior.

    .. math:: p(z_1, \dots, z_L) = \tfrac1Z \exp(-E(z_1, \dots, z_L))\, p(z_L)
              \prod_i p(z_i \mid z_{i+1})

    (Cui, Wu & Han 2023, arXiv 2306.06323, whose energy is :math:`-\sum_i f_i(z_i)`.) Its
    conditionals have a contrastive gradient, too: see `pyro_lebm.Tilt`.

    Args:
        latents, observed, hidden, activation, emission: as for `HierarchicalGenerator`.
        energy: of the layers by name, such as `pyro_lebm.LayerwiseEnergy`.
        prior: the program to be tilted; default `HierarchicalPrior`.
        coordinates: of the chains, see `pyro_lebm.Tilt`.
        options: of the chains, as for `pyro_lebm.EnergyPrior`.
    """

    def __init__(
        self,
        latents: Sequence[Shape],
        observed: int,
        energy: Callable[[Sites], Tensor],
        *,
        hidden: Sequence[int] = (100,),
        activation: str = "silu",
        emission: Emission | None = None,
        prior: nn.Module | None = None,
        coordinates: CoordinateName = "own",
        **options: Unpack[Options],
    ) -> None:
        if prior is None:
            prior = HierarchicalPrior(latents, hidden, activation=activation)
        super().__init__(
            latents,
            observed,
            hidden=hidden,
            activation=activation,
            emission=emission,
            prior=Tilt(prior, energy, coordinates=coordinates, **options),
        )
