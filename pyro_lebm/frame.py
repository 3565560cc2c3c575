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
    columns: Sequence[str],
    *,
    time: str,
    sequence: str | None = None,
    covariates: Sequence[str] = (),
    unit: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Series:
    """A `Series` from a pandas frame, one row an observation.

    Sequences come in the order in which the frame names them first, their rows in that of time. An
    entry that is missing (NaN) is hidden; a row may lack some columns and have others.

    Args:
        frame: the table; its index is not used.
        columns: what was observed, D columns of numbers.
        time: column of times: numbers, or dates where there is a ``unit``.
        sequence: column that tells sequences apart; None: there is one.
        covariates: known inputs, C columns of numbers.
        unit: of the times that dates become, such as ``"365.25D"`` (see `pandas.Timedelta`); they
            begin at 0, the frame's earliest date.
        dtype: of times and values.

    Raises:
        ValueError: a column that is not there or not of numbers, dates without a unit, a missing
            time or sequence, a time that comes twice in one sequence, and as `Series` does.

    Example:
        >>> frame = pd.DataFrame(
        ...     {"who": [*"aab"], "hour": [0.0, 1.0, 0.5], "level": [3.0, 4.0, 5.0]}
        ... )
        >>> series_from_frame(frame, ["level"], time="hour", sequence="who")
        Series(N=2, T=2, D=1, observed 3 of 4 entries)
    """
    wanted = [*columns, *covariates]
    if not columns:
        raise ValueError("columns: expected at least one, got none")
    named = [time, *([] if sequence is None else [sequence]), *wanted]
    missing = [name for name in named if name not in frame.columns]
    if missing:
        raise ValueError(f"frame: expected columns {named}, found none of the name {missing[0]!r}")
    table = pd.DataFrame({"time": _numbers(frame[time], unit), "sequence": 0})
    if sequence is not None:
        table["sequence"] = pd.factorize(frame[sequence])[0]
        if (table["sequence"] < 0).any():
            raise ValueError(f"{sequence}: expected a sequence in each row, got a missing one")
    for name in wanted:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            raise ValueError(f"{name}: expected numbers, got {frame[name].dtype}")
    table = table.sort_values(["sequence", "time"], kind="stable")
    twice = table.duplicated(["sequence", "time"])
    if twice.any():
        row = frame.index[table.index[twice][0]]
        raise ValueError(f"{time}: expected each time once a sequence, got that of row {row} twice")
    parts = [frame[[*names]].to_numpy(float, na_value=np.nan) for names in (columns, covariates)]
    rows = []
    for _, part in table.groupby("sequence"):
        pieces = [part["time"].to_numpy(), *(x[part.index] for x in parts if x.shape[1])]
        rows.append(tuple(torch.tensor(x, dtype=dtype) for x in pieces))
    first = rows[0][0]
    if all(torch.equal(row[0], first) for row in rows):
        _, values, *known = (torch.stack(each) for each in zip(*rows, strict=True))
        return Series(first, values, covariates=known[0] if known else None)
    return Series.from_list(rows)


def _numbers(column: pd.Series[Any], unit: str | None) -> np.ndarray[Any, Any]:
    """Times as numbers, dates in units since the first."""
    if pd.api.types.is_datetime64_any_dtype(column):
        if unit is None:
            raise ValueError(f"unit: expected one for the dates of {column.name!r}, got None")
        found = (column - column.min()) / pd.Timedelta(unit)
    elif pd.api.types.is_numeric_dtype(column):
        found = column
    else:
        raise ValueError(f"{column.name}: expected numbers or dates, got {column.dtype}")
    times: np.ndarray[Any, Any] = found.to_numpy(float, na_value=np.nan)
    if not np.isfinite(times).all():
        raise ValueError(f"{column.name}: expected a finite time in each row, got a missing one")
    return times
