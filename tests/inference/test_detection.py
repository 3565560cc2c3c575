"""Scores of detection against their definitions, and what they are fed with."""

from __future__ import annotations

import math
import re

import pytest
import torch

from pyro_lebm import Series
from pyro_lebm.inference.scores import detection, input_complexity


def test_two_normals_have_the_area_that_is_known() -> None:
    n, gap = 20_000, 1.2
    familiar, strange = torch.randn(n), gap + torch.randn(n)
    normal = torch.distributions.Normal(0.0, 1.0)
    area = float(normal.cdf(torch.tensor(gap / math.sqrt(2))))
    passing = float(normal.cdf(normal.icdf(torch.tensor(0.95)) - gap))
    found = detection(familiar, strange)
    # five standard errors: of the area (Hanley & McNeil 1982: below .5 / sqrt n), and of a share
    assert abs(found.auroc - area) < 5 * 0.5 / math.sqrt(n)
    assert abs(found.fpr95 - passing) < 5 * math.sqrt(2 * 0.25 / n)
    assert detection(strange, familiar).auroc == pytest.approx(1 - found.auroc)


def test_few_scores_by_hand() -> None:
    found = detection(torch.tensor([0.0, 1.0, 4.0]), torch.tensor([2.0, 3.0]))
    assert found.auroc == pytest.approx(4 / 6)
    # in descending order: f s s f f, so that precision is 1/2 and 2/3 at the strange ones
    assert found.auprc == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found.fpr95 == 1.0  # both are below 4
    assert detection(torch.tensor([1.0, math.inf]), torch.tensor([math.inf, -math.inf])) == (
        detection(torch.tensor([1.0, 9.0]), torch.tensor([9.0, -9.0]))
    )


@pytest.mark.parametrize(
    "score", [torch.zeros(0), torch.zeros(2, 2), torch.tensor([1.0, math.nan])], ids=str
)
def test_scores_that_are_none(score: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="strange: expected scores"):
        detection(torch.zeros(3), score)
    with pytest.raises(ValueError, match="familiar: expected scores"):
        detection(score, torch.zeros(3))


def test_intricate_sequences_cost_more() -> None:
    t = torch.arange(400.0)
    line, wave, noise = t / 400, (t / 9).sin() / 2 + 0.5, torch.rand(400)
    sizes = input_complexity(Series(t, torch.stack([line, wave, noise]).unsqueeze(-1)))
    assert sizes[0] < sizes[1] < sizes[2]
    # noise of 256 levels cannot be had below a byte a number; zlib's own cost is some per cent
    assert 400 * math.log(256) * 0.97 < sizes[2] < 400 * math.log(256) * 1.1
    few = Series(t, torch.stack([noise, noise]).unsqueeze(-1)).hide(100)
    assert bool((input_complexity(few) < sizes[2] / 3).all())
    with pytest.raises(ValueError, match=re.escape("levels: expected 2 to 256, got 1")):
        input_complexity(few, levels=1)


def test_complexities_of_separate_calls_are_on_one_scale_by_limits() -> None:
    t, x = torch.arange(400.0), torch.randn(40, 400, 1)
    x[30, 7] = 20.0
    here, there, both = Series(t, x[:20]), Series(t, x[20:]), input_complexity(Series(t, x))
    # the outlier alone leaves its companions fewer levels than their like in the other call
    assert detection(input_complexity(there), input_complexity(here)).auroc == 1.0
    limits = (float(x.min()), float(x.max()))
    apart = [input_complexity(part, limits=limits) for part in (here, there)]
    assert torch.equal(torch.cat(apart), both)
    # what lies beyond the limits counts as if it lay there
    assert torch.equal(
        input_complexity(there, limits=(-3.0, 3.0)),
        input_complexity(Series(t, x[20:].clamp(-3.0, 3.0)), limits=(-3.0, 3.0)),
    )


@pytest.mark.parametrize("limits", [(1.0, 1.0), (0.0, math.nan), (-math.inf, 0.0)])
def test_limits_that_are_none(limits: tuple[float, float]) -> None:
    message = f"limits: expected finite numbers low < high, got {limits[0]} and {limits[1]}"
    with pytest.raises(ValueError, match=re.escape(message)):
        input_complexity(Series(torch.zeros(1), torch.zeros(2, 1, 1)), limits=limits)
