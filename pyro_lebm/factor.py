"""The factor by which a tilted program differs from the program that is tilted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from .distribution import EnergyBased

Sites = Mapping[str, Tensor]


class TiltFactor(dist.Unit):
    r"""The log factor :math:`-E(z) - \log Z` of a tilt, for each element of its plates.

    It is computed when it is asked for, like any log probability: a run that is made for its
    samples or its structure evaluates no energy.

    Attributes:
        density: of the tilted sites, in the coordinates of the tilt's chains.
        energy: of the values of sites, ``{name: (*batch, *event)} -> (*batch)``.
    """

    def __init__(
        self,
        compute: Callable[[], Tensor],
        like: Tensor,
        density: EnergyBased,
        energy: Callable[[Sites], Tensor],
    ) -> None:
        self.compute, self.like, self.density, self.energy = compute, like, density, energy
        TorchDistribution.__init__(self, like.shape, torch.Size((0,)), validate_args=False)

    @cached_property
    def log_factor(self) -> Tensor:
        """Of each element."""
        return self.compute().expand(self.batch_shape)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Nothing, of the factor's shape."""
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        return self.like.new_empty(shape)

    rsample = sample

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> TiltFactor:
        """The same factor, of a larger batch."""
        like = self.like.expand(torch.Size(batch_shape))
        return TiltFactor(lambda: self.log_factor, like, self.density, self.energy)
