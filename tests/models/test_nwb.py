"""Recordings are read as they were written: counts, what is hidden, behaviour, and refusals."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyro_lebm.models.datasets import neural_latents

pynwb = pytest.importorskip("pynwb")

# Spikes lie at whole milliseconds, trials and bins too, as in the benchmark's files, so that what
# rounding would move from one bin to the next is there.
GENERATOR = np.random.default_rng(0)
SPIKES = [np.sort(GENERATOR.choice(4000, size, replace=False)) for size in (900, 300, 40)]
OBSERVED: list[list[tuple[int, int]]] = [
    [(at, at + 40) for at in range(40, 4000, 60)],
    [(0, 709), (709, 1203), (1800, 4000)],
    [(1700, 4000), (0, 900), (100, 300)],
]
TRIALS = [  # start, stop, split, onset, in milliseconds
    (100, 507, "train", 250.0),
    (600, 1203, "val", 801.0),
    (1300, 1701, "train", np.nan),
    (2000, 2900, "train", 2101.0),
    (3000, 3010, "none", 3005.0),
]
HELD = [False, True, True]


def written(path: Path, **parts: Any) -> Path:
    """A file with the parts asked for, all of them by default."""
    file = pynwb.NWBFile("made for a test", "id", datetime(2024, 1, 1, tzinfo=UTC))
    if parts.get("units", True):
        _add_units(file, parts.get("columns", True), parts.get("spikes", True))
    if parts.get("trials", True):
        _add_trials(file, parts.get("columns", True))
    if parts.get("behaviour", True):
        module = file.create_processing_module("behavior", "movement")
        at = np.arange(300) * 0.01
        data = np.stack([2 * at, 1 - at], -1)
        series = pynwb.TimeSeries
        module.add(series(name="hand_pos", data=data, unit="m", timestamps=at))
        module.add(
            series(name="force", data=at, unit="N", rate=100.0, starting_time=0.5, conversion=10.0)
        )
    with pynwb.NWBHDF5IO(str(path), "w") as stream:
        stream.write(file)
    return path


def _add_units(file: Any, columns: bool, spikes: bool) -> None:
    if columns:
        file.add_unit_column("heldout", "to be predicted")
    for times, observed, held in zip(SPIKES, OBSERVED, HELD, strict=True):
        found: dict[str, Any] = {"spike_times": times / 1000} if spikes else {}
        if columns:
            found |= {"heldout": held, "obs_intervals": np.array(observed) / 1000}
        file.add_unit(**found)


def _add_trials(file: Any, columns: bool) -> None:
    if columns:
        file.add_trial_column("split", "part")
        file.add_trial_column("move_onset_time", "when it moves")
    for start, stop, part, onset in TRIALS:
        more = {"split": part, "move_onset_time": onset / 1000} if columns else {}
        file.add_trial(start_time=start / 1000, stop_time=stop / 1000, **more)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("nwb") / "whole.nwb")


def expected(row: int, unit: int, first: int, bins: int) -> tuple[list[int], list[bool]]:
    """Counts and what is observed of one trial and unit, in bins of 20 ms, by whole numbers."""
    counts, seen = [], []
    covered = np.zeros(4001, bool)
    for low, high in OBSERVED[unit]:
        covered[low:high] = True
    for k in range(bins):
        low, high = first + 20 * k, first + 20 * k + 20
        counts.append(sum(low <= spike < high for spike in SPIKES[unit]))
        seen.append(bool(covered[low:high].all()))
    return counts, seen


def test_counts_until_the_end_of_each_trial(whole: Path) -> None:
    found = neural_latents(whole)
    series = found.series
    # the last trial has no whole bin
    assert found.trials.tolist() == [0, 1, 2, 3] and found.heldout.tolist() == HELD
    assert found.behaviour is None and series.values.shape == (4, 45, 3)
    assert torch.allclose(series.times, 0.02 * torch.arange(45))
    assert series.values.dtype == torch.float32
    hidden = 0
    for row, (start, stop, _, _) in enumerate(TRIALS[:4]):
        bins = (stop - start) // 20
        assert not series.mask[row, bins:].any()
        for unit in range(3):
            counts, seen = expected(row, unit, start, bins)
            assert series.values[row, :bins, unit].tolist() == counts
            assert series.mask[row, :bins, unit].tolist() == seen
            hidden += len(seen) - sum(seen)
    # the second unit is off at the third trial, the third at two ends
    assert not series.mask[2, :, 1].any() and hidden > 40


def test_counts_in_a_window_about_an_event(whole: Path) -> None:
    found = neural_latents(whole, align="move_onset_time", window=(0.1, 0.24))
    # the third trial has no onset
    assert found.trials.tolist() == [0, 1, 3, 4] and found.series.values.shape == (4, 17, 3)
    for row, trial in enumerate(found.trials.tolist()):
        onset = int(TRIALS[trial][3])
        for unit in range(3):
            counts, seen = expected(row, unit, onset - 100, 17)
            assert found.series.values[row, :, unit].tolist() == counts
            assert found.series.mask[row, :, unit].tolist() == seen


def test_wider_bins_hold_the_same_spikes(whole: Path) -> None:
    narrow = neural_latents(whole, window=(0.0, 0.4))
    wide = neural_latents(whole, window=(0.0, 0.4), bin_width=0.1)
    # only the first unit is there at the third trial, and for 40 ms at a time
    assert narrow.trials.tolist() == [0, 1, 2, 3, 4] and wide.trials.tolist() == [0, 1, 3, 4]
    together = narrow.series.values[wide.trials].unflatten(1, (4, 5)).sum(2)
    assert torch.equal(together, wide.series.values)


def test_parts_of_the_file(whole: Path) -> None:
    assert neural_latents(whole, split="train").trials.tolist() == [0, 2, 3]
    assert neural_latents(whole, split="val").trials.tolist() == [1]
    one, all_of_them = neural_latents(whole, split="val"), neural_latents(whole)
    length = one.series.length
    assert torch.equal(one.series.values[0], all_of_them.series.values[1, :length])


def test_behaviour_is_read_at_the_middle_of_bins(whole: Path) -> None:
    found = neural_latents(whole, behaviour=("hand_pos", "force"))
    assert found.behaviour is not None and found.behaviour.shape == (4, 45, 3)
    for row, (start, stop, _, _) in enumerate(TRIALS[:4]):
        bins = (stop - start) // 20
        at = start / 1000 + 0.02 * (torch.arange(bins) + 0.5)
        x, y, force = found.behaviour[row, :bins].unbind(-1)
        assert torch.isnan(found.behaviour[row, bins:]).all()
        assert torch.allclose(x, 2 * at) and torch.allclose(y, 1 - at)
        known = at > 0.5  # recorded from then on, ten times its number
        assert torch.allclose(force[known], 10 * (at[known] - 0.5), atol=1e-5)
        assert torch.isnan(force[~known]).all()
    alone = neural_latents(whole, behaviour="force").behaviour
    assert alone is not None
    assert torch.equal(alone.nan_to_num(), found.behaviour[..., 2:].nan_to_num())


def test_trials_that_no_unit_was_observed_in_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "OBSERVED", [[(0, 1250)], [(0, 700)], [(0, 700)]])
    found = neural_latents(written(tmp_path / "short.nwb"), behaviour="hand_pos")
    assert found.trials.tolist() == [0, 1] and len(found.series) == 2
    assert found.behaviour is not None and len(found.behaviour) == 2
    monkeypatch.setattr(sys.modules[__name__], "OBSERVED", [[(0, 90)]] * 3)
    with pytest.raises(ValueError, match="obs_intervals: expected a bin of a trial in one of them"):
        neural_latents(written(tmp_path / "none.nwb"))


def test_columns_that_a_file_may_lack(tmp_path: Path) -> None:
    path = written(tmp_path / "bare.nwb", columns=False, behaviour=False)
    found = neural_latents(path)
    assert not found.heldout.any() and found.series.mask[3].all()
    for options, message in (
        (
            {"align": "move_onset_time"},
            "align: expected a column of the trials, ['start_time', 'stop_time'], "
            "got 'move_onset_time'",
        ),
        (
            {"split": "train"},
            "split: expected a column of the trials, ['start_time', 'stop_time'], got 'split'",
        ),
        (
            {"behaviour": "hand_pos"},
            "behaviour: expected a time series of processing 'behavior', [], got 'hand_pos'",
        ),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            neural_latents(path, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bin_width": 0.0}, "bin_width: expected a positive number of seconds, got 0.0"),
        ({"window": (0.0, 0.01)}, "window: expected seconds (before, after) that hold a bin"),
        ({"window": (0.3, -0.3)}, "got (0.3, -0.3) for bins of 0.02"),
        ({"split": "test"}, "split: expected one of ['none', 'train', 'val'], got 'test'"),
        ({"split": "none"}, "trials: expected one with a whole bin of 0.02 s, got none"),
        (
            {"behaviour": ["hand_pos", "eye"]},
            "behaviour: expected a time series of processing 'behavior', ['force', 'hand_pos'], "
            "got 'eye'",
        ),
    ],
)
def test_refusals(whole: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        neural_latents(whole, **options)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"units": False}, "path: expected a file with a table of units, got none"),
        ({"spikes": False}, "path: expected spike times of the units, got"),
        ({"trials": False}, "path: expected a file with a table of trials, got none"),
    ],
)
def test_files_that_lack_a_part(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    path = written(tmp_path / "part.nwb", **parts)
    with pytest.raises(ValueError, match=re.escape(message)):
        neural_latents(path)


def test_files_that_are_none(tmp_path: Path, whole: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "other.nwb"
    with pytest.raises(FileNotFoundError, match="path: expected an NWB file, found none at"):
        neural_latents(path)
    path.write_text("no archive")
    with pytest.raises(ValueError, match="path: expected an NWB file, got"):
        neural_latents(path)
    path.write_bytes(whole.read_bytes()[:5000])
    with pytest.raises(ValueError, match="path: expected an NWB file, got"):
        neural_latents(path)
    with h5py.File(path, "w") as file:
        file["numbers"] = [1.0, 2.0]
    with pytest.raises(ValueError, match="path: expected an NWB file, got"):
        neural_latents(path)


def test_without_the_reader_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pynwb", None)
    with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'pyro-lebm[nwb]'")):
        neural_latents(tmp_path / "any.nwb")
