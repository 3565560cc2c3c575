"""Videos of a ball that bounces in a box."""

from __future__ import annotations

import math
from typing import Literal, overload

import torch
from torch import Tensor

from pyro_lebm.series import Series

from .truth import Truth

SIDE = 28  # pixels
HALF, RADIUS = 5.0, 1.0  # of the box and of the ball
SUBSTEPS = 10  # a frame


@overload
def bouncing_balls(
    n: int = ...,
    *,
    frames: int = ...,
    friction: tuple[float, float] = ...,
    gravity: float = ...,
    seed: int = ...,
    truth: Literal[False] = ...,
) -> Series: ...
@overload
def bouncing_balls(
    n: int = ...,
    *,
    frames: int = ...,
    friction: tuple[float, float] = ...,
    gravity: float = ...,
    seed: int = ...,
    truth: Literal[True],
) -> tuple[Series, Truth]: ...
def bouncing_balls(
    n: int = 1000,
    *,
    frames: int = 20,
    friction: tuple[float, float] = (0.0, 0.02),
    gravity: float = 0.0,
    seed: int = 0,
    truth: bool = False,
) -> Series | tuple[Series, Truth]:
    r"""A ball of radius 1 in the box [-5, 5]^2, seen in 28 x 28 pixels (after Auzina et al. 2023).

    It starts in [-3, 3]^2 with speed 1 a frame in a random direction, loses ``friction`` of its
    speed each frame until it rests, and bounces off the walls without loss. A pixel at distance d
    of the centre shows :math:`\exp(-(d^2 / r^2)^4)`. (MoNODE, arXiv 2306.08453.)

    Args:
        n: number of sequences.
        frames: of a sequence; times are 0, 1, ...
        friction: between which each sequence's own is drawn, evenly; in units of speed a frame.
        gravity: downwards, in units of speed a frame; 0 but for data that is to be told apart.
        seed: of a generator of its own.
        truth: also return ``{"position": (n, frames, 2), "velocity": (n, frames, 2), "friction":
            (n,)}``, the first coordinate to the right, the second upwards.

    Returns:
        A fully observed series, values ``(n, frames, 784)`` in [0, 1], row by row from the top.

    Raises:
        ValueError: fewer than 1 sequence or 2 frames, a range of friction that is not one.

    Example:
        >>> series, truth = bouncing_balls(5, truth=True)
        >>> series
        Series(N=5, T=20, D=784, observed 78400 of 78400 entries)
        >>> bool((truth["position"].abs() <= 4).all())
        True
    """
    if n < 1 or frames < 2:
        raise ValueError(f"n, frames: expected at least 1 and 2, got {n} and {frames}")
    low, high = friction
    if not 0 <= low <= high:
        raise ValueError(f"friction: expected (low, high) with 0 <= low <= high, got {friction}")
    generator = torch.Generator().manual_seed(seed)

    def uniform(*size: int) -> Tensor:
        return torch.rand(size, generator=generator, dtype=torch.float64)

    position, angle = 6 * uniform(n, 2) - 3, 2 * math.pi * uniform(n)
    lost = low + (high - low) * uniform(n)
    velocity = torch.stack([angle.cos(), angle.sin()], -1)
    seen = [(position, velocity)]
    for _ in range(frames - 1):
        position, velocity = _next(position, velocity, gravity)
        speed = velocity.norm(dim=-1, keepdim=True)
        velocity = velocity * (1 - lost[:, None] / speed.clamp(min=1e-12)).clamp(min=0)
        seen.append((position, velocity))
    places, speeds = (torch.stack(each, 1) for each in zip(*seen, strict=True))
    values = _pictures(places).flatten(-2).float()
    series = Series(torch.arange(frames, dtype=torch.float32), values)
    if not truth:
        return series
    return series, {
        "position": places.float(),
        "velocity": speeds.float(),
        "friction": lost.float(),
    }


def _next(position: Tensor, velocity: Tensor, gravity: float) -> tuple[Tensor, Tensor]:
    """A frame later, in small steps, each mirrored at the walls."""
    room = HALF - RADIUS
    for _ in range(SUBSTEPS):
        velocity = velocity - velocity.new_tensor([0.0, gravity / SUBSTEPS])
        position = position + velocity / SUBSTEPS
        out = position.abs() > room
        position = torch.where(out, position.sign() * 2 * room - position, position)
        velocity = torch.where(out, -velocity.abs() * position.sign(), velocity)
    return position, velocity


def _pictures(position: Tensor) -> Tensor:
    """Frames ``(..., 28, 28)`` of balls at ``(..., 2)``."""
    pixel = (torch.arange(SIDE, dtype=position.dtype) + 0.5) * (2 * HALF / SIDE) - HALF
    across = (pixel - position[..., :1]).square()
    down = (-pixel - position[..., 1:]).square()  # the first row is on top
    distance = down.unsqueeze(-1) + across.unsqueeze(-2)
    return torch.exp(-((distance / RADIUS**2) ** 4))
