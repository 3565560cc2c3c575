"""What latents mean: how they divide the factors of variation among themselves."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.metrics import mutual_info_score
from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information
from sklearn.svm import LinearSVC
from torch import Tensor

from .prediction import is_class, predicted, unsurprised_by_rare_classes

Array = np.ndarray[Any, Any]
Factors = Mapping[str, Tensor]
FEWEST, FEW = 5, 50  # points: for a score at all, and for one that says something


def mutual_information_gap(z: Tensor, factors: Factors, *, bins: int = 20) -> float:
    r"""The mutual information gap (Chen et al. 2018, arXiv 1802.04942), without what chance adds.

    .. math:: \frac1K \sum_k s_{(1)k} - s_{(2)k}, \qquad
        s_{jk} = \max\left(0, \frac{I(z_j; v_k) - I^0_{jk}}{H(v_k) - I^0_{jk}}\right)

    with the two latents that know most of the factor :math:`v_k`: 1 where one latent has each
    factor to itself, 0 where two share it or none knows it. Mutual information of b by c bins
    comes out some (b - 1)(c - 1) / 2n nats too large; :math:`I^0` is its mean over all permutations
    of the factor, in closed form (Vinh et al. 2010). With many points it is 0, and the score that
    of Chen et al.

    Continuous factors are cut into bins of equal mass, of which there are more where there are
    more points; latents into as many of equal mass or of equal width, whichever tell more. A latent
    that takes no more values than that is left as it is.

    Args:
        z: ``(n, dim)``, n >= 5, dim >= 2, finite. With fewer than 50 points a perfect code scores
            well below 1, and there is a warning.
        factors: by name ``(n,)``; integers are classes, floating numbers continuous.
        bins: at most so many, and no more than :math:`\sqrt n`.

    Raises:
        ValueError: for other shapes, numbers that are not finite, fewer than five points, or two
            latents or bins, a constant factor, or classes of which none comes twice.

    Example:
        >>> import torch
        >>> z = torch.rand(500, 2, generator=torch.Generator().manual_seed(0))
        >>> mutual_information_gap(z, {"a": z[:, 0], "b": z[:, 1]}) > 0.95
        True
    """
    if bins < 2:
        raise ValueError(f"bins: expected at least 2, got {bins}")
    latents, known = _checked(z, factors, least=2)
    count = min(bins, max(2, round(len(latents) ** 0.5)))
    cuts = [_cuts(column, count) for column in latents.T]
    gaps = []
    for factor in known.values():
        classes = factor if is_class(factor) else _cuts(factor, count)[0]
        shares = (max(_share(cut, classes) for cut in of_one) for of_one in cuts)
        first, second = sorted(shares, reverse=True)[:2]
        gaps.append(first - second)
    return float(np.mean(gaps))


def _cuts(column: Array, bins: int) -> list[Array]:
    """Bin of each entry: of equal mass, then of equal width; of few values, these themselves."""
    values, which = np.unique(column, return_inverse=True)
    if len(values) <= bins:
        return [which]
    # by ranks, as quantiles put a value that comes often together with the rarer ones beside it
    masses = (stats.rankdata(column) - 0.5) * bins // len(column)
    widths = np.linspace(column.min(), column.max(), bins + 1)[1:-1]
    return [masses.astype(int), np.digitize(column, widths)]


def _share(cut: Array, classes: Array) -> float:
    """Of what there is to know of the classes, what the cut knows beyond chance."""
    table = contingency_matrix(cut, classes)
    chance = expected_mutual_information(table, len(classes))
    found = mutual_info_score(None, None, contingency=table) - chance
    return max(float(found / (stats.entropy(table.sum(0)) - chance)), 0.0)


def sap(z: Tensor, factors: Factors) -> float:
    r"""Separated attribute predictability (Kumar et al. 2018, arXiv 1711.00848).

    The gap between the two latents that, alone, predict a factor best, in the mean over factors:
    by :math:`R^2` of a line where it is continuous, by the accuracy of a linear classifier where it
    is a class.

    Args:
        z, factors: as for `mutual_information_gap`.
    """
    latents, known = _checked(z, factors, least=2)
    gaps = []
    for factor in known.values():
        told = sorted((_alone(column, factor) for column in latents.T), reverse=True)
        gaps.append(told[0] - told[1])
    return float(np.mean(gaps))


def _alone(column: Array, factor: Array) -> float:
    if column.std() == 0:
        return 0.0
    if not is_class(factor):
        return float(np.corrcoef(column, factor)[0, 1] ** 2)
    x = ((column - column.mean()) / column.std())[:, None]
    return float(LinearSVC(class_weight="balanced", random_state=0).fit(x, factor).score(x, factor))


class DCI(NamedTuple):
    """Disentanglement, completeness and informativeness, each at best 1.

    Attributes:
        disentanglement: whether each latent is about one factor.
        completeness: whether each factor is in one latent.
        informativeness: how well all latents together predict a factor they were not fitted on, in
            the mean over factors, as in `block_r2`.
    """

    disentanglement: float
    completeness: float
    informativeness: float


def dci(z: Tensor, factors: Factors, *, seed: int = 0) -> DCI:
    """Disentanglement, completeness, informativeness (Eastwood & Williams 2018).

    From the importances of gradient-boosted trees that predict each factor from all latents.

    Args:
        z, factors: as for `mutual_information_gap`.
        seed: of the trees.
    """
    latents, known = _checked(z, factors, least=2)
    importance = np.stack([_importance(latents, factor, seed) for factor in known.values()])
    informed = [predicted(latents, factor, seed) for factor in known.values()]
    weight = importance.sum(0) / max(importance.sum(), 1e-12)  # constant latents have none
    return DCI(
        float((weight * (1 - _entropy(importance.T, len(known)))).sum()),
        float((1 - _entropy(importance, latents.shape[1])).mean()),
        float(np.mean(informed)),
    )


def _importance(latents: Array, factor: Array, seed: int) -> Array:
    kind = GradientBoostingClassifier if is_class(factor) else GradientBoostingRegressor
    with unsurprised_by_rare_classes():
        trees = kind(random_state=seed, n_estimators=50).fit(latents, factor)
    found: Array = trees.feature_importances_
    return found


def _entropy(rows: Array, base: int) -> Array:
    """Of each row, taken as weights, in units of the largest there can be."""
    if base == 1:
        return np.zeros(len(rows))
    total = rows.sum(1, keepdims=True)
    p = np.divide(rows, total, out=np.full_like(rows, 1 / base), where=total > 0)
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    found: Array = -(p * logs).sum(1) / np.log(base)
    return found


def block_r2(
    blocks: Mapping[str, Tensor], factors: Factors, *, seed: int = 0
) -> dict[str, dict[str, float]]:
    """How well each block of latents predicts each factor, by block and factor.

    By a ridge or logistic regression or by randomised trees, whichever is better, each prediction
    by a model that was fitted and chosen without it: R^2 of a continuous factor, of a class the
    accuracy over that of guessing, (a - c) / (1 - c). What a static block knows of what moves, and
    the other way round, is the leakage between them.

    Args:
        blocks: by name ``(n, dim)``, n >= 5, such as those of static and of dynamic latents.
        factors: by name ``(n,)``; an angle is best given as its sine and cosine.
        seed: of folds and trees.

    Raises:
        ValueError: as `mutual_information_gap` does, but for one latent; no blocks.

    Example:
        >>> import torch
        >>> z = torch.rand(100, 2, generator=torch.Generator().manual_seed(0))
        >>> found = block_r2({"static": z[:, :1], "dynamic": z[:, 1:]}, {"size": z[:, 0]})
        >>> found["static"]["size"] > 0.99, found["dynamic"]["size"] < 0.2
        (True, True)
    """
    found = {}
    for name, z in blocks.items():
        latents, known = _checked(z, factors, least=1)
        found[name] = {key: predicted(latents, factor, seed) for key, factor in known.items()}
    return found


def _checked(z: Tensor, factors: Factors, least: int) -> tuple[Array, dict[str, Array]]:
    if z.dim() != 2 or z.shape[1] < least:
        raise ValueError(
            f"z: expected shape (n, dim) with dim of at least {least}, got {tuple(z.shape)}"
        )
    if len(z) < FEWEST:
        raise ValueError(f"z: expected at least {FEWEST} points, got {len(z)}")
    if not bool(torch.isfinite(z).all()):
        raise ValueError("z: expected finite numbers, got NaN or inf")
    if not factors:
        raise ValueError("factors: expected at least one, got none")
    known = {name: _checked_factor(name, factor, len(z)) for name, factor in factors.items()}
    if len(z) < FEW:
        warnings.warn(f"z: expected {FEW} points or more, as {len(z)} say little", stacklevel=3)
    return z.detach().double().cpu().numpy(), known


def _checked_factor(name: str, factor: Tensor, n: int) -> Array:
    if factor.shape != (n,):
        raise ValueError(f"{name}: expected shape ({n},), got {tuple(factor.shape)}")
    if not bool(torch.isfinite(factor).all()):
        raise ValueError(f"{name}: expected finite numbers, got NaN or inf")
    if bool((factor == factor[0]).all()):
        raise ValueError(f"{name}: expected a factor that varies, got {factor[0]} throughout")
    value = factor.detach().cpu()
    found: Array = (value.double() if value.is_floating_point() else value).numpy()
    if is_class(found) and len(np.unique(found)) == n:
        raise ValueError(
            f"{name}: expected classes of which one comes twice, got {n} of them in {n} points; "
            "numbers are given as a floating dtype"
        )
    return found
