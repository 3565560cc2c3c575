"""Differences between methods, paired by seed or by sequence."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats
from torch import Tensor


class Difference(NamedTuple):
    """A mean difference and the ends of its confidence interval."""

    mean: float
    low: float
    high: float


def paired_interval(a: Tensor, b: Tensor, level: float = 0.95) -> Difference:
    r"""Mean of :math:`a_i - b_i` with Student's t interval, for results paired by seed or sequence.

    .. math:: \bar d \pm t_{n-1, (1 + \text{level})/2} \, s_d / \sqrt{n}

    Args:
        a: ``(n,)`` results of one method, n >= 2.
        b: ``(n,)`` results of the other, in the same order.
        level: of the interval, in (0, 1).

    Raises:
        ValueError: if shapes disagree, there are fewer than two pairs, a result is not finite, or
            the level is outside.

    Example:
        >>> import torch
        >>> paired_interval(torch.tensor([2.0, 3.0, 4.0]), torch.tensor([1.0, 2.0, 3.0])).mean
        1.0
    """
    difference = _differences(a, b, level)
    n, mean = len(difference), float(difference.mean())
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * float(difference.std(ddof=1)) / n**0.5
    return Difference(mean, mean - half, mean + half)


def bootstrap_interval(
    a: Tensor, b: Tensor, level: float = 0.95, *, resamples: int = 10_000, seed: int = 0
) -> Difference:
    r"""Mean of :math:`a_i - b_i` with the percentiles of its bootstrap distribution.

    Pairs are drawn again with replacement (Efron 1979). With fewer than ten of them it is too
    narrow, and `paired_interval` the safer one.

    Args:
        a, b, level: as for `paired_interval`.
        resamples: how often pairs are drawn again.
        seed: of these draws.

    Raises:
        ValueError: as `paired_interval` does.

    Example:
        >>> import torch
        >>> found = bootstrap_interval(torch.arange(5.0) + 1, torch.arange(5.0))
        >>> found.low, found.mean, found.high
        (1.0, 1.0, 1.0)
    """
    difference = _differences(a, b, level)
    found = stats.bootstrap(
        (difference,),
        np.mean,
        confidence_level=level,
        n_resamples=resamples,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Difference(float(difference.mean()), float(found.low), float(found.high))


def _differences(a: Tensor, b: Tensor, level: float) -> np.ndarray[tuple[int], np.dtype[np.double]]:
    if a.shape != b.shape or a.dim() != 1 or len(a) < 2:
        raise ValueError(
            f"a, b: expected the same shape (n,) with n of at least 2, "
            f"got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    for name, results in (("a", a), ("b", b)):
        if not bool(results.isfinite().all()):
            raise ValueError(f"{name}: expected finite numbers, got NaN or inf")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level: expected a number in (0, 1), got {level}")
    found: np.ndarray[tuple[int], np.dtype[np.double]] = (a.double() - b.double()).cpu().numpy()
    return found
