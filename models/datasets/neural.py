"""Neurons of a hand that reaches."""

from __future__ import annotations

import math
from typing import Literal, overload

import torch
from torch import Tensor

from pyro_lebm.series import Series

from .truth import Truth

DURATION = (0.6, 1.2)  # of a reach, in seconds
JITTER = 0.01  # of the position
MEAN_RATE = (5.0, 20.0)  # Hz, nearly: of a neuron whose log rate is Gaussian
DEPTH = (0.3, 0.6)  # of tuning, per standard deviation of one coordinate
# Standard deviations of a coordinate along such reaches, by long simulation.
POSITION_SCALE, VELOCITY_SCALE = 0.51, 1.12


@overload
def reaching(
    n: int = ...,
    *,
    neurons: int = ...,
    points: int = ...,
    bin_width: float = ...,
    seed: int = ...,
    system_seed: int = ...,
    dtype: torch.dtype = ...,
    truth: Literal[False] = ...,
) -> Series: ...
@overload
def reaching(
    n: int = ...,
    *,
    neurons: int = ...,
    points: int = ...,
    bin_width: float = ...,
    seed: int = ...,
    system_seed: int = ...,
    dtype: torch.dtype = ...,
    truth: Literal[True],
) -> tuple[Series, Truth]: ...
def reaching(
    n: int = 300,
    *,
    neurons: int = 40,
    points: int = 60,
    bin_width: float = 0.05,
    seed: int = 0,
    system_seed: int = 0,
    dtype: torch.dtype = torch.float32,
    truth: bool = False,
) -> Series | tuple[Series, Truth]:
    r"""Spike counts of neurons tuned to a cursor's movement, and where it is: neural decoding.

    .. math:: \log \lambda_d = c_d + a_d \, \frac{|v|}{s_v} \cos(\angle v - \alpha_d)
              + b_d \, \frac{|p|}{s_p} \cos(\angle p - \beta_d)

    The cursor goes from target to target, all U(-1, 1)^2, each way in U(.6, 1.2) s with least jerk
    (Flash & Hogan 1985), and a trial begins amid a reach. Neurons are cosine-tuned to velocity v
    (Georgopoulos et al. 1982) and to position p, with preferred directions of their own, depths a
    and b ~ U(.3, .6), mean rates of about U(5, 20) Hz, and Poisson counts. Position from spikes:
    hide the last two features, ``series.values[..., -2:]``, and predict them.

    Args:
        n: number of trials.
        neurons: how many.
        points: number of bins; times are their starts.
        bin_width: in seconds.
        seed: of the trials, a generator of its own.
        system_seed: of the neurons. Training and test data share it and differ in ``seed``.
        dtype: of times and values.
        truth: also return ``"position"`` and ``"velocity"`` ``(n, points, 2)`` at the times, per
            second, and ``"rates"`` ``(n, points, neurons)``, the expected counts in each bin.

    Returns:
        A fully observed series, times ``(points,)`` in seconds, values ``(n, points, neurons +
        2)``: the counts, then the position with Gaussian noise of standard deviation .01.

    Raises:
        ValueError: fewer than 1 trial or neuron or 2 points, a width that is not positive.

    Example:
        >>> series = reaching(5)
        >>> hidden = series.mask.clone()
        >>> hidden[..., -2:] = False
        >>> Series(series.times, series.values, hidden)
        Series(N=5, T=60, D=42, observed 12000 of 12600 entries)
    """
    for name, size, least in (("n", n, 1), ("neurons", neurons, 1), ("points", points, 2)):
        if size < least:
            raise ValueError(f"{name}: expected at least {least}, got {size}")
    if not 0 < bin_width < math.inf:
        raise ValueError(f"bin_width: expected a positive number of seconds, got {bin_width}")
    generator = torch.Generator().manual_seed(seed)
    times = bin_width * torch.arange(points, dtype=torch.float64)
    position, velocity = _movement(n, times, generator)
    rates = bin_width * _log_rates(position, velocity, neurons, system_seed).exp()
    counts = torch.poisson(rates, generator=generator)
    noise = torch.randn(position.shape, generator=generator, dtype=torch.float64)
    values = torch.cat([counts, position + JITTER * noise], -1)
    series = Series(times.to(dtype), values.to(dtype))
    if not truth:
        return series
    found = {"position": position, "velocity": velocity, "rates": rates}
    return series, {name: x.to(dtype) for name, x in found.items()}


def _movement(n: int, times: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Position and velocity at the times, each ``(n, T, 2)``."""
    shortest, longest = DURATION
    reaches = math.ceil(float(times[-1]) / shortest) + 2
    targets = 2 * torch.rand(n, reaches + 1, 2, generator=generator, dtype=torch.float64) - 1
    uniform = torch.rand(n, reaches + 1, generator=generator, dtype=torch.float64)
    duration = shortest + (longest - shortest) * uniform[:, 1:]
    # The first has begun some part of its time ago.
    end = duration.cumsum(-1) - uniform[:, :1] * duration[:, :1]
    current = torch.searchsorted(end, times.expand(n, -1).contiguous(), right=True)
    length = duration.gather(1, current)
    s = ((times - end.gather(1, current)) / length + 1)[..., None]
    rows = torch.arange(n)[:, None]
    origin, way = targets[rows, current], targets[rows, current + 1] - targets[rows, current]
    position = origin + way * s**3 * (10 - 15 * s + 6 * s**2)
    return position, way * 30 * s**2 * (1 - s) ** 2 / length[..., None]


def _log_rates(position: Tensor, velocity: Tensor, neurons: int, system_seed: int) -> Tensor:
    """Log Hz, ``(n, T, neurons)``."""
    generator = torch.Generator().manual_seed(system_seed)
    uniform = torch.rand(5, neurons, generator=generator, dtype=torch.float64)
    depth = DEPTH[0] + (DEPTH[1] - DEPTH[0]) * uniform[:2]
    angle = 2 * math.pi * uniform[2:4]
    # |v| cos(angle between) is the product with the preferred direction
    tuning = depth[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    low, high = MEAN_RATE
    mean_rate = low + (high - low) * uniform[4]
    modulation = velocity / VELOCITY_SCALE @ tuning[0] + position / POSITION_SCALE @ tuning[1]
    return mean_rate.log() - depth.square().sum(0) / 2 + modulation
