"""The sinusoids are what the papers describe, and the same for the same seed."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_lebm.models.datasets import extrapolation, interpolation, irregular_sines


def test_sines_are_as_described() -> None:
    series, truth = irregular_sines(4000, seed=3, truth=True)
    f, b, t = truth["frequency"], truth["offset"], series.times
    assert series.values.shape == (4000, 100, 1) and series.mask.all()
    assert t[0] == 0 and t[-1] < 5 and (t.diff() > 0).all()
    assert 0.4 <= f.min() < 0.402 and 0.798 < f.max() <= 0.8
    assert f.mean().item() == pytest.approx(0.6, abs=0.01)
    assert b.mean().item() == pytest.approx(1.0, abs=0.01)
    assert b.std().item() == pytest.approx(0.1, rel=0.05)
    noise = series.values[..., 0] - (2 * math.pi * f[:, None] * t).sin() - b[:, None]
    assert noise[:, 0].abs().max() < 1e-6
    assert noise[:, 1:].min() > -1e-5 and noise[:, 1:].max() < 0.01 + 1e-5
    assert noise[:, 1:].mean().item() == pytest.approx(0.005, rel=0.01)


def test_seed_decides_and_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    a, b, c = irregular_sines(5), irregular_sines(5), irregular_sines(5, seed=1)
    assert torch.equal(a.values, b.values) and torch.equal(a.times, b.times)
    assert not torch.equal(a.values, c.values) and not torch.equal(a.times, c.times)
    assert torch.equal(before, torch.get_rng_state())


def test_precision_does_not_change_the_data() -> None:
    single, double = irregular_sines(5), irregular_sines(5, dtype=torch.float64)
    assert double.values.dtype == double.times.dtype == torch.float64
    assert torch.allclose(single.values.double(), double.values, atol=1e-5)


def test_fresh_sequences_on_the_same_grid() -> None:
    train = irregular_sines(5, points=30)
    test = irregular_sines(7, seed=1, times=train.times)
    assert torch.equal(test.times, train.times) and test.values.shape == (7, 30, 1)
    assert not torch.equal(test.values[:5], train.values)


def test_interpolation_hides_all_but_so_many() -> None:
    series = irregular_sines(6)
    given, target = interpolation(series, keep=50)
    assert given.mask.sum((1, 2)).tolist() == [50] * 6
    assert target is series
    assert torch.equal(given.mask, interpolation(series, keep=50)[0].mask)
    assert not torch.equal(given.mask, interpolation(series, keep=50, seed=1)[0].mask)


def test_extrapolation_gives_the_first_half() -> None:
    given, target = extrapolation(irregular_sines(6))
    assert given.mask[:, :50].all() and not given.mask[:, 50:].any()
    assert target.mask[:, 50:].all() and not target.mask[:, :50].any()


def test_bad_input_is_named() -> None:
    series = irregular_sines(2)
    with pytest.raises(ValueError, match="n: expected at least 1 sequence, got 0"):
        irregular_sines(0)
    with pytest.raises(ValueError, match="points: expected at least 2 time points, got 1"):
        irregular_sines(2, points=1)
    with pytest.raises(ValueError, match=r"times: expected a shared grid \(T,\), got shape"):
        irregular_sines(2, times=torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"given: expected a fraction .* got 1\.0 of times"):
        extrapolation(series, 1.0)


def test_other_frequencies_and_square_waves() -> None:
    fast, truth = irregular_sines(500, frequency=(1.0, 1.5), truth=True)
    assert truth["frequency"].min() >= 1.0 and truth["frequency"].max() <= 1.5
    wave = (2 * math.pi * truth["frequency"][:, None] * fast.times).sin()
    noise = fast.values[..., 0] - wave - truth["offset"][:, None]
    assert noise.min() > -1e-5 and noise.max() < 0.01 + 1e-5
    square, truth = irregular_sines(50, shape="square", truth=True)
    level = square.values[:, 1:, 0] - truth["offset"][:, None]
    assert ((level.abs() - 1).abs() < 0.02).all()
    assert torch.equal(truth["frequency"], irregular_sines(50, truth=True)[1]["frequency"])
    with pytest.raises(ValueError, match="frequency: expected"):
        irregular_sines(2, frequency=(0.5, 0.2))
    with pytest.raises(ValueError, match="shape: expected 'sine' or 'square', got 'saw'"):
        irregular_sines(2, shape="saw")
