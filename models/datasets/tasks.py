"""What is observed of sequences, and what is to be predicted; parts of a data set; its scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_lebm.series import Series


def interpolation(
    series: Series, keep: int | float = 50, *, seed: int = 0
) -> tuple[Series, Series]:
    """``(given, target)``: ``keep`` random points of each sequence, to predict all of them.

    The target is the series itself, as the error of the sinusoid benchmark is taken over all
    points; use ``series.without(given)`` for the hidden ones alone.

    Example:
        >>> from pyro_lebm.models.datasets import irregular_sines
        >>> given, target = interpolation(irregular_sines(4), keep=50)
        >>> given, target
        (Series(N=4, T=100, D=1, observed 200 of 400 entries), Series(N=4, T=100, D=1, observed 400
        of 400 entries))
    """
    return series.hide(keep, torch.Generator().manual_seed(seed)), series


def extrapolation(series: Series, given: float = 0.5) -> tuple[Series, Series]:
    """``(given, target)``: the first part of the shared time points observed, the rest to predict.

    Args:
        series: on a shared grid.
        given: fraction of the time points, above 0 and below 1 (one half for the sinusoids, a third
            for the hopper).

    Example:
        >>> from pyro_lebm.models.datasets import irregular_sines
        >>> first, rest = extrapolation(irregular_sines(4))
        >>> first.mask[0].sum().item(), rest.mask[0].sum().item()
        (50, 50)
    """
    count = int(given * series.length)
    if not 0 < count < series.length or series.times.dim() != 1:
        raise ValueError(
            "given: expected a fraction that leaves at least one time point of a shared grid on "
            f"both sides, got {given} of times {tuple(series.times.shape)}"
        )
    return series.split(float(series.times[count - 1]))


def split(
    series: Series, shares: Sequence[float] = (0.8, 0.1, 0.1), *, seed: int = 0
) -> list[Series]:
    """Disjoint parts of a data set, such as for training, validation and testing.

    Args:
        series: the whole.
        shares: of each part, positive, at most 1 together; what is left over is left out.
        seed: of the permutation.

    Raises:
        ValueError: for other shares, or a part that would be empty.

    Example:
        >>> from pyro_lebm.models.datasets import irregular_sines
        >>> [len(part) for part in split(irregular_sines(50))]
        [40, 5, 5]
    """
    counts = [int(share * len(series) + 1e-9) for share in shares]
    if not shares or min(shares) <= 0 or sum(shares) > 1 + 1e-9 or min(counts) < 1:
        raise ValueError(
            "shares: expected positive ones, at most 1 together, with a sequence each, got "
            f"{tuple(shares)} of {len(series)} sequences"
        )
    order = torch.randperm(len(series), generator=torch.Generator().manual_seed(seed))
    return [series[part] for part in order[: sum(counts)].split(counts)]


class Scaling(NamedTuple):
    """A shift and a factor for each feature: x = loc + scale y.

    Attributes:
        loc: ``(D,)``.
        scale: ``(D,)``, positive.

    Example:
        >>> from pyro_lebm.models.datasets import irregular_sines
        >>> series = irregular_sines(50)
        >>> scaling = Scaling.of(series)
        >>> y = scaling.apply(series).values
        >>> bool(y.mean().abs() < 1e-5), torch.allclose(scaling.undo(y), series.values, atol=1e-5)
        (True, True)
    """

    loc: Tensor
    scale: Tensor

    @classmethod
    def of(cls, series: Series) -> Scaling:
        """Mean and standard deviation of each feature's observed entries; 1 where it is constant.

        Constant is what varies by no more than rounding: a few units in the last place of the mean,
        which is rounded itself.

        Raises:
            ValueError: a feature without an observed entry.
        """
        count = series.mask.sum((0, 1))
        if not bool((count > 0).all()):
            raise ValueError("series: expected observed entries of each feature, got none of some")
        x = series.filled.double()
        loc = x.sum((0, 1)) / count
        spread = (((x - loc).square() * series.mask).sum((0, 1)) / count).sqrt()
        rounding = 8 * torch.finfo(series.values.dtype).eps * loc.abs()
        scale = torch.where(spread > rounding, spread, 1.0)
        return cls(loc.to(series.values), scale.to(series.values))

    def apply(self, series: Series) -> Series:
        """The series in units in which each feature has mean 0 and standard deviation 1."""
        values = (series.values - self.loc) / self.scale
        return Series(
            series.times, values, series.mask, series.covariates, series.index, series.total
        )

    def undo(self, values: Tensor) -> Tensor:
        """Values ``(..., D)``, such as predictions, back in the data's units."""
        return self.loc + self.scale * values
