"""Generated sequences against real ones."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from torch import Tensor


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


def classifier_auc(
    x: Tensor, y: Tensor, *, components: int | None = None, folds: int = 5, seed: int = 0
) -> float:
    r"""How well a classifier tells two samples apart: .5 not at all, 1 each time.

    The area under the ROC curve of gradient-boosted trees (scikit-learn), each prediction by trees
    that were fitted without it (a classifier two-sample test: Lopez-Paz & Oquab 2017, arXiv
    1610.06545). Between two samples of one distribution it is .5 within about
    :math:`\sqrt{(n + m) / 12 n m}`, the floor to compare with.

    Args:
        x: ``(n, ...)``; each sequence is flattened.
        y: ``(m, ...)``, of the same sequence shape.
        components: show the trees the first principal components, at most so many, as videos take
            minutes otherwise; None: all numbers. What differs outside of them goes unseen.
        folds: of the cross-validation, at least 2.
        seed: of folds and trees.

    Raises:
        ValueError: if shapes disagree, a value is not finite, a sample is smaller than the number
            of folds, or for fewer than two folds or one component.

    Example:
        >>> x = torch.arange(20.0).reshape(10, 2)
        >>> classifier_auc(x, x + 100)
        1.0
    """
    first, second = _flattened("x", x), _flattened("y", y)
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"y: expected sequences of shape {tuple(x.shape[1:])} as x, got {tuple(y.shape[1:])}"
        )
    if components is not None and components < 1:
        raise ValueError(f"components: expected at least 1, or None, got {components}")
    if folds < 2:
        raise ValueError(f"folds: expected at least 2, got {folds}")
    if min(len(first), len(second)) < folds:
        raise ValueError(
            f"x, y: expected at least {folds} sequences each, one a fold, got {len(first)} and "
            f"{len(second)}"
        )
    both = torch.cat([first, second]).numpy()
    label = np.repeat([0, 1], [len(first), len(second)])
    steps: list[BaseEstimator] = []
    if components is not None:
        most = min(components, both.shape[1], len(both) - -(-len(both) // folds))
        steps.append(PCA(most, random_state=seed))
    trees = HistGradientBoostingClassifier(random_state=seed, min_samples_leaf=2)
    classifier = make_pipeline(*steps, trees)
    cut = StratifiedKFold(folds, shuffle=True, random_state=seed)
    told = cross_val_predict(classifier, both, label, cv=cut, method="predict_proba")[:, 1]
    return float(roc_auc_score(label, told))


def _flattened(name: str, value: Tensor) -> Tensor:
    if value.dim() < 2 or 0 in value.shape:
        raise ValueError(f"{name}: expected shape (n, ...), got {tuple(value.shape)}")
    if not torch.isfinite(value).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or inf")
    return value.detach().flatten(1).double().cpu()
