"""Carbon dioxide on Mauna Loa: a real series with gaps."""

from __future__ import annotations

from typing import Literal, overload

import torch

from pyro_lebm.series import Series

from .truth import Truth

WEEK = 7 / 365.25  # in years


@overload
def co2(
    *,
    window: int = ...,
    stride: int = ...,
    dtype: torch.dtype = ...,
    truth: Literal[False] = ...,
) -> Series: ...
@overload
def co2(
    *, window: int = ..., stride: int = ..., dtype: torch.dtype = ..., truth: Literal[True]
) -> tuple[Series, Truth]: ...
def co2(
    *,
    window: int = 104,
    stride: int = 52,
    dtype: torch.dtype = torch.float32,
    truth: bool = False,
) -> Series | tuple[Series, Truth]:
    """Weekly atmospheric CO2 of Mauna Loa, 1958 to 2001, cut into windows.

    2284 weeks of which 59 are missing, as statsmodels has them (Keeling & Whorf 2004, Carbon
    Dioxide Information Analysis Center). The weeks that are missing are hidden, windows without any
    measurement are left out, and so are the last weeks where they fill no window. With a stride
    below the window the windows overlap: part them by date, not at random.

    Args:
        window: weeks of a sequence.
        stride: weeks from one sequence's start to the next one's.
        dtype: of times and values.
        truth: also return ``{"start": (N,)}``, the date of each window's first week as a year, such
            as 1958.24.

    Returns:
        Times ``(window,)`` in years from a window's start, values ``(N, window, 1)`` in parts per
        million.

    Raises:
        ModuleNotFoundError: without ``pip install statsmodels``.
        ValueError: a window of fewer than 2 weeks or more than there are, a stride below 1.

    Example:
        >>> series, truth = co2(truth=True)
        >>> series
        Series(N=42, T=104, D=1, observed 4267 of 4368 entries)
        >>> round(truth["start"][0].item(), 2)
        1958.24
    """
    if stride < 1:
        raise ValueError(f"stride: expected at least 1 week, got {stride}")
    try:
        from statsmodels.datasets import co2 as source
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "co2: expected statsmodels, which is not installed; pip install statsmodels"
        ) from error
    weeks = source.load_pandas().data["co2"]
    if not 2 <= window <= len(weeks):
        raise ValueError(f"window: expected 2 to {len(weeks)} weeks, got {window}")
    values = torch.tensor(weeks.to_numpy(), dtype=dtype).unfold(0, window, stride)
    year = weeks.index.year + (weeks.index.day_of_year - 1) / 365.25
    start = torch.tensor(year.to_numpy(), dtype=dtype)[: len(weeks) - window + 1 : stride]
    measured = values.isfinite().any(-1)
    times = (WEEK * torch.arange(window, dtype=torch.float64)).to(dtype)
    series = Series(times, values[measured][..., None])
    return (series, {"start": start[measured]}) if truth else series
