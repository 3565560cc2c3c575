"""Tables become series, whatever the order of their rows, and say what is wrong with them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_lebm import series_from_frame

TABLE = pd.DataFrame(
    {
        "who": ["b", "a", "b", "a", "a"],
        "t": [2.0, 0.5, 1.0, 3.0, 0.0],
        "x": [22.0, 15.0, np.nan, 13.0, 10.0],
        "y": [1, 2, 3, 4, 5],
        "u": [0.2, 0.1, 0.3, 0.4, 0.5],
    },
    index=[10, 11, 12, 13, 14],
)
# since 1970, every ten minutes: float32 counts in steps of 128
SECONDS = [1.7e9 + 600 * step for step in (2, 1, 0, 3, 0)]


def test_rows_in_any_order() -> None:
    series = series_from_frame(TABLE, ["x", "y"], time="t", sequence="who", covariates=["u"])
    assert series.times.tolist() == [[1.0, 2.0, 2.0], [0.0, 0.5, 3.0]]  # b is named first
    assert series.values[0, 1].tolist() == [22.0, 1.0]
    assert series.mask[..., 0].tolist() == [[False, True, False], [True, True, True]]
    assert series.values[1].tolist() == [[10.0, 5.0], [15.0, 2.0], [13.0, 4.0]]
    assert series.covariates is not None
    assert torch.allclose(series.covariates[1, :, 0], torch.tensor([0.5, 0.1, 0.4]))


def test_times_that_all_share_are_one_grid() -> None:
    table = pd.DataFrame({"who": [1, 2, 1, 2], "t": [0, 0, 4, 4], "x": [1.0, 2.0, 3.0, 4.0]})
    series = series_from_frame(table, ["x"], time="t", sequence="who", dtype=torch.float64)
    assert series.times.tolist() == [0.0, 4.0] and series.times.dtype == torch.float64
    assert series.values[..., 0].tolist() == [[1.0, 3.0], [2.0, 4.0]]
    assert series_from_frame(table[:2:2], ["x"], time="t").values.shape == (1, 1, 1)


def test_dates_become_numbers_of_a_unit() -> None:
    days = pd.to_datetime(["2020-01-08", "2020-01-01", "2020-01-02"])
    table = pd.DataFrame({"day": days, "x": [3.0, 1.0, 2.0]})
    series = series_from_frame(table, ["x"], time="day", unit="7D")
    assert torch.allclose(series.times, torch.tensor([0.0, 1 / 7, 1.0]))
    assert series.values.flatten().tolist() == [1.0, 2.0, 3.0]


def test_times_far_from_0_are_kept_or_refused() -> None:
    table = TABLE.assign(t=SECONDS)
    double = series_from_frame(table, "x", time="t", sequence="who", dtype=torch.float64)
    assert double.times[1].diff().tolist() == [600.0, 1200.0]
    near = table.assign(t=table["t"] - 1.7e9)
    single = series_from_frame(near, "x", time="t", sequence="who")
    assert single.times[1].diff().tolist() == [600.0, 1200.0]
    # three years of hours in days, which float32 rounds by a few thousandths of an hour
    days = pd.DataFrame({"t": np.arange(3 * 8760) / 24, "x": 1.0})
    assert series_from_frame(days, "x", time="t").length == 3 * 8760
    with pytest.raises(ValueError, match=re.escape("take dtype=torch.float64")):
        series_from_frame(days.assign(t=days["t"] + 20_000), "x", time="t")


def test_one_name_is_a_name() -> None:
    level = TABLE.assign(level=TABLE["x"], input=TABLE["u"])
    options: dict[str, Any] = {"time": "t", "sequence": "who"}
    one = series_from_frame(level, "level", covariates="input", **options)
    listed = series_from_frame(TABLE, ["x"], covariates=["u"], **options)
    assert torch.equal(one.filled, listed.filled) and torch.equal(one.mask, listed.mask)
    assert one.covariates is not None and listed.covariates is not None
    assert torch.equal(one.covariates, listed.covariates)


def test_tables_that_are_none() -> None:
    with pytest.raises(ValueError, match="frame: expected at least one row, got none"):
        series_from_frame(TABLE[:0], "x", time="t")
    twice = pd.concat([TABLE, TABLE[["x"]]], axis=1)
    with pytest.raises(ValueError, match="found 2 of the name 'x'"):
        series_from_frame(twice, "x", time="t")
    assert series_from_frame(twice, "y", time="t").values.shape == (1, 5, 1)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"columns": []}, "columns: expected at least one"),
        ({}, {"columns": ["z"]}, "found none of the name 'z'"),
        ({"x": list("abcde")}, {}, "x: expected numbers, got"),
        ({"x": [1.0, np.inf, 1.0, 2.0, 2.0]}, {}, "x: expected numbers that torch.float32 holds"),
        ({"x": [1.0, 2.0, 1.0, -1e39, 2.0]}, {}, "got -1e+39 in row"),
        ({"t": list("abcde")}, {}, "t: expected numbers or dates, got"),
        ({"t": pd.to_datetime(["2020"] * 5)}, {}, "unit: expected one for the dates of 't'"),
        ({"t": [2.0, np.nan, 1.0, 3.0, 0.0]}, {}, "t: expected a finite time in each row"),
        ({"who": ["b", None, "b", "a", "a"]}, {}, "who: expected a sequence in each row"),
        ({"t": [2.0, 0.5, 1.0, 0.5, 0.0]}, {}, "got that of row 13 twice"),
        (
            {"x": [1.0, np.nan, 1.0, np.nan, np.nan]},
            {},
            "who: expected at least one entry of ['x'] in each sequence, got none in a",
        ),
        ({"x": [np.nan] * 5}, {"sequence": None}, "frame: expected at least one entry of"),
        ({}, {"unit": "7D"}, "unit: expected None for the numbers of 't', got 7D"),
        ({"t": SECONDS}, {}, "t: expected times whose gaps torch.float32 keeps, got gaps of 1200"),
        ({"t": np.array(SECONDS) * 1e30}, {}, "t: expected times whose gaps torch.float32 keeps"),
    ],
)
def test_bad_tables(change: dict[str, Any], options: dict[str, Any], message: str) -> None:
    options = {"columns": ["x"], "time": "t", "sequence": "who", **options}
    with pytest.raises(ValueError, match=re.escape(message)):
        series_from_frame(TABLE.assign(**change), **options)
