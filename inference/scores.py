"""Scores of predictions, of their uncertainty, and of generated sequences against real ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scoringrules
import torch
from scipy import stats
from torch import Tensor


def mse(prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    r"""Mean squared error over the entries of ``mask``.

    .. math:: \frac{1}{|M|} \sum_{i \in M} (\hat x_i - x_i)^2

    Args:
        prediction: a point prediction, such as the mean over draws; of truth's shape.
        truth: any shape; may be NaN where ``mask`` is False. The unit of the score is its square.
        mask: bool, what counts; of truth's shape. None: everything.

    Raises:
        ValueError: if shapes disagree, nothing counts, or a counted entry is not finite.

    Example:
        >>> mse(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
        2.0
    """
    if prediction.shape != truth.shape:
        raise ValueError(
            f"prediction: expected shape {tuple(truth.shape)} as truth, "
            f"got {tuple(prediction.shape)}"
        )
    guess, target = _counted(prediction[None], truth, mask)
    return float((guess[0] - target).square().mean())


def crps(draws: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    r"""Continuous ranked probability score, mean over entries, in the unit of the data: 0 is best.

    .. math:: \mathrm{CRPS}(F, y) = E|X - y| - \tfrac12 E|X - X'|, \qquad X, X' \sim F

    (Gneiting and Raftery 2007), estimated without bias from draws by probability-weighted moments
    (Zamo and Naveau 2018). Of a single draw it is the absolute error.

    Args:
        draws: leading dimensions of draws, such as ``(chains, draws)``, then truth's shape.
        truth: any shape; may be NaN where ``mask`` is False.
        mask: bool, what counts; of truth's shape. None: everything.

    Raises:
        ValueError: if shapes disagree, nothing counts, or a counted entry is not finite.

    Example:
        >>> crps(torch.tensor([[1.0], [3.0]]), torch.tensor([2.0]))
        0.0
    """
    sample, target = _counted(draws, truth, mask)
    if len(sample) == 1:
        return float((sample[0] - target).abs().mean())
    score = scoringrules.crps_ensemble(
        target.numpy(), sample.numpy(), m_axis=0, estimator="pwm", backend="numpy"
    )
    return float(np.mean(score))


def interval(draws: Tensor, level: float) -> tuple[Tensor, Tensor]:
    r"""Central interval of the draws along their first dimension, calibrated for few of them.

    Its ends are the order statistics at ranks :math:`(S + 1)(1 \pm \text{level})/2` (Weibull's
    plotting positions): of exchangeable draws and truth it holds the truth with probability
    ``level`` exactly, where the common linear quantiles fall short by a factor (S-1)/(S+1).

    Args:
        draws: ``(S, ...)``.
        level: in (0, 1).

    Returns:
        Lower and upper end, each of shape ``draws.shape[1:]``.

    Raises:
        ValueError: if the level is not in (0, 1), or there are too few draws for it.

    Example:
        >>> low, high = interval(torch.arange(1.0, 20.0), 0.9)
        >>> round(float(low), 4), round(float(high), 4)
        (1.0, 19.0)
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level: expected a number in (0, 1), got {level}")
    needed = int(np.ceil(2 / (1 - level) - 1 - 1e-9))
    if len(draws) < needed:
        raise ValueError(
            f"draws: expected at least {needed} for an interval of level {level}, got {len(draws)}"
        )
    sample = draws.detach().cpu().numpy()
    ends = np.quantile(sample, [(1 - level) / 2, (1 + level) / 2], axis=0, method="weibull")
    low, high = torch.as_tensor(ends).to(draws)
    return low, high


def coverage(draws: Tensor, truth: Tensor, level: float, mask: Tensor | None = None) -> float:
    """Fraction of the true entries inside the central interval of their draws; best is ``level``.

    Args:
        draws: leading dimensions of draws, then truth's shape. Predictive draws, with the noise of
            observation, if truth is noisy.
        truth: any shape; may be NaN where ``mask`` is False.
        level: of the interval, in (0, 1); see :func:`interval`.
        mask: bool, what counts; of truth's shape. None: everything.

    Raises:
        ValueError: as :func:`interval` and :func:`crps` do.

    Example:
        >>> coverage(torch.arange(1.0, 20.0)[:, None], torch.tensor([7.0]), 0.9)
        1.0
    """
    sample, target = _counted(draws, truth, mask)
    low, high = interval(sample, level)
    return float(((target >= low) & (target <= high)).double().mean())


def median_bandwidth(real: Tensor) -> float:
    """The median heuristic: the median distance between two different real sequences.

    Args:
        real: ``(n, ...)``, n >= 2; each sequence is flattened.

    Raises:
        ValueError: if there are fewer than two, or at least half of the pairs are equal.

    Example:
        >>> median_bandwidth(torch.tensor([[0.0], [1.0], [3.0]]))
        2.0
    """
    points = _flattened("real", real)
    if len(points) < 2:
        raise ValueError(f"real: expected at least two sequences, got {len(points)}")
    # numpy's median, since torch.quantile refuses more than 16 million numbers.
    width = float(np.median(torch.nn.functional.pdist(points).numpy()))
    if width == 0.0:
        raise ValueError("real: expected sequences that differ, got a median distance of 0")
    return width


def mmd(x: Tensor, y: Tensor, bandwidth: float) -> float:
    r"""Squared maximum mean discrepancy of two samples of sequences (Gretton et al. 2012).

    .. math:: \frac{1}{n^2} \sum k(x_i, x_j) + \frac{1}{m^2} \sum k(y_i, y_j)
        - \frac{2}{nm} \sum k(x_i, y_j), \qquad k(a, b) = e^{-\|a - b\|^2 / 2 h^2}

    It is the V-statistic, never negative; between samples of one distribution it is about
    (1/n + 1/m)(1 - E k), the floor to compare with.

    Args:
        x: ``(n, ...)``; each sequence is flattened.
        y: ``(m, ...)``, of the same sequence shape.
        bandwidth: h > 0, in the unit of a distance between sequences. Take
            :func:`median_bandwidth` of real data and keep it for all that is compared.

    Raises:
        ValueError: if shapes disagree, a value is not finite, or the bandwidth is not positive.

    Example:
        >>> mmd(torch.zeros(2, 3), torch.zeros(4, 3), bandwidth=1.0)
        0.0
    """
    if not bandwidth > 0:
        raise ValueError(f"bandwidth: expected a positive number, got {bandwidth}")
    first, second = _flattened("x", x), _flattened("y", y)
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"y: expected sequences of shape {tuple(x.shape[1:])} as x, got {tuple(y.shape[1:])}"
        )

    def kernel(a: Tensor, b: Tensor) -> float:
        return float(torch.exp(-torch.cdist(a, b).square() / (2 * bandwidth**2)).mean())

    return max(kernel(first, first) + kernel(second, second) - 2 * kernel(first, second), 0.0)


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
        ValueError: if shapes disagree, there are fewer than two pairs, or the level is outside.

    Example:
        >>> paired_interval(torch.tensor([2.0, 3.0, 4.0]), torch.tensor([1.0, 2.0, 3.0])).mean
        1.0
    """
    if a.shape != b.shape or a.dim() != 1 or len(a) < 2:
        raise ValueError(
            f"a, b: expected the same shape (n,) with n of at least 2, "
            f"got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if not 0.0 < level < 1.0:
        raise ValueError(f"level: expected a number in (0, 1), got {level}")
    difference = (a.double() - b.double()).cpu()
    mean = float(difference.mean())
    half = float(stats.t.ppf((1 + level) / 2, len(a) - 1)) * float(difference.std()) / len(a) ** 0.5
    return Difference(mean, mean - half, mean + half)


def _counted(draws: Tensor, truth: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Draws ``(S, entries)`` and truth ``(entries,)`` of what counts, in double precision."""
    lead = draws.dim() - truth.dim()
    if lead < 1 or draws.shape[lead:] != truth.shape:
        raise ValueError(
            f"draws: expected dimensions of draws before {tuple(truth.shape)}, the shape of truth, "
            f"got {tuple(draws.shape)}"
        )
    keep = torch.ones_like(truth, dtype=torch.bool) if mask is None else mask.to(truth.device)
    if keep.dtype != torch.bool or keep.shape != truth.shape:
        raise ValueError(
            f"mask: expected bool of shape {tuple(truth.shape)}, "
            f"got {keep.dtype} {tuple(keep.shape)}"
        )
    if not keep.any():
        raise ValueError("mask: expected at least one entry that counts, got none")
    sample = draws.detach().flatten(0, lead - 1)[:, keep.to(draws.device)].double().cpu()
    target = truth.detach()[keep].double().cpu()
    for name, value in (("draws", sample), ("truth", target)):
        if not torch.isfinite(value).all():
            raise ValueError(f"{name}: expected finite numbers where they count, got NaN or inf")
    return sample, target


def _flattened(name: str, value: Tensor) -> Tensor:
    if value.dim() < 2 or 0 in value.shape:
        raise ValueError(f"{name}: expected shape (n, ...), got {tuple(value.shape)}")
    if not torch.isfinite(value).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or inf")
    return value.detach().flatten(1).double().cpu()
