"""Neural recordings in files of the Neural Latents Benchmark."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_lebm.series import Series

# Seconds: recordings are sampled far more coarsely, and rounding errs far less. A spike that lies
# on an edge but for rounding is one of the later bin.
ROUNDING = 1e-6
Array = np.ndarray[Any, np.dtype[np.float64]]


class NeuralLatents(NamedTuple):
    """Trials of a recording, in bins.

    Attributes:
        series: counts ``(N, T, D)`` of D units, times in seconds from the start of the first bin.
        heldout: ``(D,)`` bool, the units that the benchmark wants predicted.
        behaviour: ``(N, T, B)`` at the middle of each bin, by lines from sample to sample; NaN
            before the first and after the last and, without a window, where the trial is over; None
            unless asked for.
        trials: ``(N,)`` rows of the file's table of trials.
    """

    series: Series
    heldout: Tensor
    behaviour: Tensor | None
    trials: Tensor


def neural_latents(
    path: str | os.PathLike[str],
    *,
    bin_width: float = 0.02,
    align: str = "start_time",
    window: tuple[float, float] | None = None,
    split: str | None = None,
    behaviour: str | Sequence[str] | None = None,
) -> NeuralLatents:
    """Spike counts by trial from an NWB file, such as the Neural Latents Benchmark's.

    (Pei et al. 2021, arXiv 2109.04463.) Counted are spikes in [start, end) of each bin. Hidden are,
    without a window, the bins past a trial's end, and of a unit those that its ``obs_intervals``,
    if the file has them, do not cover. Trials without a whole observed bin, or whose time of
    alignment is NaN, are left out.

    Args:
        path: of the file.
        bin_width: in seconds.
        align: the column of the trials, in seconds, from which bins are counted, such as
            ``"move_onset_time"``.
        window: seconds ``(before, after)`` that time, the same for all trials; None: from it to
            each trial's ``stop_time``.
        split: only trials with this value in the column ``split``, such as ``"train"``; None: all.
        behaviour: names of time series in the processing module "behavior", such as ``"hand_pos"``,
            put side by side, in the file's units (its conversion applied); interpolated linearly.

    Returns:
        See `NeuralLatents`; counts in single precision.

    Raises:
        ModuleNotFoundError: without ``pip install 'pyro-lebm[nwb]'``.
        FileNotFoundError: no such file.
        ValueError: a file that is no NWB, or has no units, spike times, trials, column, split or
            time series as asked for; a width or a window that is not positive; no trial left.

    Example:
        >>> found = neural_latents(
        ...     "maze.nwb", align="move_onset_time", window=(0.25, 0.45), behaviour="hand_vel"
        ... )  # doctest: +SKIP
        >>> held_in = found.series.values[..., ~found.heldout]  # doctest: +SKIP
    """
    if not 0 < bin_width < float("inf"):
        raise ValueError(f"bin_width: expected a positive number of seconds, got {bin_width}")
    if window is not None and not bin_width <= sum(window) + ROUNDING < float("inf"):
        raise ValueError(
            "window: expected seconds (before, after) that hold a bin between them, got "
            f"{window} for bins of {bin_width}"
        )
    with _opened(path) as file:
        content = _content(file, path)
        trials = _trials(content, align, split)
        lengths = _lengths(trials, window, bin_width)
        trials, lengths = trials[lengths > 0], lengths[lengths > 0]
        if not len(trials):
            raise ValueError(f"trials: expected one with a whole bin of {bin_width} s, got none")
        first = trials["align"].to_numpy() - (0.0 if window is None else window[0])
        edges = first[:, None] + bin_width * np.arange(lengths.max() + 1)
        counts, mask, heldout = _counted(content, edges)
        mask &= (np.arange(edges.shape[1] - 1) < lengths[:, None])[..., None]
        names = [behaviour] if isinstance(behaviour, str) else list(behaviour or ())
        middle = (edges[:, 1:] + edges[:, :-1]) / 2
        moves = [_interpolated(content, name, middle) for name in names]
    kept = mask.any((1, 2))
    if not kept.any():
        raise ValueError("obs_intervals: expected a bin of a trial in one of them, got none")
    moved = np.concatenate(moves, -1) if moves else None
    if moved is not None:
        moved[np.arange(moved.shape[1]) >= lengths[:, None]] = np.nan
    times = torch.from_numpy(bin_width * np.arange(edges.shape[1] - 1)).float()
    observed = torch.from_numpy(mask[kept])
    return NeuralLatents(
        Series(times, torch.from_numpy(counts[kept]).float(), observed),
        torch.from_numpy(heldout),
        None if moved is None else torch.from_numpy(moved[kept]).float(),
        torch.from_numpy(trials.index.to_numpy()[kept]).long(),
    )


def _opened(path: str | os.PathLike[str]) -> Any:
    try:
        from pynwb import NWBHDF5IO
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "neural_latents: expected pynwb, which is not installed; pip install 'pyro-lebm[nwb]'"
        ) from error
    if not Path(path).is_file():
        raise FileNotFoundError(f"path: expected an NWB file, found none at {path}")
    try:
        return NWBHDF5IO(str(path), mode="r", load_namespaces=True)
    except Exception as error:  # which one is up to what the file is instead
        raise ValueError(f"path: expected an NWB file, got {path}: {error}") from error


def _content(file: Any, path: str | os.PathLike[str]) -> Any:
    try:
        return file.read()
    except Exception as error:  # HDF5, but which part is amiss is up to the file
        raise ValueError(f"path: expected an NWB file, got {path}: {error}") from error


def _trials(content: Any, align: str, split: str | None) -> Any:
    """Table of the trials asked for, by row, with their time of alignment."""
    if content.trials is None or not len(content.trials):
        raise ValueError("path: expected a file with a table of trials, got none")
    table = content.trials.to_dataframe().reset_index(drop=True)
    for name, column in (("align", align), ("split", None if split is None else "split")):
        if column is not None and column not in table:
            raise ValueError(
                f"{name}: expected a column of the trials, {sorted(table)}, got {column!r}"
            )
    if split is not None:
        found = sorted(set(table["split"].astype(str)))
        if split not in found:
            raise ValueError(f"split: expected one of {found}, got {split!r}")
        table = table[table["split"].astype(str) == split]
    table = table.assign(align=table[align].astype(float))
    return table[table["align"].notna()]


def _lengths(trials: Any, window: tuple[float, float] | None, bin_width: float) -> Any:
    """Whole bins of each trial; 0 where its end is unknown."""
    if window is not None:
        return np.full(len(trials), int((sum(window) + ROUNDING) / bin_width))
    seconds = (trials["stop_time"] - trials["align"]).astype(float).to_numpy()
    return ((np.nan_to_num(seconds) + ROUNDING) / bin_width).clip(0).astype(int)


def _counted(content: Any, edges: Array) -> tuple[Array, Any, Any]:
    """Counts and mask ``(N, T, D)`` and held-out units ``(D,)``."""
    units = content.units
    if units is None or not len(units):
        raise ValueError("path: expected a file with a table of units, got none")
    if "spike_times" not in units.colnames:
        raise ValueError(f"path: expected spike times of the units, got {list(units.colnames)}")
    shape = (len(edges), edges.shape[1] - 1, len(units))
    counts, mask = np.empty(shape), np.ones(shape, bool)
    for d in range(len(units)):
        spikes = np.sort(np.asarray(units["spike_times"][d], float))
        counts[..., d] = np.diff(np.searchsorted(spikes, edges - ROUNDING), axis=-1)
        if "obs_intervals" in units.colnames:
            mask[..., d] = _covered(np.asarray(units["obs_intervals"][d], float), edges)
    held = np.zeros(len(units), bool)
    if "heldout" in units.colnames:
        held[:] = units["heldout"][:]
    return counts, mask, held


def _covered(intervals: Array, edges: Array) -> Any:
    """Whether bins ``(N, T)`` lie within the union of intervals ``(K, 2)``."""
    if not intervals.size:
        return np.zeros((len(edges), edges.shape[1] - 1), bool)
    low, high = intervals[intervals[:, 0].argsort()].T
    high = np.maximum.accumulate(high)
    # Intervals that touch are one.
    apart = np.concatenate([[True], low[1:] > high[:-1] + ROUNDING])
    low, high = low[apart], high[np.append(apart[1:], True)]
    last = np.searchsorted(low, edges[:, :-1] + ROUNDING, side="right") - 1
    covered = (last >= 0) & (edges[:, 1:] - ROUNDING <= high[last.clip(0)])
    return covered


def _interpolated(content: Any, name: str, times: Array) -> Array:
    """A time series of behaviour at times ``(N, T)``, ``(N, T, B)``."""
    module = content.processing.get("behavior", None)
    found = {} if module is None else module.data_interfaces
    if name not in found or not hasattr(found[name], "get_timestamps"):
        raise ValueError(
            f"behaviour: expected a time series of processing 'behavior', {sorted(found)}, "
            f"got {name!r}"
        )
    series = found[name]
    at = np.asarray(series.get_timestamps(), float)
    data = np.asarray(series.get_data_in_units(), float).reshape(len(at), -1)
    columns = [np.interp(times, at, column, left=np.nan, right=np.nan) for column in data.T]
    return np.stack(columns, -1)
