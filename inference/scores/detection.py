"""How well a score tells strange sequences from familiar ones."""

from __future__ import annotations

import math
import zlib
from typing import NamedTuple

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from pyro_lebm.series import Series


class Detection(NamedTuple):
    """How well a score detects, with the strange ones as positives.

    Attributes:
        auroc: area under the ROC curve; .5 is chance, 1 perfect.
        auprc: average precision; chance is the share of strange ones.
        fpr95: share of strange ones that pass for familiar where 95 % of the familiar do; 0 best.
    """

    auroc: float
    auprc: float
    fpr95: float


def detection(familiar: Tensor, strange: Tensor) -> Detection:
    """Detection by a score that is higher where a sequence is stranger.

    Args:
        familiar: scores ``(n,)`` of sequences such as those learned from.
        strange: scores ``(m,)`` of others.

    Raises:
        ValueError: for another shape, an empty one, or NaN.

    Example:
        >>> detection(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0]))
        Detection(auroc=1.0, auprc=1.0, fpr95=0.0)
    """
    for name, score in (("familiar", familiar), ("strange", strange)):
        if score.dim() != 1 or not len(score) or bool(score.isnan().any()):
            raise ValueError(
                f"{name}: expected scores (n,) without NaN, got shape {tuple(score.shape)}"
                + (" with NaN" if score.dim() == 1 and len(score) else "")
            )
    label = np.repeat([0, 1], [len(familiar), len(strange)])
    # a density of 0 is infinitely strange: past all others, and equal among themselves
    score = torch.cat([familiar, strange]).detach().double().cpu()
    score = score.clamp(*_finite_range(score))
    threshold = np.quantile(score[: len(familiar)].numpy(), 0.95, method="higher")
    return Detection(
        float(roc_auc_score(label, score.numpy())),
        float(average_precision_score(label, score.numpy())),
        float((score[len(familiar) :] <= threshold).double().mean()),
    )


def _finite_range(score: Tensor) -> tuple[float, float]:
    finite = score[score.isfinite()]
    if not len(finite):
        return -1.0, 1.0
    return float(finite.min()) - 1, float(finite.max()) + 1


def input_complexity(
    series: Series, *, levels: int = 256, limits: tuple[float, float] | None = None
) -> Tensor:
    """Nats that a compressor needs for what was observed of each sequence, ``(N,)``.

    Values are rounded to even levels between two limits, and the differences along time of each
    feature compressed by zlib. Taken from the score -log p(x), it leaves what the model finds
    strange beyond a sequence's own intricacy (Serra et al. 2020, arXiv 1909.11480).

    Sizes depend on the limits: one value far out leaves fewer levels to all others, and lowers the
    complexity of every sequence of its call. Only sizes by the same limits can be compared.

    Args:
        series: the sequences.
        levels: of rounding, at most 256.
        limits: the lowest and the highest value, in the series' units and of all features alike;
            what lies beyond is put there. By default the least and the greatest observed value of
            this series, which is right only if all that are to be compared are in it; sequences
            scored in separate calls need limits, such as those of the training data.

    Raises:
        ValueError: for fewer than 2 or more than 256 levels, or limits that are not finite or do
            not rise.

    Example:
        >>> x = torch.stack([torch.zeros(200, 1), torch.rand(200, 1)])
        >>> flat, noisy = input_complexity(Series(torch.arange(200.0), x))
        >>> bool(flat < noisy)
        True
    """
    if not 2 <= levels <= 256:
        raise ValueError(f"levels: expected 2 to 256, got {levels}")
    low, high = _limits(series) if limits is None else limits
    if limits is not None and not -math.inf < low < high < math.inf:
        raise ValueError(f"limits: expected finite numbers low < high, got {low} and {high}")
    span = max(high - low, torch.finfo(series.values.dtype).tiny)
    rounded = ((series.filled - low) / span * (levels - 1)).round().clamp(0, levels - 1)
    found = []
    for value, mask in zip(rounded.cpu(), series.mask.cpu(), strict=True):
        features = (value[seen, d] for d, seen in enumerate(mask.T))
        changes = torch.cat([x.diff(prepend=x.new_zeros(1)) for x in features])
        raw = (changes.long() % 256).to(torch.uint8).numpy().tobytes()
        found.append(8 * math.log(2) * len(zlib.compress(raw, 9)))
    return torch.tensor(found, dtype=series.values.dtype)


def _limits(series: Series) -> tuple[float, float]:
    seen = series.values[series.mask]
    return float(seen.min()), float(seen.max())
