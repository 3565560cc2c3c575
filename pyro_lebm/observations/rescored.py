"""A distribution whose density is computed in another way, and nothing else of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor


class Rescored(TorchDistribution, ABC):
    """Base: a plain distribution, made when it is needed, with a density of its own.

    Args:
        batch_shape, event_shape: those of the plain one.
        make: makes it.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        batch_shape: torch.Size,
        event_shape: torch.Size,
        make: Callable[[], TorchDistribution],
    ) -> None:
        super().__init__(batch_shape, event_shape, validate_args=False)
        self._make = make

    @abstractmethod
    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, ``(*batch)``."""

    @cached_property
    def plain(self) -> TorchDistribution:
        """The same distribution as it would be without this."""
        return self._make()

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of every entry, observed or not."""
        drawn: Tensor = self.plain.sample(torch.Size(sample_shape))
        return drawn

    def expand(self, batch_shape: Any, _instance: Any = None) -> TorchDistribution:
        """Itself where nothing changes."""
        if torch.Size(batch_shape) == self.batch_shape:
            return self
        wide: TorchDistribution = self.plain.expand(batch_shape)
        return wide

    @property
    def support(self) -> Any:
        """That of the plain one."""
        return self.plain.support

    @property
    def mean(self) -> Tensor:
        """Of every entry."""
        return self.plain.mean

    @property
    def variance(self) -> Tensor:
        """Of every entry."""
        return self.plain.variance
