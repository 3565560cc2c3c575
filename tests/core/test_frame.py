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


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"columns": []}, "columns: expected at least one"),
        ({}, {"columns": ["z"]}, "found none of the name 'z'"),
        ({"x": list("abcde")}, {}, "x: expected numbers, got"),
        ({"t": list("abcde")}, {}, "t: expected numbers or dates, got"),
        ({"t": pd.to_datetime(["2020"] * 5)}, {}, "unit: expected one for the dates of 't'"),
        ({"t": [2.0, np.nan, 1.0, 3.0, 0.0]}, {}, "t: expected a finite time in each row"),
        ({"who": ["b", None, "b", "a", "a"]}, {}, "who: expected a sequence in each row"),
        ({"t": [2.0, 0.5, 1.0, 0.5, 0.0]}, {}, "got that of row 13 twice"),
        ({"x": [1.0, np.nan, 1.0, np.nan, np.nan]}, {}, "at least one observed"),
    ],
)
def test_bad_tables(change: dict[str, Any], options: dict[str, Any], message: str) -> None:
    options = {"columns": ["x"], "time": "t", "sequence": "who", **options}
    with pytest.raises(ValueError, match=re.escape(message)):
        series_from_frame(TABLE.assign(**change), **options)
