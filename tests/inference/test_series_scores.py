"""Correlation, binary scores, calibration of intervals and the time that generating takes."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_lebm.inference.scores import (
    binary_scores,
    correlation,
    coverage,
    interval_calibration,
    seconds_per_sequence,
)

NAN = float("nan")


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_correlation_is_pearsons_of_each_feature() -> None:
    truth = noise(20, 30, 3) * torch.tensor([1.0, 10.0, 0.1]) + torch.tensor([0.0, 5.0, -3.0])
    weights = torch.tensor([0.1, 1.0, 5.0])
    guess = weights * truth + noise(20, 30, 3, seed=1)
    mask = noise(20, 30, 3, seed=2) < 0.3
    each = [
        np.corrcoef(guess[..., d][mask[..., d]], truth[..., d][mask[..., d]])[0, 1]
        for d in range(3)
    ]
    found = correlation(guess.where(mask, NAN), truth.where(mask, NAN), mask)
    assert found == pytest.approx(float(np.mean(each)), rel=1e-9)
    assert max(each) - min(each) > 0.3
    assert correlation(3 * truth - 1, truth) == pytest.approx(1)
    assert correlation(-truth, truth) == pytest.approx(-1)


def test_correlation_of_what_is_constant() -> None:
    truth, guess = noise(40, 2), noise(40, 2, seed=1)
    flat = guess.clone()
    flat[:, 1] = 3.0
    # a feature that is told to be constant counts as 0, one that is so does not count
    alone = correlation(guess[:, :1], truth[:, :1])
    assert correlation(flat, truth) == pytest.approx(alone / 2)
    assert correlation(guess, torch.cat([truth[:, :1], flat[:, 1:]], -1)) == pytest.approx(alone)
    with pytest.raises(ValueError, match="truth: expected a feature that varies"):
        correlation(guess[:, 1:], flat[:, 1:])


def test_binary_scores_by_hand() -> None:
    chance = torch.tensor([[0.9, 0.5], [0.4, 0.7], [0.1, 0.2]])
    truth = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    # said: .9, .5 and .7, of which two are right, of three: precision and recall 2/3
    f1, auroc = binary_scores(chance, truth)
    assert f1 == pytest.approx(2 / 3)
    # of nine pairs, .5 and .4 lie below .7
    assert auroc == pytest.approx(7 / 9)
    mask = torch.tensor([[True, False], [True, True], [False, True]])
    hidden = binary_scores(chance.where(mask, NAN), truth.where(mask, NAN), mask)
    assert hidden.f1 == pytest.approx(0.5) and hidden.auroc == pytest.approx(3 / 4)
    assert binary_scores(chance, truth.bool()) == (f1, auroc)
    assert binary_scores(chance / 10, truth).f1 == 0.0


def test_calibration_gathers_coverage_by_level() -> None:
    truth = noise(40, 100, 2)
    draws = noise(99, 40, 100, 2, seed=1)
    mask = noise(40, 100, 2, seed=2) < 1
    found = interval_calibration(draws, truth.where(mask, NAN), (0.5, 0.8, 0.95), mask)
    assert list(found.coverage) == [0.5, 0.8, 0.95]
    for level, share in found.coverage.items():
        assert share == coverage(draws, truth, level, mask)
        # 6,700 entries: 5 standard errors, false once in 2e6
        assert share == pytest.approx(level, abs=5 * 0.5 / 6700**0.5)
    misses = [abs(share - level) for level, share in found.coverage.items()]
    assert found.miss == pytest.approx(sum(misses) / 3)
    assert interval_calibration(draws / 3, truth).miss > 0.2
    assert list(interval_calibration(draws, truth).coverage) == [0.5, 0.8, 0.9]


def test_seconds_are_the_median_for_one_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    # beginnings and ends of three runs, the first of which compiles
    clock = iter([0.0, 50.0, 60.0, 62.0, 70.0, 73.0])
    module = sys.modules[seconds_per_sequence.__module__]
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    asked: list[int] = []
    assert seconds_per_sequence(asked.append, 10) == pytest.approx(0.3)
    assert asked == [10, 10, 10]


SOME = torch.tensor([[0.2], [0.7]])


@pytest.mark.parametrize(
    ("probability", "truth", "message"),
    [
        (SOME, torch.zeros(3, 1), "probability: expected the shape (..., D) of truth, (3, 1), got"),
        (SOME * 2, SOME.round(), "probability: expected numbers in [0, 1], got 0.4"),
        (SOME, SOME, "truth: expected both 0 and 1, and nothing else, where they count, got 0.2"),
        (SOME, torch.zeros(2, 1), "truth: expected both 0 and 1, and nothing else, where they co"),
        (SOME * NAN, SOME.round(), "probability: expected finite numbers where they count"),
    ],
)
def test_binary_scores_refuse(probability: Tensor, truth: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        binary_scores(probability, truth)


def test_the_others_refuse() -> None:
    with pytest.raises(ValueError, match="levels: expected different ones, at least one, got "):
        interval_calibration(noise(40, 3), noise(3), ())
    with pytest.raises(ValueError, match=re.escape("got (0.5, 0.5)")):
        interval_calibration(noise(40, 3), noise(3), (0.5, 0.5))
    with pytest.raises(ValueError, match="draws: expected at least 19 for an interval of level"):
        interval_calibration(noise(18, 3), noise(3))
    with pytest.raises(ValueError, match="n: expected at least 1, got 0"):
        seconds_per_sequence(print, 0)
    with pytest.raises(ValueError, match="repeats: expected at least 1, got 0"):
        seconds_per_sequence(print, 1, 0)
    with pytest.raises(ValueError, match=re.escape("prediction: expected the shape (..., D) of")):
        correlation(noise(3, 1), noise(3, 2))
    with pytest.raises(ValueError, match="mask: expected at least one entry that counts, got none"):
        correlation(noise(3, 2), noise(3, 2), torch.zeros(3, 2, dtype=torch.bool))
