"""Emissions: how a latent path shows itself in data, p(x_t | z_t), feature by feature."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_lebm.number_checks import check_numbers

from .fields import MLP, by_rows, check_sizes

SCALE_FLOOR = 1e-3
LOG_RATE_LIMIT = 20.0


class Emission(nn.Module, ABC):
    """Base: a network ``(..., T, L) -> (..., T, D)``, read as the parameters of a distribution.

    Args:
        latent: L, size of the state.
        observed: D, number of features.
        hidden: widths of the network's hidden layers; ``()`` for a linear read-out.
        activation: as for :class:`~pyro_lebm.models.fields.MLPField`.
        network: one of your own in its place, ``(..., L) -> (..., D)``. Each time is a row, taken
            by itself: a large input comes in slices ``(rows, L)``.

    Raises:
        TypeError: a size that is no whole number, ``hidden`` that is no sequence.
        ValueError: a size below 1 or an unknown activation.
    """

    def __init__(
        self,
        latent: int,
        observed: int,
        hidden: Sequence[int] = (100,),
        *,
        activation: str = "tanh",
        network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_sizes(latent=latent, observed=observed)
        self.latent, self.observed = latent, observed
        self.network = MLP(latent, observed, hidden, activation) if network is None else network

    def read(self, path: Tensor) -> Tensor:
        """What the network makes of the states, ``(..., T, L) -> (..., T, D)``."""
        return by_rows(self.network, path)

    @abstractmethod
    def forward(self, path: Tensor) -> TorchDistribution:
        """The distribution of x, batch shape ``(..., T, D)``, event shape ``()``."""

    @abstractmethod
    def mean(self, path: Tensor) -> Tensor:
        """E[x | path], ``(..., T, D)``."""


class GaussianEmission(Emission):
    """x_t ~ N(g(z_t), sigma^2), sigma = 0.001 + exp(log_scale).

    The floor (``SCALE_FLOOR``, in the data's units) keeps the likelihood bounded when the fit
    becomes perfect; being added, not clamped, it leaves a gradient that can lead back up.

    Args:
        latent, observed, hidden, activation, network: as for :class:`Emission`.
        scale: sigma at the start, above the floor. A generous one lets the posterior anneal while
            sigma is learned.
        learn_scale: whether sigma is learned.
        per_feature: one sigma per feature instead of one for all.

    Raises:
        TypeError: a scale that is no number, and as :class:`Emission`.
        ValueError: a scale not above the floor, and as :class:`Emission`.

    Example:
        >>> import torch
        >>> emission = GaussianEmission(latent=3, observed=2)
        >>> x = emission(torch.zeros(5, 10, 3))
        >>> x.batch_shape, round(emission.scale.item(), 3)
        (torch.Size([5, 10, 2]), 0.5)
    """

    def __init__(
        self,
        latent: int,
        observed: int,
        hidden: Sequence[int] = (100,),
        scale: float = 0.5,
        learn_scale: bool = True,
        per_feature: bool = False,
        *,
        activation: str = "tanh",
        network: nn.Module | None = None,
    ) -> None:
        super().__init__(latent, observed, hidden, activation=activation, network=network)
        check_numbers(scale=scale)
        if not (SCALE_FLOOR < scale < math.inf):
            raise ValueError(f"scale: expected a finite number above {SCALE_FLOOR}, got {scale}")
        start = torch.full((observed,) if per_feature else (), math.log(scale - SCALE_FLOOR))
        # A fixed scale is a buffer: nothing that freezes and thaws parameters can start to train
        # it.
        self.log_scale: Tensor
        if learn_scale:
            self.log_scale = nn.Parameter(start)
        else:
            self.register_buffer("log_scale", start)

    @property
    def scale(self) -> Tensor:
        """sigma, ``()`` or ``(D,)``, in the data's units."""
        return SCALE_FLOOR + self.log_scale.exp()

    def forward(self, path: Tensor) -> TorchDistribution:
        return dist.Normal(self.read(path), self.scale)

    def mean(self, path: Tensor) -> Tensor:
        return self.read(path)


class BernoulliEmission(Emission):
    """x_t ~ Bernoulli(sigmoid(g(z_t))), x in {0, 1}.

    Example:
        >>> import torch
        >>> BernoulliEmission(latent=3, observed=2)(torch.zeros(5, 10, 3)).batch_shape
        torch.Size([5, 10, 2])
    """

    def forward(self, path: Tensor) -> TorchDistribution:
        x: TorchDistribution = dist.Bernoulli(logits=self.read(path))
        return x

    def mean(self, path: Tensor) -> Tensor:
        return torch.sigmoid(self.read(path))


class PoissonEmission(Emission):
    r"""x_t ~ Poisson(exp(g(z_t))): counts, the rate in counts per time point (per bin).

    .. math:: p(x_{td} \mid z_t) = \lambda_{td}^{x_{td}} e^{-\lambda_{td}} / x_{td}!, \qquad
              \log \lambda_{td} = \min(\max(g_d(z_t), -20), 20)

    The limit of 20 is far beyond data, so that no rate is 0 or infinite. Paths are ``(..., T, L)``,
    counts ``(..., T, D)``.

    Args:
        latent, observed, hidden, activation, network: as for :class:`Emission`.

    Raises:
        ValueError: as :class:`Emission`; of its distribution, a count that is negative or no whole
            number, where Pyro validates.

    Example:
        >>> import torch
        >>> PoissonEmission(latent=3, observed=2)(torch.zeros(5, 10, 3)).batch_shape
        torch.Size([5, 10, 2])
    """

    def forward(self, path: Tensor) -> TorchDistribution:
        return dist.Poisson(self.mean(path))

    def mean(self, path: Tensor) -> Tensor:
        log_rate = self.read(path)
        return log_rate.clamp(-LOG_RATE_LIMIT, LOG_RATE_LIMIT).exp()


def check_latent(emission: nn.Module, size: int) -> None:
    """Refuse an emission that says, by an attribute ``latent``, that it reads other states.

    Raises:
        ValueError: naming both sizes.
    """
    latent = getattr(emission, "latent", None)
    if isinstance(latent, int) and latent != size:
        raise ValueError(f"emission: expected one of states of size {size}, got one of {latent}")
