"""A guide of several latent layers: amortised inference from the data up."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_lebm.programs.program import Model, Program
from pyro_lebm.programs.reading import Site
from pyro_lebm.series import Series, check_series

from ..draws import Draws
from ..posterior import check_plates
from .guide import Guide, check_draws, refuse_other_widths


class BottomUpGuide(Guide):
    r"""Amortised variational inference, layer after layer from the data up.

    .. math:: q(z \mid x) = q(z_1 \mid x) \prod_i q(z_{i+1} \mid z_i),

    each a diagonal Gaussian in unconstrained space. For a model whose latent sites are drawn from
    the top down, such as a hierarchical generator's: the last site of the program is the first of
    the guide's. Trained by the ELBO; of an energy-based prior over all layers its term
    :math:`\log Z` has a contrastive gradient (Cui, Wu & Han 2023, arXiv 2306.06323).

    Args:
        model: the Pyro program, its latent sites all in the plate of the sequences.
        series: the training data.
        encoder: module ``Series -> (N, 2 * size of the lowest layer)``; default a perceptron of
            all values and of which are observed, for data of few times.
        hidden: widths of the perceptrons' hidden layers.
        layers: networks of your own between the layers, from the lowest up, each
            ``(*batch, size) -> (*batch, 2 * size of the layer above)``.

    Raises:
        ValueError: for latent sites outside one plate of sequences, another number of layers, or
            an encoder that returns another number of features.
    """

    def __init__(
        self,
        model: Model,
        series: Series,
        encoder: nn.Module | None = None,
        *,
        hidden: Sequence[int] = (100,),
        layers: Sequence[nn.Module] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(Program.read(model, series, **kwargs))
        check_plates(self.program)
        widths = self.program.widths[::-1]
        if encoder is None:
            encoder = _Flat(series, [*hidden, 2 * widths[0]])
        if layers is None:
            layers = [_perceptron([a, *hidden, 2 * b]) for a, b in pairwise(widths)]
        if len(layers) != len(widths) - 1:
            raise ValueError(f"layers: expected {len(widths) - 1}, got {len(layers)}")
        self.encoder, self.layers = encoder, nn.ModuleList(layers)
        self.to(device=series.values.device, dtype=series.values.dtype)

    def forward(self, series: Series, **kwargs: Any) -> None:
        """The guide: every latent site from its Gaussian."""
        program = self.program.rebind(series, **kwargs)
        refuse_other_widths(program, self.program)
        layers, features = list(self.layers), self._encoded(series)
        for i, site in enumerate(reversed(program.sites)):
            normal = _gaussian(features, site)
            fn = dist.TransformedDistribution(normal, [site.transform]) if site.moves else normal
            with program.inside(site.plates):
                value: Tensor = pyro.sample(site.name, fn)
            if i < len(layers):
                features = layers[i](_flat(site, value))

    @torch.no_grad()
    def posterior(self, series: Series, draws: int = 64, **options: Any) -> Draws:
        """Draws of the guide's Gaussians: an approximation, whatever their training."""
        if options:
            raise TypeError(f"posterior: these draws take no options, got {sorted(options)}")
        check_draws(draws)
        check_series(series)
        features = self._encoded(series)
        features = features.expand(1, draws, *features.shape)
        samples, layers = {}, list(self.layers)
        for i, site in enumerate(reversed(self.program.sites)):
            value = site.transform(_gaussian(features, site).sample())
            samples[site.name] = value
            if i < len(layers):
                features = layers[i](_flat(site, value))
        return Draws(dict(reversed(samples.items())), method="bottom-up inference network")

    def _encoded(self, series: Series) -> Tensor:
        found: Tensor = self.encoder(series)
        expected = (len(series), 2 * self.program.widths[-1])
        if found.shape != expected:
            raise ValueError(f"encoder: expected shape {expected}, got {tuple(found.shape)}")
        return found


def _gaussian(features: Tensor, site: Site) -> Any:
    loc, raw = features.chunk(2, -1)
    shape = loc.shape[:-1] + site.event
    # The scale starts near .1 whatever the weights, and no weight can make it 0.
    scale = F.softplus(raw - 2.0) + 1e-4
    return dist.Normal(loc.reshape(shape), scale.reshape(shape)).to_event(len(site.event))


def _flat(site: Site, value: Tensor) -> Tensor:
    u: Tensor = site.transform.inv(value)
    return u.reshape(*u.shape[: u.ndim - len(site.event)], -1)


class _Flat(nn.Module):
    """A perceptron of all values of a sequence, and of which are observed."""

    def __init__(self, series: Series, sizes: Sequence[int]) -> None:
        super().__init__()
        self.net = _perceptron([2 * series.values.shape[1] * series.observed, *sizes])

    def forward(self, series: Series) -> Tensor:
        """``(N, features)``."""
        seen = torch.cat([series.filled, series.mask.to(series.filled)], -1).flatten(1)
        found: Tensor = self.net(seen)
        return found


def _perceptron(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.SiLU(), nn.Linear(a, b)]
    return nn.Sequential(*layers[1:])
