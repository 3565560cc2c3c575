"""Series from tables with one row an observation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from .series import Series


def series_from_frame(
    frame: pd.DataFrame,
    columns: str | Sequence[str],
    *,
    time: str,
    sequence: str | None = None,
    covariates: str | Sequence[str] = (),
    unit: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Series:
    """A `Series` from a pandas frame, one row an observation.

    Sequences come in the order in which the frame names them first, their rows in that of time. An
    entry that is missing (NaN) is hidden; a row may lack some columns and have others.

    Args:
        frame: the table; its index is not used.
        columns: what was observed, D columns of numbers, or the name of one.
        time: column of times: numbers, or dates where there is a ``unit``.
        sequence: column that tells sequences apart; None: there is one.
        covariates: known inputs, C columns of numbers, or the name of one.
        unit: of the times that dates become, such as ``"365.25D"`` (see `pandas.Timedelta`); they
            begin at 0, the frame's earliest date. None for numbers, which stay as they are.
        dtype: of times and values. Seconds since 1970 need ``torch.float64``.

    Raises:
        ValueError: no rows, a column that is not there, there twice, or not of numbers, dates
            without a unit or numbers with one, a missing time or sequence, a time that comes twice
            in one sequence, a gap that ``dtype`` changes by more than 0.5 % of the median one, a
            number that it cannot hold, infinity too, a sequence with nothing observed, and as
            `Series` does.

    Example:
        >>> frame = pd.DataFrame(
        ...     {"who": [*"aab"], "hour": [0.0, 1.0, 0.5], "level": [3.0, 4.0, 5.0]}
        ... )
        >>> series_from_frame(frame, ["level"], time="hour", sequence="who")
        Series(N=2, T=2, D=1, observed 3 of 4 entries)
    """
    columns, covariates = _names(columns), _names(covariates)
    _check_columns(frame, columns, covariates, [time] if sequence is None else [time, sequence])
    table = pd.DataFrame({"time": _numbers(frame[time], unit), "sequence": 0})
    labels: pd.Index[Any] = pd.Index([0])
    if sequence is not None:
        table["sequence"], labels = pd.factorize(frame[sequence])
        if (table["sequence"] < 0).any():
            raise ValueError(f"{sequence}: expected a sequence in each row, got a missing one")
    table = table.sort_values(["sequence", "time"], kind="stable")
    twice = table.duplicated(["sequence", "time"])
    if twice.any():
        row = frame.index[table.index[twice][0]]
        raise ValueError(f"{time}: expected each time once a sequence, got that of row {row} twice")
    _check_gaps(table, time, dtype)
    parts = [_values(frame, names, dtype) for names in (columns, covariates)]
    seen = pd.Series(np.isfinite(parts[0]).any(1)).groupby(table["sequence"]).any()
    if not seen.all():
        raise ValueError(
            f"{sequence or 'frame'}: expected at least one entry of {columns} in each sequence, "
            f"got none in {labels[int(seen.to_numpy().argmin())]}"
        )
    rows = []
    for _, part in table.groupby("sequence"):
        pieces = [part["time"].to_numpy(), *(x[part.index] for x in parts if x.shape[1])]
        rows.append(tuple(torch.tensor(x, dtype=dtype) for x in pieces))
    first = rows[0][0]
    if all(torch.equal(row[0], first) for row in rows):
        _, values, *known = (torch.stack(each) for each in zip(*rows, strict=True))
        return Series(first, values, covariates=known[0] if known else None)
    return Series.from_list(rows)


def _names(columns: str | Sequence[str]) -> list[str]:
    return [columns] if isinstance(columns, str) else [*columns]


def _check_columns(
    frame: pd.DataFrame, columns: list[str], covariates: list[str], keys: list[str]
) -> None:
    if not columns:
        raise ValueError("columns: expected at least one, got none")
    if not len(frame):
        raise ValueError("frame: expected at least one row, got none")
    named = [*keys, *columns, *covariates]
    for name in named:
        count = int((frame.columns == name).sum())
        if count != 1:
            found = "none" if not count else str(count)
            raise ValueError(f"frame: expected columns {named}, found {found} of the name {name!r}")
    for name in [*columns, *covariates]:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            raise ValueError(f"{name}: expected numbers, got {frame[name].dtype}")


def _values(frame: pd.DataFrame, names: list[str], dtype: torch.dtype) -> np.ndarray[Any, Any]:
    """Numbers, or NaN where they are missing; what is too large to be told is not missing."""
    found: np.ndarray[Any, Any] = frame[names].to_numpy(float, na_value=np.nan)
    large = np.abs(found) > torch.finfo(dtype).max
    if large.any():
        row, column = (int(each[0]) for each in np.nonzero(large))
        raise ValueError(
            f"{names[column]}: expected numbers that {dtype} holds, got {found[row, column]:g} in "
            f"row {frame.index[row]}"
        )
    return found


def _check_gaps(table: pd.DataFrame, time: str, dtype: torch.dtype) -> None:
    """Times that the dtype keeps apart as far as they are: far from 0 it rounds coarsely."""
    exact = torch.tensor(table["time"].to_numpy())
    same = torch.tensor(table["sequence"].to_numpy()).diff() == 0
    gaps, kept = exact.diff()[same], exact.to(dtype).double().diff()[same]
    if not len(gaps):
        return
    off, usual = float((kept - gaps).abs().max()), float(gaps.median())
    if not off <= 0.005 * usual:
        raise ValueError(
            f"{time}: expected times whose gaps {dtype} keeps, got gaps of {usual:g} in the median "
            f"of which one comes out {off:g} off; count times from a later origin, or take "
            "dtype=torch.float64"
        )


def _numbers(column: pd.Series[Any], unit: str | None) -> np.ndarray[Any, Any]:
    """Times as numbers, dates in units since the first."""
    if pd.api.types.is_datetime64_any_dtype(column):
        if unit is None:
            raise ValueError(f"unit: expected one for the dates of {column.name!r}, got None")
        found = (column - column.min()) / pd.Timedelta(unit)
    elif pd.api.types.is_numeric_dtype(column):
        if unit is not None:
            raise ValueError(f"unit: expected None for the numbers of {column.name!r}, got {unit}")
        found = column
    else:
        raise ValueError(f"{column.name}: expected numbers or dates, got {column.dtype}")
    times: np.ndarray[Any, Any] = found.to_numpy(float, na_value=np.nan)
    if not np.isfinite(times).all():
        raise ValueError(f"{column.name}: expected a finite time in each row, got a missing one")
    return times
