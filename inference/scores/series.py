"""How predicted sequences agree with true ones, and what generating them costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor

from .errors import coverage
from .masked import by_feature, centred, varying


def correlation(prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    r"""Pearson's correlation, of each feature over all sequences and times, then their mean.

    .. math:: \frac{1}{D} \sum_d \frac{\sum_i (\hat x_{id} - \bar{\hat x}_d)(x_{id} - \bar x_d)}
              {\sqrt{\sum_i (\hat x_{id} - \bar{\hat x}_d)^2 \sum_i (x_{id} - \bar x_d)^2}}

    Features that are constant in truth are left out; a constant prediction of another counts as 0.

    Args:
        prediction: a point prediction, such as the mean over draws; of truth's shape.
        truth: ``(..., D)``; may be NaN where ``mask`` is False.
        mask: bool, what counts, of truth's shape; None: everything.

    Raises:
        ValueError: if shapes disagree, nothing counts, a counted entry is not finite, or no true
            feature varies.

    Example:
        >>> truth = torch.tensor([[1.0], [2.0], [3.0]])
        >>> round(correlation(2 * truth + 1, truth), 6), round(correlation(-truth, truth), 6)
        (1.0, -1.0)
    """
    guess, target, keep = by_feature(prediction, truth, mask)
    used = varying(target, keep)
    x, y, keep = guess[:, used], target[:, used], keep[:, used]
    moves = x.masked_fill(~keep, torch.inf).amin(0) < x.masked_fill(~keep, -torch.inf).amax(0)
    x, y = centred(x, keep), centred(y, keep)
    size = x.norm(dim=0) * y.norm(dim=0)
    return float(torch.where(moves, (x * y).sum(0) / size, 0.0).mean())


class BinaryScores(NamedTuple):
    """How well probabilities tell ones from zeros.

    Attributes:
        f1: harmonic mean of precision and recall of the ones, where 1 is said from .5 on.
        auroc: area under the ROC curve; .5 is chance, 1 perfect.
    """

    f1: float
    auroc: float


def binary_scores(probability: Tensor, truth: Tensor, mask: Tensor | None = None) -> BinaryScores:
    """F1 and AUROC of binary data, pooled over all that counts.

    Args:
        probability: of a one, in [0, 1]; of truth's shape.
        truth: 0 or 1, or bool, any shape; may be NaN where ``mask`` is False.
        mask: bool, what counts, of truth's shape; None: everything.

    Raises:
        ValueError: if shapes disagree, a counted entry is not finite, a probability is outside, or
            truth has another value or one alone.

    Example:
        >>> binary_scores(torch.tensor([0.1, 0.6, 0.9]), torch.tensor([0.0, 0.0, 1.0]))
        BinaryScores(f1=0.666..., auroc=1.0)
    """
    guess, target, keep = by_feature(probability, truth, mask, ("probability", "truth"))
    chance, label = guess[keep].numpy(), target[keep].numpy()
    if chance.min() < 0 or chance.max() > 1:
        raise ValueError(
            f"probability: expected numbers in [0, 1], got {chance.min()} to {chance.max()}"
        )
    if sorted(set(label.tolist())) != [0, 1]:
        raise ValueError(
            "truth: expected both 0 and 1, and nothing else, where they count, got "
            f"{label.min()} to {label.max()}"
        )
    f1 = f1_score(label, chance >= 0.5, zero_division=0)
    return BinaryScores(float(f1), float(roc_auc_score(label, chance)))


class IntervalCalibration(NamedTuple):
    r"""How often central intervals hold the truth.

    Attributes:
        coverage: by level, the fraction of true entries inside; best is the level.
        miss: mean over the levels of :math:`|\text{coverage} - \text{level}|`; 0 is best.
    """

    coverage: dict[float, float]
    miss: float


def interval_calibration(
    draws: Tensor,
    truth: Tensor,
    levels: Sequence[float] = (0.5, 0.8, 0.9),
    mask: Tensor | None = None,
) -> IntervalCalibration:
    """Coverage of central intervals at several levels, and its mean distance from them.

    Args:
        draws, truth, mask: as for `coverage`; 19 draws are the fewest for a level of .9.
        levels: different ones, each in (0, 1).

    Raises:
        ValueError: no level, one that is there twice, and as `coverage` does.

    Example:
        >>> draws = torch.arange(1.0, 20.0)[:, None].expand(19, 2)
        >>> interval_calibration(draws, torch.tensor([10.0, 30.0]), (0.5, 0.9))
        IntervalCalibration(coverage={0.5: 0.5, 0.9: 0.5}, miss=0.2)
    """
    if not levels or len(set(levels)) < len(levels):
        raise ValueError(f"levels: expected different ones, at least one, got {tuple(levels)}")
    found = {float(level): coverage(draws, truth, level, mask) for level in levels}
    return IntervalCalibration(
        found, float(np.mean([abs(found[level] - level) for level in found]))
    )


def seconds_per_sequence(generate: Callable[[int], object], n: int, repeats: int = 3) -> float:
    """Median time that generating a sequence takes, in seconds, of several runs.

    Of three runs or more the median leaves out a first one that compiles or allocates.

    Args:
        generate: called with n, makes n sequences at once.
        n: sequences in each run.
        repeats: number of runs.

    Raises:
        ValueError: a number below 1.

    Example:
        >>> seconds_per_sequence(lambda n: torch.randn(n, 50, 2), 100) < 1.0
        True
    """
    for name, size in (("n", n), ("repeats", repeats)):
        if size < 1:
            raise ValueError(f"{name}: expected at least 1, got {size}")
    return float(np.median([_seconds(generate, n) for _ in range(repeats)])) / n


def _seconds(generate: Callable[[int], object], n: int) -> float:
    _wait()
    begun = time.perf_counter()
    generate(n)
    _wait()
    return time.perf_counter() - begun


def _wait() -> None:
    """Until a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
