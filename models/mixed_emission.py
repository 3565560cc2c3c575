"""Features of different kinds beside each other: counts and positions, say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from pyro_lebm.programs.reading import drawn_density


class Beside(TorchDistribution):
    """Independent distributions whose last batch dimensions lie beside each other.

    Each sees its own part of a value only.

    Args:
        parts: distributions of batch shapes ``(*shape, D_i)`` and no event shape.

    Raises:
        ValueError: for fewer than two parts, an event shape, batch shapes that differ before the
            last dimension, or an expansion of the last.

    Example:
        >>> import pyro.distributions as dist
        >>> both = Beside([dist.Poisson(torch.ones(4, 2)), dist.Normal(torch.zeros(4, 1), 1.0)])
        >>> both.batch_shape, both.log_prob(both.sample()).shape
        (torch.Size([4, 3]), torch.Size([4, 3]))
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(
        self, parts: Sequence[TorchDistribution], validate_args: bool | None = None
    ) -> None:
        if len(parts) < 2:
            raise ValueError(f"parts: expected at least 2, got {len(parts)}")
        shapes = [tuple(part.batch_shape) for part in parts]
        if any(part.event_shape for part in parts) or not all(shapes):
            events = [tuple(part.event_shape) for part in parts]
            raise ValueError(
                "parts: expected batch shapes of a dimension or more and no event shape, got "
                f"{shapes} and {events}"
            )
        if len({shape[:-1] for shape in shapes}) > 1:
            raise ValueError(f"parts: expected batch shapes alike but for the last, got {shapes}")
        self.parts = tuple(parts)
        self.widths = [shape[-1] for shape in shapes]
        shape = torch.Size((*shapes[0][:-1], sum(self.widths)))
        super().__init__(shape, torch.Size(), validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether all parts have."""
        return all(part.has_rsample for part in self.parts)

    @property
    def random_density(self) -> bool:
        """Whether that of a part is an estimate, with other noise at each call."""
        return any(drawn_density(part) for part in self.parts)

    @property
    def support(self) -> Any:
        """Each part's, of its own features."""
        return constraints.cat([part.support for part in self.parts], -1, self.widths)

    @property
    def mean(self) -> Tensor:
        """E[x]."""
        return torch.cat([part.mean for part in self.parts], -1)

    @property
    def variance(self) -> Tensor:
        """Var[x]."""
        return torch.cat([part.variance for part in self.parts], -1)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws of all parts."""
        return torch.cat([part.sample(sample_shape) for part in self.parts], -1)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """The same, reparameterised.

        Raises:
            NotImplementedError: where a part cannot be.
        """
        return torch.cat([part.rsample(sample_shape) for part in self.parts], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Each part's, of its own part of the value."""
        if value.shape[-1] != self.batch_shape[-1]:
            raise ValueError(
                f"value: expected {self.batch_shape[-1]} features, got {value.shape[-1]}"
            )
        pairs = zip(self.parts, value.split(self.widths, -1), strict=True)
        found = [part.log_prob(x) for part, x in pairs]
        return torch.cat(found, -1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Beside:
        """More dimensions on the left."""
        shape = torch.Size(batch_shape)
        if shape[-1:] != self.batch_shape[-1:]:
            raise ValueError(
                f"batch_shape: expected {self.batch_shape[-1]} features last, got {tuple(shape)}"
            )
        new: Beside = self._get_checked_instance(Beside, _instance)  # type: ignore[no-untyped-call]
        new.widths = self.widths
        pairs = zip(self.parts, self.widths, strict=True)
        new.parts = tuple(part.expand(torch.Size((*shape[:-1], n))) for part, n in pairs)
        super(Beside, new).__init__(shape, torch.Size(), validate_args=False)
        new._validate_args = self._validate_args
        return new


class MixedEmission(nn.Module):
    r"""Emissions of different kinds of features, side by side in the order given.

    .. math:: p(x \mid z_{1..K}) = \prod_i p_i(x^{(i)} \mid z_{1..K}), \qquad
              x = [x^{(1)}, x^{(2)}, \dots]

    For instance the spikes of neurons, as counts, and the position of a hand: decoding a position
    from spikes is to infer the states from a series whose positions are hidden. Each emission is
    given the whole path, and scores its own features only.

    Args:
        emissions: two or more, each from paths ``(..., K, S)`` to a distribution of batch shape
            ``(..., K, D_i)``; by names, or in a list. One with a method ``seen`` is asked twice
            where it does not tell its D_i by an attribute ``observed``.

    Raises:
        ValueError: for fewer than two, names that `torch.nn.ModuleDict` refuses, attributes
            ``latent`` that differ; when called: see `Beside`.

    Example:
        >>> from pyro_lebm.models import GaussianEmission, PoissonEmission
        >>> spikes, position = PoissonEmission(4, 30), GaussianEmission(4, 2)
        >>> emission = MixedEmission({"spikes": spikes, "position": position})
        >>> emission(torch.randn(5, 10, 4)).batch_shape
        torch.Size([5, 10, 32])
    """

    def __init__(self, emissions: Mapping[str, nn.Module] | Sequence[nn.Module]) -> None:
        super().__init__()
        if len(emissions) < 2:
            raise ValueError(f"emissions: expected at least 2, got {len(emissions)}")
        self.emissions: nn.Module
        if isinstance(emissions, Mapping):
            self.emissions = _named(emissions)
        else:
            self.emissions = nn.ModuleList(emissions)
        known = [getattr(each, "latent", None) for each in self._each()]
        told = [latent for latent in known if isinstance(latent, int)]
        if len(set(told)) > 1:
            raise ValueError(f"emissions: expected all of states of one size, got {told}")
        self.latent = told[0] if told else None

    def _each(self) -> Iterator[Any]:
        return self.emissions.children()

    @property
    def observed(self) -> int:
        """D_1 + D_2 + ..., where each tells its own."""
        return sum(emission.observed for emission in self._each())

    def forward(self, path: Tensor) -> Beside:
        """The distribution of x, batch shape ``(..., K, D_1 + D_2 + ...)``."""
        return Beside([emission(path) for emission in self._each()])

    def seen(self, path: Tensor, mask: Tensor) -> Beside:
        """The same, where one of the emissions is told what of its own is observed."""
        parts: list[TorchDistribution] = []
        start = 0
        for emission in self._each():
            told = getattr(emission, "seen", None)
            if told is None:
                part = emission(path)
            else:
                width = getattr(emission, "observed", None) or emission(path).batch_shape[-1]
                part = told(path, mask[..., start : start + width])
            parts.append(part)
            start += part.batch_shape[-1]
        return Beside(parts)

    def mean(self, path: Tensor) -> Tensor:
        """E[x | path], ``(..., K, D_1 + D_2 + ...)``."""
        return torch.cat([emission.mean(path) for emission in self._each()], -1)


def _named(emissions: Mapping[str, nn.Module]) -> nn.ModuleDict:
    try:
        return nn.ModuleDict(emissions)
    except KeyError as error:
        raise ValueError(
            f"emissions: expected names that a ModuleDict takes, got {[*emissions]}: "
            f"{error.args[0]}"
        ) from error
