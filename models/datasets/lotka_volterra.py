"""Hunters and their prey."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from pyro_lebm.series import Series
from pyro_lebm.trajectories.ode import trajectory

from .truth import Truth

RANGES = {"alpha": (1.0, 3.5), "beta": (0.5, 0.6), "gamma": (1.0, 3.5), "delta": (0.2, 0.3)}


@overload
def lotka_volterra(
    n: int = ...,
    *,
    points: int = ...,
    gap: float = ...,
    noise: float = ...,
    seed: int = ...,
    truth: Literal[False] = ...,
) -> Series: ...
@overload
def lotka_volterra(
    n: int = ...,
    *,
    points: int = ...,
    gap: float = ...,
    noise: float = ...,
    seed: int = ...,
    truth: Literal[True],
) -> tuple[Series, Truth]: ...
def lotka_volterra(
    n: int = 500,
    *,
    points: int = 200,
    gap: float = 0.1,
    noise: float = 0.3,
    seed: int = 0,
    truth: bool = False,
) -> Series | tuple[Series, Truth]:
    r"""Prey and hunters, each sequence with rates of its own (after Auzina et al. 2023).

    .. math:: \dot x = \alpha x - \beta x y, \qquad \dot y = \delta x y - \gamma y

    with alpha, gamma ~ U(1, 3.5), beta ~ U(.5, .6), delta ~ U(.2, .3), a start in U(1, 5)^2, and
    Gaussian noise. (MoNODE, arXiv 2306.08453.)

    Args:
        n: number of sequences.
        points: time points, ``gap`` apart, the first at 0.
        gap: in units of time.
        noise: standard deviation, in animals.
        seed: of a generator of its own.
        truth: also return the rates ``(n,)`` by name and ``{"path": (n, points, 2)}``, without
            noise.

    Returns:
        A fully observed series, values ``(n, points, 2)``, prey first.

    Raises:
        ValueError: fewer than 1 sequence or 2 points, a gap that is not positive, negative noise.

    Example:
        >>> lotka_volterra(3, points=50)
        Series(N=3, T=50, D=2, observed 300 of 300 entries)
    """
    if n < 1 or points < 2:
        raise ValueError(f"n, points: expected at least 1 and 2, got {n} and {points}")
    if not gap > 0 or not noise >= 0:
        raise ValueError(f"gap, noise: expected more than 0 and at least 0, got {gap} and {noise}")
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand(size, generator=generator, dtype=torch.float64)

    start = uniform(1.0, 5.0, n, 2)
    rates = {name: uniform(low, high, n) for name, (low, high) in RANGES.items()}

    def field(t: Tensor, z: Tensor) -> Tensor:
        prey, hunters = z.unbind(-1)
        meet = prey * hunters
        return torch.stack(
            [
                rates["alpha"] * prey - rates["beta"] * meet,
                rates["delta"] * meet - rates["gamma"] * hunters,
            ],
            -1,
        )

    times = gap * torch.arange(points, dtype=torch.float64)
    path = trajectory(field, start, times, t0=0.0, step_size=min(gap, 0.01))
    blurred = path + noise * torch.randn(path.shape, generator=generator, dtype=torch.float64)
    series = Series(times.float(), blurred.float())
    if not truth:
        return series
    return series, {name: x.float() for name, x in {**rates, "path": path}.items()}
