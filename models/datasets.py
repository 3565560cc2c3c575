"""Synthetic data sets with a known truth."""

from __future__ import annotations

import math
from typing import Literal, overload

import torch
from torch import Tensor

from pyro_lebm.series import Series

Truth = dict[str, Tensor]


@overload
def irregular_sines(
    n: int = ...,
    *,
    points: int = ...,
    seed: int = ...,
    times: Tensor | None = ...,
    dtype: torch.dtype = ...,
    truth: Literal[False] = ...,
) -> Series: ...
@overload
def irregular_sines(
    n: int = ...,
    *,
    points: int = ...,
    seed: int = ...,
    times: Tensor | None = ...,
    dtype: torch.dtype = ...,
    truth: Literal[True],
) -> tuple[Series, Truth]: ...
def irregular_sines(
    n: int = 1000,
    *,
    points: int = 100,
    seed: int = 0,
    times: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    truth: bool = False,
) -> Series | tuple[Series, Truth]:
    """Sinusoids on one irregular grid (Rubanova et al. 2019, arXiv 1907.03907).

    x(t) = sin(2 pi f t) + b + noise, with f ~ U(0.4, 0.8) Hz, b ~ N(1, 0.1^2), and noise 0.01 U[0,
    1) at every point but the first. Times: 0 and ``points - 1`` sorted draws of U[0, 5] seconds,
    shared by all sequences.

    Args:
        n: number of sequences.
        points: number of time points, the one at 0 included.
        seed: of a generator of its own; the global one is not touched.
        times: an existing grid, for fresh sequences on it (test sets, generation scores);
            ``points`` is then not used.
        dtype: of times and values.
        truth: also return ``{"frequency": (n,), "offset": (n,)}``.

    Returns:
        A fully observed series, values ``(n, points, 1)``.

    Raises:
        ValueError: fewer than 1 sequence or 2 points, times that are not a shared grid.

    Example:
        >>> train = irregular_sines(800)
        >>> test = irregular_sines(200, seed=1, times=train.times)
        >>> train
        Series(N=800, T=100, D=1, observed 80000 of 80000 entries)
    """
    if n < 1:
        raise ValueError(f"n: expected at least 1 sequence, got {n}")
    generator = torch.Generator().manual_seed(seed)
    if times is None:
        times = _grid(points, 5.0, generator, dtype)
    elif times.dim() != 1:
        raise ValueError(f"times: expected a shared grid (T,), got shape {tuple(times.shape)}")
    # Drawn in double whatever dtype is asked for, so that a seed means the same data in both.
    t = times.detach().double().cpu()
    frequency = 0.4 + 0.4 * torch.rand(n, generator=generator, dtype=torch.float64)
    offset = 1.0 + 0.1 * torch.randn(n, generator=generator, dtype=torch.float64)
    noise = 0.01 * torch.rand(n, len(t), generator=generator, dtype=torch.float64)
    noise[:, 0] = 0.0
    values = torch.sin(2 * math.pi * frequency[:, None] * t) + offset[:, None] + noise
    series = Series(times.cpu().to(dtype), values[..., None].to(dtype))
    if truth:
        return series, {"frequency": frequency.to(dtype), "offset": offset.to(dtype)}
    return series


def _grid(points: int, end: float, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    if points < 2:
        raise ValueError(f"points: expected at least 2 time points, got {points}")
    while True:
        draws = end * torch.rand(points - 1, generator=generator, dtype=torch.float64)
        times = torch.cat([torch.zeros(1, dtype=torch.float64), draws.sort().values]).to(dtype)
        # Two draws may round to one number in single precision: rare, then drawn again.
        if (times.diff() > 0).all():
            return times


def interpolation(
    series: Series, keep: int | float = 50, *, seed: int = 0
) -> tuple[Series, Series]:
    """``(given, target)``: ``keep`` random points of each sequence, to predict all of them.

    The target is the series itself, as the error of the sinusoid benchmark is taken over all
    points; use ``series.without(given)`` for the hidden ones alone.

    Example:
        >>> given, target = interpolation(irregular_sines(4), keep=50)
        >>> given, target
        (Series(N=4, T=100, D=1, observed 200 of 400 entries), Series(N=4, T=100, D=1, observed 400
        of 400 entries))
    """
    return series.hide(keep, torch.Generator().manual_seed(seed)), series


def extrapolation(series: Series, given: float = 0.5) -> tuple[Series, Series]:
    """``(given, target)``: the first part of the shared time points observed, the rest to predict.

    Args:
        series: on a shared grid.
        given: fraction of the time points, above 0 and below 1 (one half for the sinusoids, a third
            for the hopper).

    Example:
        >>> first, rest = extrapolation(irregular_sines(4))
        >>> first.mask[0].sum().item(), rest.mask[0].sum().item()
        (50, 50)
    """
    count = int(given * series.length)
    if not 0 < count < series.length or series.times.dim() != 1:
        raise ValueError(
            "given: expected a fraction that leaves at least one time point of a shared grid on "
            f"both sides, got {given} of times {tuple(series.times.shape)}"
        )
    return series.split(float(series.times[count - 1]))
