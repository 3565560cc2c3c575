"""Spirals, spikes, reaches and carbon dioxide: what they are described as."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_lebm.inference.scores import bits_per_spike
from pyro_lebm.models.datasets import (
    co2,
    lorenz_spikes,
    lorenz_system,
    reaching,
    spirals,
)

SIMULATED: list[tuple[Callable[..., Any], dict[str, int]]] = [
    (spirals, {"points": 12}),
    (lorenz_spikes, {"points": 12, "neurons": 4}),
    (reaching, {"points": 12, "neurons": 4}),
]


@pytest.mark.parametrize(("make", "sizes"), SIMULATED)
def test_seed_and_precision_of_simulated_data(
    make: Callable[..., Any], sizes: dict[str, int]
) -> None:
    before = torch.get_rng_state()
    series, truth = make(5, seed=3, truth=True, **sizes)
    again, other = make(5, seed=3, **sizes), make(5, seed=4, **sizes)
    double, in_double = make(5, seed=3, truth=True, dtype=torch.float64, **sizes)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(series.values, again.values) and torch.equal(series.times, again.times)
    assert not torch.equal(series.values, other.values)
    assert series.values.dtype == torch.float32 and series.mask.all()
    assert double.values.dtype == double.times.dtype == torch.float64
    assert torch.allclose(series.values.double(), double.values, atol=1e-5)
    for name, value in truth.items():
        assert len(value) == 5 and value.dtype == (
            torch.bool if name == "clockwise" else torch.float32
        )
        assert torch.allclose(value.double(), in_double[name].double(), rtol=1e-5, atol=1e-5)


def test_spirals_turn_as_they_say() -> None:
    series, truth = spirals(2001, points=30, noise=0.2, seed=2, dtype=torch.float64, truth=True)
    t, path = series.times, truth["path"]
    assert t.shape == (2001, 30) and (t[:, 0] == 0).all() and (t.diff() > 0).all()
    # sorted draws of U[0, 5]: 58,029 of them, within 5 standard errors (once in 2e6)
    assert t[:, 1:].mean().item() == pytest.approx(2.5, abs=5 * 5 / math.sqrt(12 * 58_029))
    assert t.max() <= 5 and len(t[:, 1].unique()) == 2001
    assert truth["clockwise"].sum() == 1001 and not truth["clockwise"][:30].all()
    # the area swept tells the direction: r^2 times the angle's rate, 4 pi / 5
    x, y = path.unbind(-1)
    radius = truth["radius"][:, None] + truth["growth"][:, None] * t
    assert torch.allclose(path.norm(dim=-1), radius)
    turned = torch.atan2(y, x) - truth["phase"][:, None]
    expected = torch.where(truth["clockwise"], -1.0, 1.0)[:, None] * 0.8 * math.pi * t
    assert (turned - expected).cos().min() > 1 - 1e-9
    for name, low, high in (
        ("radius", 0.2, 0.5),
        ("growth", 0.1, 0.2),
        ("phase", 0.0, 2 * math.pi),
    ):
        # of 2001 draws the last hundredth of a span gets one, but for once in 10^8
        near = (high - low) / 100
        drawn = truth[name]
        assert low <= drawn.min() < low + near and high - near < drawn.max() <= high
    noise = series.values - path
    assert noise.std().item() == pytest.approx(0.2, rel=5 / math.sqrt(2 * noise.numel()))
    still, same = spirals(3, noise=0.0, truth=True)
    assert torch.equal(still.values, same["path"])


def test_spirals_in_single_precision_have_no_time_twice() -> None:
    # of 400 x 1000 gaps about 1 in 17,000 is below what single precision tells apart at 5
    assert (spirals(400, points=1001).times.diff() > 0).all()


def lorenz_field(state: Tensor) -> Tensor:
    x, y, z = state.unbind(-1)
    return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], -1)


def raw(path: Tensor) -> Tensor:
    return path * torch.tensor([7.92, 9.01, 8.63]) + torch.tensor([0.0, 0.0, 23.55])


def test_the_path_obeys_lorenz_equations() -> None:
    system = lorenz_system(points=41, bin_width=0.001)
    start = system.sample_initial(20, torch.Generator().manual_seed(0))
    path = system.path(start)
    assert torch.equal(path[:, 0], start) and path.dtype == torch.float64
    state = raw(path)
    # central differences over 2 x .002 of Lorenz's time err by h^2/6 of the third derivative
    slope = (state[:, 2:] - state[:, :-2]) / 0.004
    exact = lorenz_field(state)[:, 1:-1]
    assert (slope - exact).abs().max() < 1e-3 * exact.abs().max()
    # bins of any width read the same path, but for its solver's steps of .01 or .002
    coarse = lorenz_system(points=2, bin_width=0.04).path(start)
    assert torch.allclose(coarse[:, 1], path[:, -1], atol=1e-3)
    assert system.path(start.float()).dtype == torch.float32
    assert system.path(start[0]).shape == (41, 3)


def test_the_path_can_be_differentiated() -> None:
    system = lorenz_system(neurons=2, points=5)
    start = system.sample_initial(2, torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: system.rates(system.path(z)), start)


def test_starts_lie_on_the_attractor_at_unit_scale() -> None:
    system = lorenz_system(points=100, bin_width=0.1)
    generator = torch.Generator().manual_seed(0)
    z0 = system.sample_initial(400, generator)
    path = system.path(z0)[:, 50:]
    # The attractor mixes in a few turns: 400 paths of 10 units are some 1,000 independent draws at
    # least. Five standard errors are .16 of a mean and .11 of a standard deviation.
    for states in (z0, path.flatten(0, 1)):
        assert states.mean(0).abs().max() < 0.25
        assert (states.std(0) - 1).abs().max() < 0.18
    assert path.flatten(0, 1).mean(0).abs().max() < 0.16
    # it is thin and hollow: fresh starts are as close to where others have been as the ends of
    # fresh paths are, up to a factor of 2 (after .1 to .2 units of burn-in it is 3)
    been = path[:, ::5].flatten(0, 1)
    starts = system.sample_initial(400, generator)
    ends = system.path(starts)[:, -1]
    near = [torch.cdist(fresh, been).amin(1).quantile(0.9) for fresh in (starts, ends)]
    assert near[0] < 2 * near[1]


def test_spikes_are_poisson_with_the_rates_given() -> None:
    series, truth = lorenz_spikes(400, seed=1, truth=True, dtype=torch.float64)
    rates, counts = truth["rates"], series.values
    assert series.values.shape == (400, 100, 30)
    assert torch.allclose(series.times, 0.02 * torch.arange(100).double())
    system = lorenz_system()
    assert torch.allclose(system.path(truth["path"][:, 0]), truth["path"])
    assert torch.allclose(system.rates(truth["path"]), rates)
    log_hertz = truth["path"] @ system.loading.mT + system.offset
    assert torch.allclose(rates, 0.02 * log_hertz.exp())
    assert torch.equal(counts, counts.round()) and counts.min() == 0
    # (x - rate) / sqrt(rate) has variance 1 and, with a fourth moment of 3 + 1/rate, an error of
    # its mean square below 5 sqrt(mean(2 + 1/rate) / n) but for once in 2e6
    excess = (counts - rates) / rates.sqrt()
    n = counts.numel()
    assert abs(excess.mean()) < 5 / n**0.5
    assert abs(excess.square().mean() - 1) < 5 * ((2 + 1 / rates).mean() / n).sqrt()
    hertz = rates.mean((0, 1)) / 0.02
    # means on the attractor are U(5, 20) Hz; of 1000 and of 400 dependent paths to about 5 %
    assert 4 < hertz.min() < 10 and 15 < hertz.max() < 25
    assert 0.8 < bits_per_spike(rates, counts) < 1.6


def test_a_system_seed_is_the_neurons() -> None:
    train, test = lorenz_system(), lorenz_system()
    other = lorenz_system(system_seed=1)
    assert torch.equal(train.loading, test.loading) and torch.equal(train.offset, test.offset)
    assert not torch.equal(train.loading, other.loading)
    # as many as are asked for, and spikes take them from the same seed
    first, truth = lorenz_spikes(3, points=4, system_seed=1, truth=True, dtype=torch.float64)
    assert torch.allclose(truth["rates"], other.rates(truth["path"])) and first.observed == 30
    a, b = (reaching(2, seed=9, system_seed=k, truth=True)[1] for k in (0, 1))
    assert torch.equal(a["position"], b["position"]) and not torch.equal(a["rates"], b["rates"])


def test_reaches_are_smooth_and_go_from_target_to_target() -> None:
    series, truth = reaching(
        300, points=2001, bin_width=0.002, neurons=1, truth=True, dtype=torch.float64
    )
    position, velocity = truth["position"], truth["velocity"]
    assert position.abs().max() <= 1
    slope = (position[:, 2:] - position[:, :-2]) / 0.004
    # h^2/6 of the third derivative, at most 60 x 2 / .6^3 at either end of a reach
    assert (slope - velocity[:, 1:-1]).abs().max() < 0.002**2 / 6 * 60 * 2 / 0.6**3 * 1.01
    speed = velocity.norm(dim=-1)
    assert speed.max() < 1.875 * 8**0.5 / 0.6
    # it halts at targets alone: the rests are .6 to 1.2 s apart, 3.3 to 6.7 of them in 4 s
    rest = (speed[:, 1:-1] < speed[:, :-2]) & (speed[:, 1:-1] < speed[:, 2:])
    rest &= speed[:, 1:-1] < 0.01
    rests = rest.sum(1).double()
    assert rests.min() >= 3 and rests.max() <= 7
    gaps = torch.cat([row.nonzero().flatten().diff() for row in rest]) * 0.002
    assert 0.59 < gaps.min() < 0.65 and 1.1 < gaps.max() < 1.21
    assert (speed[:, 0] > 0.05).double().mean() > 0.8  # a trial begins amid a reach
    # targets fill the square: 300 starts' coordinates, and reaches across it
    assert position.amax((0, 1)).min() > 0.95 and position.amin((0, 1)).max() < -0.95
    noise = series.values[..., 1:] - position
    assert noise.std().item() == pytest.approx(0.01, rel=5 / math.sqrt(2 * noise.numel()))


def test_neurons_are_cosine_tuned_to_velocity_and_position() -> None:
    series, truth = reaching(500, neurons=20, truth=True, dtype=torch.float64, seed=1)
    rates, counts = truth["rates"], series.values[..., :-2]
    assert series.values.shape == (500, 60, 22)
    assert torch.allclose(series.times, 0.05 * torch.arange(60).double())
    ones = torch.ones(500, 60, 1, dtype=torch.float64)
    inputs = torch.cat([truth["velocity"] / 1.12, truth["position"] / 0.51, ones], -1).flatten(0, 1)
    fit = torch.linalg.lstsq(inputs, rates.flatten(0, 1).log())
    weights = fit.solution
    assert (inputs @ weights - rates.flatten(0, 1).log()).abs().max() < 1e-9
    for depth in (weights[:2].norm(dim=0), weights[2:4].norm(dim=0)):
        assert depth.min() >= 0.3 and depth.max() <= 0.6
    # the two preferred directions of a neuron have nothing to do with each other
    angles = torch.atan2(weights[1], weights[0]) - torch.atan2(weights[3], weights[2])
    assert angles.cos().std() > 0.2
    assert inputs[:, :4].std(0).sub(1).abs().max() < 0.05
    many = reaching(200, neurons=1000, points=30, truth=True)[1]["rates"].mean((0, 1)) / 0.05
    assert 4 < many.min() < 6 and 18 < many.max() < 24
    # 1000 draws of U(5, 20), within 5 standard errors (once in 2e6)
    assert many.mean().item() == pytest.approx(12.5, abs=5 * 15 / 12_000**0.5)
    excess = (counts - rates) / rates.sqrt()
    n = counts.numel()
    assert abs(excess.mean()) < 5 / n**0.5
    assert abs(excess.square().mean() - 1) < 5 * ((2 + 1 / rates).mean() / n).sqrt()


def test_position_can_be_read_from_spikes_but_not_trivially() -> None:
    series, truth = reaching(400, truth=True, dtype=torch.float64)
    counts, position = series.values[..., :-2], truth["position"]
    skill = []
    for reach in (0, 4):  # bins on either side that are seen
        seen = torch.cat([counts[:, 4 + k : 56 + k] for k in range(-reach, reach + 1)], -1)
        x, y = seen.flatten(0, 1), position[:, 4:56].flatten(0, 1)
        x = torch.cat([x, torch.ones(len(x), 1)], -1)
        cut = 300 * 52
        told = x[cut:] @ torch.linalg.lstsq(x[:cut], y[:cut]).solution
        skill.append(1 - (told - y[cut:]).square().sum() / y[cut:].square().sum())
    assert 0.3 < skill[0] < skill[1] - 0.1 and skill[1] < 0.98


def test_carbon_dioxide_has_its_dates_and_gaps() -> None:
    from statsmodels.datasets import co2 as source

    weeks = source.load_pandas().data["co2"]
    series, truth = co2(truth=True, dtype=torch.float64)
    assert series.values.shape == (42, 104, 1)
    days = (weeks.index[:104] - weeks.index[0]).days.to_numpy() / 365.25
    assert torch.allclose(series.times, torch.tensor(days))
    for row in (0, 1, 41):
        expected = torch.tensor(weeks.to_numpy()[52 * row : 52 * row + 104])
        assert torch.equal(series.values[row, series.mask[row]], expected[expected.isfinite()])
        assert torch.equal(series.mask[row, :, 0], expected.isfinite())
        date = weeks.index[52 * row]
        year = date.year + (date.month - 1) / 12 + (date.day - 1) / 365.25
        assert truth["start"][row].item() == pytest.approx(year, abs=0.01)
    assert co2().values.dtype == torch.float32
    # every week once
    whole, start = co2(window=2284, truth=True)
    assert whole.mask.sum() == 2284 - 59 and start["start"].item() == pytest.approx(
        1958.24, abs=0.01
    )


def test_windows_without_a_measurement_are_left_out() -> None:
    series, truth = co2(window=2, stride=2, truth=True)
    assert series.mask.sum() == 2284 - 59 and len(series) == len(truth["start"]) < 1142
    assert series.mask.flatten(1).any(1).all()
    # what is there keeps its date: carbon dioxide rises by more than a unit a year
    early, late = series.filled[:20].max(), series.filled[-20:].max()
    assert late - early > 40
    from statsmodels.datasets import co2 as source

    weeks = source.load_pandas().data["co2"]
    pairs = torch.tensor(weeks.to_numpy()).unfold(0, 2, 2).isfinite().any(1)
    years = torch.arange(len(pairs)) * 14 / 365.25 + 1958 + 87 / 365.25
    assert torch.allclose(truth["start"], years[pairs].float(), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (spirals, {"n": 0}, "n: expected at least 1 sequence, got 0"),
        (spirals, {"points": 1}, "points: expected at least 2, got 1"),
        (spirals, {"noise": -0.1}, "noise: expected at least 0, got -0.1"),
        (spirals, {"noise": math.nan}, "noise: expected at least 0, got nan"),
        (lorenz_spikes, {"n": 0}, "n: expected at least 1 trial, got 0"),
        (
            lorenz_spikes,
            {"neurons": 0},
            "neurons, points: expected at least 1 and 2, got 0 and 100",
        ),
        (lorenz_system, {"points": 1}, "neurons, points: expected at least 1 and 2, got 30 and 1"),
        (
            lorenz_system,
            {"bin_width": 0.0},
            "bin_width: expected a positive number of seconds, got 0.0",
        ),
        (reaching, {"n": 0}, "n: expected at least 1, got 0"),
        (reaching, {"neurons": 0}, "neurons: expected at least 1, got 0"),
        (reaching, {"points": 1}, "points: expected at least 2, got 1"),
        (reaching, {"bin_width": math.inf}, "bin_width: expected a positive number of seconds"),
        (co2, {"window": 1}, "window: expected 2 to 2284 weeks, got 1"),
        (co2, {"window": 2285}, "window: expected 2 to 2284 weeks, got 2285"),
        (co2, {"stride": 0}, "stride: expected at least 1 week, got 0"),
    ],
)
def test_refusals(make: Callable[..., Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make(**options)


def test_a_system_refuses() -> None:
    system = lorenz_system(points=2)
    with pytest.raises(ValueError, match=re.escape("z0: expected shape (..., 3), got (5, 2)")):
        system.path(torch.zeros(5, 2))
    with pytest.raises(ValueError, match=re.escape("n: expected at least 1 state, got 0")):
        system.sample_initial(0)


def test_without_statsmodels_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "statsmodels", None)
    monkeypatch.setitem(sys.modules, "statsmodels.datasets", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"co2: expected statsmodels, .*; pip install statsmodels"
    ):
        co2()
