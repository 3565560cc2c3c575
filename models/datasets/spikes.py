"""Spikes of neurons that Lorenz's system drives."""

from __future__ import annotations

from typing import Literal, overload

import torch

from pyro_lebm.series import Series

from .lorenz import lorenz_system
from .truth import Truth


@overload
def lorenz_spikes(
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
def lorenz_spikes(
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
def lorenz_spikes(
    n: int = 400,
    *,
    neurons: int = 30,
    points: int = 100,
    bin_width: float = 0.02,
    seed: int = 0,
    system_seed: int = 0,
    dtype: torch.dtype = torch.float32,
    truth: bool = False,
) -> Series | tuple[Series, Truth]:
    r"""Spike counts of neurons that Lorenz's system drives (after Sussillo et al. 2016).

    .. math:: x_{kd} \sim \mathrm{Poisson}(\Delta \, e^{w_d \cdot z(t_k) + c_d})

    with z a deterministic path on the attractor from a first state of each trial's own, as
    `lorenz_system` has it. (LFADS, arXiv 1608.06315; the sizes are ours.)

    Args:
        n: number of trials.
        neurons: D.
        points: number of bins; times are their starts.
        bin_width: in seconds.
        seed: of the trials, a generator of its own.
        system_seed: of the neurons. Training and test data share it and differ in ``seed``.
        dtype: of times and values.
        truth: also return ``{"rates": (n, points, neurons)}``, the expected counts in each bin, and
            ``{"path": (n, points, 3)}``, the standardised states.

    Returns:
        A fully observed series, times ``(points,)`` in seconds, values ``(n, points, neurons)``,
        counts.

    Raises:
        ValueError: fewer than 1 trial or neuron or 2 points, a width that is not positive.

    Example:
        >>> train, test = lorenz_spikes(8), lorenz_spikes(2, seed=1)
        >>> train
        Series(N=8, T=100, D=30, observed 24000 of 24000 entries)
    """
    if n < 1:
        raise ValueError(f"n: expected at least 1 trial, got {n}")
    system = lorenz_system(neurons, points=points, bin_width=bin_width, system_seed=system_seed)
    generator = torch.Generator().manual_seed(seed)
    path = system.path(system.sample_initial(n, generator))
    rates = system.rates(path)
    counts = torch.poisson(rates, generator=generator)
    series = Series(system.times.to(dtype), counts.to(dtype))
    return (series, {"rates": rates.to(dtype), "path": path.to(dtype)}) if truth else series
