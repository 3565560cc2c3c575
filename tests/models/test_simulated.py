"""Hunters and prey, the hopper, and the parts that data sets are cut into."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyro_lebm import Series
from pyro_lebm.models.datasets import Scaling, hopper, irregular_sines, lotka_volterra, split


def test_hunters_and_prey_follow_their_equation() -> None:
    series, truth = lotka_volterra(20, points=100, truth=True, seed=2)
    path, times = truth["path"].double(), series.times.double()
    assert times[1] == pytest.approx(0.1) and series.values.shape == (20, 100, 2)
    rates = lotka_volterra(500, points=2, truth=True)[1]
    spans = {"alpha": (1, 3.5), "beta": (0.5, 0.6), "gamma": (1, 3.5), "delta": (0.2, 0.3)}
    for name, (low, high) in spans.items():
        # of 500 draws the last tenth of a span gets one, but for once in 10^22
        near = (high - low) / 10
        assert low <= rates[name].min() < low + near and high - near < rates[name].max() <= high
    assert path[:, 0].min() >= 1 and path[:, 0].max() <= 5
    # a quantity that the equation conserves
    x, y = path.unbind(-1)
    rate = {name: value.double()[:, None] for name, value in truth.items() if name != "path"}
    kept = rate["delta"] * x - rate["gamma"] * x.log() + rate["beta"] * y - rate["alpha"] * y.log()
    assert (kept - kept[:, :1]).abs().max() < 1e-3
    noise = series.values - truth["path"]
    assert noise.std().item() == pytest.approx(0.3, rel=5 / (2 * 4000) ** 0.5)
    assert torch.equal(lotka_volterra(20, points=100, seed=2).values, series.values)
    still = lotka_volterra(2, noise=0.0, truth=True)
    assert torch.equal(still[0].values, still[1]["path"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n, points: expected at least 1 and 2, got 0 and 200"),
        ({"points": 1}, "got 500 and 1"),
        ({"gap": 0.0}, "gap, noise: expected more than 0 and at least 0, got 0.0 and 0.3"),
        ({"noise": -1.0}, "got 0.1 and -1.0"),
    ],
)
def test_hunters_refuse(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        lotka_volterra(**options)


def test_a_hopper_that_was_kept_is_read_again(tmp_path: Path) -> None:
    states = np.random.default_rng(0).normal(size=(3, 5, 14)).astype(np.float32)
    np.savez_compressed(tmp_path / "hopper-3x5-seed1.npz", states=states)
    series = hopper(3, points=5, seed=1, folder=tmp_path)
    assert torch.equal(series.values, torch.from_numpy(states))
    assert torch.allclose(series.times, torch.arange(5) / 200)


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_damaged_file_is_not_used(tmp_path: Path) -> None:
    pytest.importorskip("dm_control")
    expected = hopper(2, points=5, folder=tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for content in (whole[:-100], whole[:200] + bytes(8) + whole[208:], b"no archive"):
        path.write_bytes(content)
        with pytest.warns(UserWarning, match="simulating anew, as it cannot be read"):
            assert torch.equal(hopper(2, points=5, folder=tmp_path).values, expected.values)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_no_flipped_bit_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = np.random.default_rng(0).normal(size=(2, 5, 14)).astype(np.float32)
    module = sys.modules[hopper.__module__]
    monkeypatch.setattr(module, "_simulate", lambda *_: states)
    hopper(2, points=5, folder=tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    warned = 0
    for bit in range(0, 8 * len(whole), 13):
        path.write_bytes(flipped(whole, bit))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert np.array_equal(hopper(2, points=5, folder=tmp_path).values.numpy(), states)
        warned += len(caught)
        assert all("simulating anew, as it cannot be read" in str(w.message) for w in caught)
    assert warned > 0.4 * len(whole)  # of 8/13 flips a byte; a date may hold anything


def test_a_hopper_falls_as_bodies_do() -> None:
    pytest.importorskip("dm_control")
    series = hopper(20, points=50)
    position, velocity = series.values[..., :7], series.values[..., 7:]
    assert series.values.shape == (20, 50, 14)
    assert position[:, 0, :2].min() >= 0 and position[:, 0, :2].max() <= 0.5
    assert position[:, 0, 2:].abs().max() <= 2 and velocity[:, 0].abs().max() <= 5
    # semi-implicit steps: the change of a coordinate is its new velocity times the step
    step = position.diff(dim=1) / velocity[:, 1:]
    assert step.median().item() == pytest.approx(0.005, rel=0.01)
    assert torch.equal(hopper(20, points=50).values, series.values)


def test_without_the_simulator_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "dm_control", None)
    with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'pyro-lebm[mujoco]'")):
        hopper(1)
    with pytest.raises(ValueError, match="n, points: expected at least 1 and 2"):
        hopper(0)


def test_parts_are_disjoint_and_seeded() -> None:
    series = irregular_sines(50)
    parts = split(series, (0.5, 0.3, 0.2), seed=1)
    assert [len(part) for part in parts] == [25, 15, 10]
    rows = torch.cat([part.values.flatten(1) for part in parts])
    assert torch.equal(rows.sort(0).values, series.values.flatten(1).sort(0).values)
    again = split(series, (0.5, 0.3, 0.2), seed=1)
    assert torch.equal(again[0].values, parts[0].values)
    assert not torch.equal(split(series, seed=2)[0].values[:25], parts[0].values)
    assert parts[1].total == 15 and parts[1].index.tolist() == list(range(15))


@pytest.mark.parametrize("shares", [(), (0.5, 0.6), (0.5, 0.0), (0.001,)])
def test_shares_that_are_none(shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="shares: expected positive ones"):
        split(irregular_sines(10), shares)


def test_scaling_counts_what_is_observed() -> None:
    values = torch.tensor([[[1.0, 5.0], [3.0, 5.0]], [[5.0, 5.0], [999.0, 5.0]]])
    mask = torch.ones(2, 2, 2, dtype=torch.bool)
    mask[1, 1, 0] = False
    series = Series(torch.arange(2.0), values, mask)
    scaling = Scaling.of(series)
    assert torch.allclose(scaling.loc, torch.tensor([3.0, 5.0]))
    assert torch.allclose(scaling.scale, torch.tensor([(8 / 3) ** 0.5, 1.0]))
    applied = scaling.apply(series)
    assert torch.allclose(applied.filled[..., 0][mask[..., 0]].mean(), torch.tensor(0.0))
    assert torch.allclose(scaling.undo(applied.values), values)
    part = scaling.apply(series.batch([1]))
    assert part.index.tolist() == [1] and part.total == 2
    nothing = Series(torch.arange(2.0), values, mask & torch.tensor([True, False]))
    with pytest.raises(ValueError, match="observed entries of each feature"):
        Scaling.of(nothing)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_differs_by_rounding_is_constant(dtype: torch.dtype) -> None:
    times, generator = torch.arange(7.0), torch.Generator().manual_seed(0)
    level = torch.tensor([0.1, -1e6, 1e-9], dtype=dtype)
    values = level.expand(1000, 7, 3).clone()
    values[3, 2] = values[3, 2].nextafter(torch.zeros(3, dtype=dtype))
    assert Scaling.of(Series(times, values)).scale.tolist() == [1.0] * 3
    assert Scaling.of(Series(times, 0 * values)).scale.tolist() == [1.0] * 3
    # what varies in the sixth digit does: 7000 draws, a standard deviation within 1 percent
    wide = 1 + 5e-6 * torch.randn(1000, 7, 3, dtype=dtype, generator=generator)
    ratio = Scaling.of(Series(times, level * wide)).scale / level.abs()
    assert ratio.tolist() == pytest.approx([5e-6] * 3, rel=0.05)
