"""What latents mean: how they divide the factors of variation among themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from sklearn.metrics import mutual_info_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.svm import LinearSVC
from torch import Tensor

Array = np.ndarray[Any, Any]
Factors = Mapping[str, Tensor]


def mutual_information_gap(z: Tensor, factors: Factors, *, bins: int = 20) -> float:
    r"""The mutual information gap (Chen et al. 2018, arXiv 1802.04942).

    .. math:: \frac1K \sum_k \frac{I(z_{(1)}; v_k) - I(z_{(2)}; v_k)}{H(v_k)}

    with the two latents that know most of the factor :math:`v_k`: 1 where one latent has each
    factor to itself, 0 where two share it. Latents and continuous factors are cut into bins.

    Args:
        z: ``(n, dim)``, dim >= 2.
        factors: by name ``(n,)``; integers are classes, floating numbers continuous.
        bins: of equal width.

    Raises:
        ValueError: for other shapes, fewer than two latents or bins, or a constant factor.

    Example:
        >>> import torch
        >>> z = torch.rand(500, 2, generator=torch.Generator().manual_seed(0))
        >>> mutual_information_gap(z, {"a": z[:, 0], "b": z[:, 1]}) > 0.8
        True
    """
    if bins < 2:
        raise ValueError(f"bins: expected at least 2, got {bins}")
    latents, known = _checked(z, factors, least=2)
    cut = [_binned(column, bins) for column in latents.T]
    gaps = []
    for factor in known.values():
        classes = factor if _is_class(factor) else _binned(factor, bins)
        first, second = sorted((mutual_info_score(c, classes) for c in cut), reverse=True)[:2]
        gaps.append((first - second) / mutual_info_score(classes, classes))
    return float(np.mean(gaps))


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
    if not _is_class(factor):
        return float(np.corrcoef(column, factor)[0, 1] ** 2)
    x = ((column - column.mean()) / column.std())[:, None]
    return float(LinearSVC(class_weight="balanced", random_state=0).fit(x, factor).score(x, factor))


class DCI(NamedTuple):
    """Disentanglement, completeness and informativeness, each at best 1.

    Attributes:
        disentanglement: whether each latent is about one factor.
        completeness: whether each factor is in one latent.
        informativeness: how well all latents together predict a factor they were not fitted on, in
            the mean over factors: R^2, or accuracy over chance.
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
    rows = []
    for factor in known.values():
        kind = GradientBoostingClassifier if _is_class(factor) else GradientBoostingRegressor
        trees = kind(random_state=seed, n_estimators=50).fit(latents, factor)
        rows.append(trees.feature_importances_)
    importance = np.stack(rows)  # (factors, latents)
    informed = [_predicted(latents, factor, seed) for factor in known.values()]
    by_latent, by_factor = importance.sum(0), importance.sum(1)
    weight = by_latent / by_latent.sum()
    return DCI(
        float((weight * (1 - _entropy(importance.T, len(known)))).sum()),
        float((by_factor / by_factor.sum() * (1 - _entropy(importance, latents.shape[1]))).sum()),
        float(np.mean(informed)),
    )


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

    By gradient-boosted trees, each prediction by trees that were fitted without it: R^2 of a
    continuous factor, of a class the accuracy over that of guessing, (a - c) / (1 - c). What a
    static block knows of what moves, and the other way round, is the leakage between them.

    Args:
        blocks: by name ``(n, dim)``, such as those of static and of dynamic latents.
        factors: by name ``(n,)``; an angle is best given as its sine and cosine.
        seed: of folds and trees.

    Raises:
        ValueError: for other shapes or a constant factor.

    Example:
        >>> import torch
        >>> z = torch.rand(300, 2, generator=torch.Generator().manual_seed(0))
        >>> found = block_r2({"static": z[:, :1], "dynamic": z[:, 1:]}, {"size": z[:, 0]})
        >>> found["static"]["size"] > 0.9, found["dynamic"]["size"] < 0.2
        (True, True)
    """
    return {
        name: {
            factor: _predicted(latents, value, seed)
            for latents, known in [_checked(z, factors, least=1)]
            for factor, value in known.items()
        }
        for name, z in blocks.items()
    }


def _predicted(latents: Array, factor: Array, seed: int) -> float:
    classes = _is_class(factor)
    kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    folds = KFold(5, shuffle=True, random_state=seed)
    told = cross_val_predict(kind(random_state=seed), latents, factor, cv=folds)
    if classes:
        chance = np.unique(factor, return_counts=True)[1].max() / len(factor)
        return float(((told == factor).mean() - chance) / (1 - chance))
    return float(1 - ((told - factor) ** 2).mean() / factor.var())


def _checked(z: Tensor, factors: Factors, least: int) -> tuple[Array, dict[str, Array]]:
    if z.dim() != 2 or z.shape[1] < least:
        raise ValueError(
            f"z: expected shape (n, dim) with dim of at least {least}, got {tuple(z.shape)}"
        )
    if not factors:
        raise ValueError("factors: expected at least one, got none")
    known = {}
    for name, factor in factors.items():
        if factor.shape != (len(z),):
            raise ValueError(f"{name}: expected shape ({len(z)},), got {tuple(factor.shape)}")
        if bool((factor == factor[0]).all()):
            raise ValueError(f"{name}: expected a factor that varies, got {factor[0]} throughout")
        known[name] = factor.detach().cpu().numpy()
    return z.detach().double().cpu().numpy(), known


def _is_class(factor: Array) -> bool:
    return bool(np.issubdtype(factor.dtype, np.integer) or factor.dtype == bool)


def _binned(column: Array, bins: int) -> Array:
    edges = np.histogram_bin_edges(column, bins)
    return np.digitize(column, edges[1:-1])
