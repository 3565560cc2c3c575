"""Bounds from weights that are given, against t intervals computed here."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import Tensor

from pyro_lebm.annealing.ratio import LogRatio


def interval(log_mean: Tensor, level: float) -> tuple[float, float]:
    """Of the mean of one number a repeat."""
    error = float(log_mean.std()) / math.sqrt(len(log_mean))
    low, high = stats.t.interval(level, len(log_mean) - 1, float(log_mean.mean()), error)
    return float(low), float(high)


def log_means(log_weight: Tensor) -> Tensor:
    return log_weight.double().exp().mean(1).log()


def near(log_z: float, *, exact: bool = True, repeats: int = 6) -> LogRatio:
    forward, backward = (torch.randn(repeats, 5).double() / 4 for _ in range(2))
    return LogRatio(log_z + forward, backward - log_z, exact)


@pytest.mark.parametrize("level", [0.5, 0.95])
@pytest.mark.parametrize("repeats", [2, 7])
def test_bounds_are_ends_of_t_intervals_over_repeats(repeats: int, level: float) -> None:
    found = replace(near(0.7, repeats=repeats), level=level)
    assert float(found.lower) == pytest.approx(interval(log_means(found.forward), level)[0])
    assert float(found.upper) == pytest.approx(-interval(log_means(found.backward), level)[0])


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_either_bound_misses_as_often_as_it_says_and_no_less_often(level: float) -> None:
    # weights so even that Jensen's bias is 1 % of an interval's standard error
    problems, spread = 20_000, 0.02
    one, other = (spread * torch.randn(8, 4, problems) - spread**2 / 2 for _ in range(2))
    found, says = LogRatio(one, other, exact=True, level=level), (1 - level) / 2
    error = math.sqrt(says * (1 - says) / problems)
    for missed in (found.lower > 0, found.upper < 0):
        # five standard errors, and the bias: a false alarm about once in a million
        assert abs(float(missed.double().mean()) - says) < 5 * error + 0.03 * says


def test_constants_taken_off_widen_the_bounds_at_a_joint_level() -> None:
    one, two = near(1.0), near(-2.0)
    own = near(0.3)
    found = LogRatio(own.forward, own.backward, True, 0.9, ((1, one), (3, two)))
    each = 1 - 0.1 / 3  # of three intervals
    low, _ = interval(log_means(own.forward), each)
    high = -interval(log_means(own.backward), each)[0]
    for n, constant in ((1, one), (3, two)):
        at_most = -interval(log_means(constant.backward), each)[0]
        at_least, _ = interval(log_means(constant.forward), each)
        low -= n * (at_most - float(constant.estimate))
        high += n * (float(constant.estimate) - at_least)
    assert float(found.lower) == pytest.approx(low)
    assert float(found.upper) == pytest.approx(high)
    assert float(found.gap) == pytest.approx(float(own.gap + one.gap + 3 * two.gap))
    assert float(found.estimate) == pytest.approx(float(own.estimate))
    assert found.effective == min(x.effective for x in (own, one, two))


def test_a_constant_that_is_only_estimated_leaves_no_bound_below() -> None:
    own, loose = near(0.3), near(1.0, exact=False)
    found = LogRatio(own.forward, own.backward, True, constants=((1, loose),))
    with pytest.raises(ValueError, match=re.escape("lower: expected a log Z of the prior that is")):
        _ = found.lower
    assert found.upper > own.upper
    assert "(log Z of the prior from draws of a chain: no bound below)" in str(found)
    neither = LogRatio(own.forward, own.backward, False, constants=((1, loose),))
    assert "no bound above" in str(neither) and "no bound below" in str(neither)


def test_a_repeat_of_no_weight_leaves_no_bound_but_no_nan_either() -> None:
    none = torch.zeros(4, 3, 2)
    none[1, :, 1] = -torch.inf  # of the second problem
    fine = torch.zeros(4, 3, 2)
    below, above = LogRatio(none, fine, exact=True), LogRatio(fine, none, exact=True)
    assert below.lower.tolist() == [0.0, -math.inf] and below.upper.tolist() == [0.0, 0.0]
    assert above.upper.tolist() == [0.0, math.inf] and above.lower.tolist() == [0.0, 0.0]
    none[..., 1] = -torch.inf
    nothing = LogRatio(none, none, exact=True)
    assert nothing.gap.tolist() == [0.0, math.inf] and bool(nothing.poor[1])


@pytest.mark.parametrize(
    ("given", "effective", "poor"),
    [
        ((2, 8), 1, True),  # a single one is 6 % of 16
        ((2, 8), 6, False),
        ((2, 20), 4, True),  # 10 %
        ((4, 50), 6, True),  # 3 %
        ((4, 50), 11, False),
        ((2, 1), 1, True),
        ((2, 1), 2, False),
        ((2, 3), 4, False),
        ((2, 3), 3, True),
    ],
)
def test_too_few_effective_particles_are_told_by_share_and_by_number(
    given: tuple[int, int], effective: int, poor: bool
) -> None:
    weight = torch.full((math.prod(given),), -torch.inf)
    weight[:effective] = 0.3
    few, all_ = weight.reshape(given), torch.zeros(given)
    for found in (LogRatio(few, all_, exact=True), LogRatio(all_, few, exact=True)):
        assert float(found.effective_number) == pytest.approx(effective, rel=1e-4)
        assert bool(found.poor) is poor
    fine = torch.stack([torch.zeros(given), few], -1)
    assert LogRatio(fine, fine, exact=True).poor.tolist() == [False, poor]
