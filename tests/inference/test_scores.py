from __future__ import annotations

import math

import pytest
import torch

from pyro_lebm.inference.scores import (
    bootstrap_interval,
    classifier_auc,
    coverage,
    crps,
    interval,
    median_bandwidth,
    mmd,
    mse,
    paired_interval,
)


def test_mse_counts_the_mask_alone() -> None:
    truth = torch.tensor([1.0, 2.0, torch.nan])
    mask = torch.tensor([True, True, False])
    assert mse(torch.tensor([2.0, 4.0, 9.0]), truth, mask) == pytest.approx(2.5)


@pytest.mark.parametrize(("loc", "scale", "y"), [(0.0, 1.0, 0.0), (1.0, 2.0, -1.5)])
def test_crps_of_gaussian_draws_is_the_closed_form(loc: float, scale: float, y: float) -> None:
    torch.manual_seed(0)
    u = torch.tensor((y - loc) / scale)
    unit = torch.distributions.Normal(0.0, 1.0)
    exact = scale * (
        u * (2 * unit.cdf(u) - 1) + 2 * unit.log_prob(u).exp() - 1 / math.sqrt(math.pi)
    )
    draws = loc + scale * torch.randn(4, 5000, 1)
    assert crps(draws, torch.tensor([y])) == pytest.approx(float(exact), abs=0.02 * scale)


def test_crps_of_few_draws_is_unbiased() -> None:
    torch.manual_seed(0)
    exact = (math.sqrt(2) - 1) / math.sqrt(math.pi)  # of N(0, 1) at 0
    assert crps(torch.randn(3, 200_000), torch.zeros(200_000)) == pytest.approx(exact, abs=0.005)


def test_crps_of_one_draw_is_the_absolute_error() -> None:
    assert crps(torch.tensor([[3.0, 0.0]]), torch.tensor([1.0, 1.0])) == pytest.approx(1.5)


def test_crps_and_coverage_count_the_mask_alone() -> None:
    torch.manual_seed(0)
    draws, truth = torch.randn(2, 30, 4, 5, 2), torch.randn(4, 5, 2)
    mask = torch.rand(4, 5, 2) < 0.5
    hidden = truth.where(mask, torch.nan)
    assert crps(draws, hidden, mask) == pytest.approx(
        crps(draws.flatten(0, 1)[:, mask], truth[mask])
    )
    assert coverage(draws, hidden, 0.5, mask) == pytest.approx(
        coverage(draws.flatten(0, 1)[:, mask], truth[mask], 0.5)
    )


@pytest.mark.parametrize("level", [0.5, 0.9])
@pytest.mark.parametrize("count", [19, 200])
def test_coverage_of_calibrated_draws_is_the_level(level: float, count: int) -> None:
    torch.manual_seed(0)
    found = coverage(torch.randn(count, 40_000), torch.randn(40_000), level)
    assert found == pytest.approx(level, abs=0.008)


def test_coverage_tells_narrow_from_wide_draws() -> None:
    torch.manual_seed(0)
    draws, truth = torch.randn(100, 2000), torch.randn(2000)
    assert coverage(draws / 3, truth, 0.9) < 0.5
    assert coverage(draws * 3, truth, 0.5) > 0.9


def test_interval_keeps_shape_and_order() -> None:
    torch.manual_seed(0)
    draws = torch.randn(99, 3, 2)
    low, high = interval(draws, 0.9)
    assert low.shape == high.shape == (3, 2)
    assert torch.equal(low, draws.sort(0).values[4])  # rank 5 of 99
    assert torch.equal(high, draws.sort(0).values[94])


def test_mmd_of_two_points_is_the_closed_form() -> None:
    x, y = torch.tensor([[0.0]]), torch.tensor([[2.0]])
    assert mmd(x, y, bandwidth=1.0) == pytest.approx(2 - 2 * math.exp(-2))
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0]])
    # (1 + e)/2 + 1 - (1 + e) with e = k(0, 1)
    assert mmd(x, y, bandwidth=2.0) == pytest.approx((1 - math.exp(-1 / 8)) / 2)


def test_mmd_grows_with_a_shift_from_its_floor() -> None:
    torch.manual_seed(0)
    real, fresh = torch.randn(300, 5, 2), torch.randn(300, 5, 2)
    width = median_bandwidth(real)
    found = [mmd(real, fresh + shift, width) for shift in (0.0, 0.2, 0.5, 1.0)]
    assert found == sorted(found)
    assert 0 <= found[0] < 2 / 300
    assert found[3] > 20 * found[0]
    assert mmd(real, real, width) == pytest.approx(0.0, abs=1e-12)
    assert mmd(real, fresh, width) == pytest.approx(mmd(fresh, real, width))


def test_mmd_sees_the_spread_not_only_the_mean() -> None:
    torch.manual_seed(0)
    real, fresh = torch.randn(500, 3), torch.randn(500, 3)
    width = median_bandwidth(real)
    assert mmd(real, fresh * 0.5, width) > 5 * mmd(real, fresh, width)


def test_bandwidth_is_the_median_distance_of_different_sequences() -> None:
    assert median_bandwidth(torch.tensor([[0.0, 0.0], [3.0, 4.0]])) == pytest.approx(5.0)
    assert median_bandwidth(torch.tensor([[0.0], [1.0], [3.0], [7.0]])) == pytest.approx(3.5)


def test_a_classifier_tells_what_is_apart() -> None:
    torch.manual_seed(0)
    n = 300
    real, fresh, shifted = torch.randn(n, 4, 1), torch.randn(n, 4, 1), torch.randn(n, 4, 1) + 0.7
    # five standard errors of the area where the two are alike
    assert abs(classifier_auc(fresh, real) - 0.5) < 5 * math.sqrt(2 * n / (12 * n * n))
    # the best classifier of two normals at distance 1.4 has area Phi(1.4 / sqrt 2) = .839
    assert 0.75 < classifier_auc(shifted, real) < 0.839 + 5 * 0.5 / math.sqrt(n)
    # no more than a bend of the same marginals
    bent = fresh.clone()
    bent[:, 1] = fresh[:, 0].abs() * fresh[:, 1].sign()
    assert classifier_auc(bent, real) > 0.6
    with pytest.raises(ValueError, match=r"y: expected sequences of shape \(4, 1\) as x"):
        classifier_auc(real, fresh[:, :2])
    with pytest.raises(ValueError, match="expected at least 5 sequences each"):
        classifier_auc(real[:4], fresh)
    with pytest.raises(ValueError, match="components: expected at least 1"):
        classifier_auc(real, fresh, components=0)
    for folds in (1, 0):
        with pytest.raises(ValueError, match=f"folds: expected at least 2, got {folds}"):
            classifier_auc(real, fresh, folds=folds)


def test_the_classifier_sees_no_more_than_the_components_it_is_shown() -> None:
    n = 200
    generator = torch.Generator().manual_seed(0)
    real, other = (torch.randn(n, 3, generator=generator) * torch.tensor([9.0, 3, 1]) for _ in "ab")
    other[:, 1] += 6  # of the second component
    floor = 5 * math.sqrt(2 * n / (12 * n * n))  # five standard errors: false once in 10^6
    assert abs(classifier_auc(real, other, components=1) - 0.5) < floor
    # normal distributions two standard deviations apart: Phi(sqrt 2) = .92 at best
    assert classifier_auc(real, other, components=2) > 0.8


def test_bootstrap_is_near_student_t_where_pairs_are_many() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 400).double()
    t, found = paired_interval(a, b), bootstrap_interval(a, b)
    assert found.mean == pytest.approx(t.mean)
    assert found.low == pytest.approx(t.low, abs=0.1 * (t.high - t.low))
    assert found.high == pytest.approx(t.high, abs=0.1 * (t.high - t.low))
    assert bootstrap_interval(a, b) == found
    narrow = bootstrap_interval(a, b, level=0.5)
    assert found.low < narrow.low < narrow.high < found.high
    with pytest.raises(ValueError, match="level: expected a number in"):
        bootstrap_interval(a, b, level=1.0)


def test_paired_interval_is_student_t() -> None:
    a, b = torch.tensor([1.0, 2.0, 6.0]), torch.zeros(3)
    found = paired_interval(a, b)
    half = 4.302653 * math.sqrt(7.0) / math.sqrt(3)  # t quantile of 2 degrees; variance 7
    assert found.mean == pytest.approx(3.0)
    assert found.low == pytest.approx(3 - half, rel=1e-5)
    assert found.high == pytest.approx(3 + half, rel=1e-5)


def test_paired_interval_holds_the_truth_as_often_as_it_says() -> None:
    torch.manual_seed(0)
    pairs = torch.randn(2, 500, 4) + torch.randn(500, 4)
    found = [paired_interval(pairs[0, i], pairs[1, i], level=0.8) for i in range(500)]
    assert sum(d.low < 0 < d.high for d in found) / 500 == pytest.approx(0.8, abs=0.05)


def test_bad_input_is_refused() -> None:
    x, draws = torch.zeros(3), torch.zeros(30, 3)
    with pytest.raises(ValueError, match=r"prediction: expected shape \(3,\) as truth, got \(2,\)"):
        mse(torch.zeros(2), x)
    with pytest.raises(ValueError, match=r"draws: expected dimensions of draws before \(3,\)"):
        crps(x, x)
    with pytest.raises(ValueError, match=r"draws: expected dimensions .* got \(30, 2\)"):
        coverage(draws[:, :2], x, 0.9)
    with pytest.raises(ValueError, match=r"mask: expected bool of shape \(3,\)"):
        mse(x, x, torch.ones(3))
    with pytest.raises(ValueError, match="mask: expected at least one entry that counts"):
        mse(x, x, torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="truth: expected finite numbers where they count"):
        crps(draws, x / 0)
    with pytest.raises(ValueError, match="draws: expected finite numbers where they count"):
        crps(draws / 0, x)
    with pytest.raises(ValueError, match=r"level: expected a number in \(0, 1\), got 90"):
        coverage(draws, x, 90)
    with pytest.raises(ValueError, match=r"expected at least 19 for an interval of level 0.9"):
        coverage(draws[:18], x, 0.9)
    with pytest.raises(ValueError, match="bandwidth: expected a positive number, got 0"):
        mmd(draws, draws, 0)
    with pytest.raises(ValueError, match=r"y: expected sequences of shape \(3,\) as x, got \(2,\)"):
        mmd(draws, draws[:, :2], 1.0)
    with pytest.raises(ValueError, match="x: expected finite numbers, got NaN or inf"):
        mmd(draws / 0, draws, 1.0)
    with pytest.raises(ValueError, match="real: expected at least two sequences, got 1"):
        median_bandwidth(draws[:1])
    with pytest.raises(ValueError, match="real: expected sequences that differ"):
        median_bandwidth(draws)
    with pytest.raises(ValueError, match=r"a, b: expected the same shape \(n,\)"):
        paired_interval(x, x[:2])
    with pytest.raises(ValueError, match=r"level: expected a number in \(0, 1\), got 95"):
        paired_interval(x, x, level=95)
    for interval_of in (paired_interval, bootstrap_interval):
        with pytest.raises(ValueError, match="a: expected finite numbers, got NaN or inf"):
            interval_of(x / 0, x)
        with pytest.raises(ValueError, match="b: expected finite numbers, got NaN or inf"):
            interval_of(x, x + math.inf)
