"""How well latents tell a factor of points that no model was fitted on, be they few or many."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Array = np.ndarray[Any, Any]
TREES, FOLDS, INNER_FOLDS = 50, 5, 3
PENALTIES = np.logspace(-3, 3, 7)  # of latents of variance 1


def predicted(latents: Array, factor: Array, seed: int) -> float:
    r"""Skill of predicting a factor from latents, by models that did not see what they predict.

    .. math:: 1 - \sum (v - \hat v)^2 \big/ \sum (v - \bar v)^2
        \qquad \text{or, of classes,} \qquad (a - c) / (1 - c)

    with the accuracy a, and c that of always naming the most frequent class. Five folds, stratified
    by class, are held out in turn. The rest decides whether a line (ridge or logistic regression)
    or extremely randomised trees (Geurts et al. 2006) predict: a line is right for few points, as
    they take many to draw one, and they see what bends.

    Args:
        latents: ``(n, dim)``, n >= 5, finite.
        factor: ``(n,)``, not constant; integers are classes, of which one comes twice.
        seed: of folds and trees.
    """
    told = np.empty_like(factor)
    with unsurprised_by_rare_classes():
        for seen, held in _folds(factor, FOLDS, seed):
            told[held] = _better(latents[seen], factor[seen], seed).predict(latents[held])
    score = _score(factor, told)
    if not is_class(factor):
        return score
    chance = np.unique(factor, return_counts=True)[1].max() / len(factor)
    return float((score - chance) / (1 - chance))


def is_class(factor: Array) -> bool:
    """Whether a factor is one of classes, not of numbers."""
    return bool(np.issubdtype(factor.dtype, np.integer) or factor.dtype == bool)


@contextmanager
def unsurprised_by_rare_classes() -> Iterator[None]:
    """Without scikit-learn's doubts of them: that they are hard to tell is part of a score."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        yield


def _better(x: Array, y: Array, seed: int) -> Any:
    """Line or trees, by their scores on points left out: in thirds, or of each tree's resample.

    Both are judged by what about two thirds of the points teach them, so neither has an advantage.
    """
    if is_class(y) and np.unique(y, return_counts=True)[1].max() in (1, len(y)):
        return DummyClassifier().fit(x, y)  # each class once, or but one: nothing to judge by
    kind = ExtraTreesClassifier if is_class(y) else ExtraTreesRegressor
    trees = kind(TREES, bootstrap=True, oob_score=True, random_state=seed).fit(x, y)
    told = np.empty_like(y)
    for seen, held in _folds(y, INNER_FOLDS, seed):
        told[held] = _line(x[seen], y[seen]).predict(x[held])
    return trees if trees.oob_score_ > _score(y, told) else _line(x, y)


def _line(x: Array, y: Array) -> Any:
    if not is_class(y):
        return make_pipeline(StandardScaler(), RidgeCV(PENALTIES)).fit(x, y)
    if (y == y[0]).all():
        return DummyClassifier().fit(x, y)
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, y)


def _folds(y: Array, most: int, seed: int) -> Iterator[tuple[Array, Array]]:
    """Positions to fit on and to predict, in folds that have each class in proportion."""
    if not is_class(y):
        cut = KFold(most, shuffle=True, random_state=seed)
    else:
        common = int(np.unique(y, return_counts=True)[1].max())
        cut = StratifiedKFold(min(most, common), shuffle=True, random_state=seed)
    found: Iterator[tuple[Array, Array]] = cut.split(y, y)
    return found


def _score(y: Array, told: Array) -> float:
    return float((accuracy_score if is_class(y) else r2_score)(y, told))
