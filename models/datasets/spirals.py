"""Spirals in the plane, irregularly sampled, of two directions."""

from __future__ import annotations

import math
from typing import Literal, overload

import torch
from torch import Tensor

from pyro_lebm.series import Series

from .truth import Truth

END, TURNS = 5.0, 2.0
RADIUS, GROWTH = (0.2, 0.5), (0.1, 0.2)


@overload
def spirals(
    n: int = ...,
    *,
    points: int = ...,
    noise: float = ...,
    seed: int = ...,
    dtype: torch.dtype = ...,
    truth: Literal[False] = ...,
) -> Series: ...
@overload
def spirals(
    n: int = ...,
    *,
    points: int = ...,
    noise: float = ...,
    seed: int = ...,
    dtype: torch.dtype = ...,
    truth: Literal[True],
) -> tuple[Series, Truth]: ...
def spirals(
    n: int = 500,
    *,
    points: int = 50,
    noise: float = 0.1,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    truth: bool = False,
) -> Series | tuple[Series, Truth]:
    r"""Archimedean spirals, half of them clockwise (after Chen et al. 2018, arXiv 1806.07366).

    .. math:: x(t) = (a + b t) \, (\cos \theta, \sin \theta) + \text{noise}, \qquad
              \theta(t) = \varphi \pm 4 \pi t / 5

    outwards, two turns in 5 units of time, - where clockwise, with a ~ U(.2, .5), b ~ U(.1, .2) and
    phi ~ U(0, 2 pi) of each sequence's own. The paper's own spirals have the same two directions
    and no spread of parameters; ours, so that there is something to infer, have one.

    Args:
        n: number of sequences; of an odd one, one more is clockwise.
        points: time points of each sequence: 0 and ``points - 1`` sorted draws of U[0, 5], its own.
        noise: standard deviation; the spirals end at a radius of .7 to 1.5.
        seed: of a generator of its own; the global one is not touched.
        dtype: of times and values.
        truth: also return ``{"path": (n, points, 2)}``, without noise, ``{"clockwise": (n,)}``,
            bool, and a, b and phi, ``(n,)``, as ``"radius"``, ``"growth"`` and ``"phase"``.

    Returns:
        A fully observed series with times ``(n, points)``, values ``(n, points, 2)``.

    Raises:
        ValueError: fewer than 1 sequence or 2 points, negative noise.

    Example:
        >>> series, truth = spirals(10, truth=True)
        >>> series, truth["clockwise"].sum().item()
        (Series(N=10, T=50, D=2, observed 1000 of 1000 entries), 5)
    """
    if n < 1:
        raise ValueError(f"n: expected at least 1 sequence, got {n}")
    if points < 2:
        raise ValueError(f"points: expected at least 2, got {points}")
    if not noise >= 0:
        raise ValueError(f"noise: expected at least 0, got {noise}")
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator, dtype=torch.float64)

    # Drawn in double whatever dtype is asked for, so that a seed means the same data in both.
    clockwise = torch.randperm(n, generator=generator) % 2 == 0
    drawn = {
        "radius": uniform(*RADIUS),
        "growth": uniform(*GROWTH),
        "phase": uniform(0.0, 2 * math.pi),
    }
    times = _times(n, points, generator)
    sign = torch.where(clockwise, -1.0, 1.0).double()[:, None]
    angle = drawn["phase"][:, None] + sign * (2 * math.pi * TURNS / END) * times
    radius = drawn["radius"][:, None] + drawn["growth"][:, None] * times
    path = radius[..., None] * torch.stack([angle.cos(), angle.sin()], -1)
    values = path + noise * torch.randn(path.shape, generator=generator, dtype=torch.float64)
    series = Series(times.to(dtype), values.to(dtype))
    if not truth:
        return series
    kept = {name: x.to(dtype) for name, x in {**drawn, "path": path}.items()}
    return series, {**kept, "clockwise": clockwise}


def _times(n: int, points: int, generator: torch.Generator) -> Tensor:
    """Grids of 0 and sorted draws, ``(n, points)``, that increase in single precision too."""
    times = torch.zeros(n, points, dtype=torch.float64)
    rows = torch.arange(n)
    while len(rows):
        draws = torch.rand(len(rows), points - 1, generator=generator, dtype=torch.float64)
        times[rows, 1:] = END * draws.sort(-1).values
        # Two draws may round to one number: rare, then the whole sequence is drawn again.
        rows = (times.float().diff(dim=-1) <= 0).any(-1).nonzero().flatten()
    return times
