"""Irregularly sampled sinusoids."""

from __future__ import annotations

import math
from typing import Literal, overload

import torch
from torch import Tensor

from pyro_lebm.series import Series

from .truth import Truth


@overload
def irregular_sines(
    n: int = ...,
    *,
    points: int = ...,
    seed: int = ...,
    times: Tensor | None = ...,
    frequency: tuple[float, float] = ...,
    shape: Literal["sine", "square"] = ...,
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
    frequency: tuple[float, float] = ...,
    shape: Literal["sine", "square"] = ...,
    dtype: torch.dtype = ...,
    truth: Literal[True],
) -> tuple[Series, Truth]: ...
def irregular_sines(
    n: int = 1000,
    *,
    points: int = 100,
    seed: int = 0,
    times: Tensor | None = None,
    frequency: tuple[float, float] = (0.4, 0.8),
    shape: Literal["sine", "square"] = "sine",
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
        frequency: in Hz, between which each sequence's own is drawn, evenly.
        shape: ``"square"`` waves have the sines' signs, for data that is to be told apart.
        dtype: of times and values.
        truth: also return ``{"frequency": (n,), "offset": (n,)}``.

    Returns:
        A fully observed series, values ``(n, points, 1)``.

    Raises:
        ValueError: fewer than 1 sequence or 2 points, times that are not a shared grid, frequencies
            that are no range above 0, another shape.

    Example:
        >>> train = irregular_sines(800)
        >>> test = irregular_sines(200, seed=1, times=train.times)
        >>> train
        Series(N=800, T=100, D=1, observed 80000 of 80000 entries)
    """
    if n < 1:
        raise ValueError(f"n: expected at least 1 sequence, got {n}")
    low, high = frequency
    if not 0 < low <= high:
        raise ValueError(f"frequency: expected (low, high) with 0 < low <= high, got {frequency}")
    if shape not in ("sine", "square"):
        raise ValueError(f"shape: expected 'sine' or 'square', got {shape!r}")
    generator = torch.Generator().manual_seed(seed)
    if times is None:
        times = _grid(points, 5.0, generator, dtype)
    elif times.dim() != 1:
        raise ValueError(f"times: expected a shared grid (T,), got shape {tuple(times.shape)}")
    # Drawn in double whatever dtype is asked for, so that a seed means the same data in both.
    t = times.detach().double().cpu()
    chosen = low + (high - low) * torch.rand(n, generator=generator, dtype=torch.float64)
    offset = 1.0 + 0.1 * torch.randn(n, generator=generator, dtype=torch.float64)
    noise = 0.01 * torch.rand(n, len(t), generator=generator, dtype=torch.float64)
    noise[:, 0] = 0.0
    wave = torch.sin(2 * math.pi * chosen[:, None] * t)
    values = (wave if shape == "sine" else wave.sign()) + offset[:, None] + noise
    series = Series(times.cpu().to(dtype), values[..., None].to(dtype))
    if truth:
        return series, {"frequency": chosen.to(dtype), "offset": offset.to(dtype)}
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
