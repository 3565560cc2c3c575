"""Runge-Kutta steps, cubic-Hermite dense output, and torchdiffeq's adaptive solvers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Field = Callable[[Tensor, Tensor], Tensor]
Step = Callable[[Field, list[Tensor], Tensor, Tensor, float], Tensor]


class SolverError(ArithmeticError, ValueError):
    """A solver gave up on the field as it is now.

    An ArithmeticError, for a training that undoes the step behind it; a ValueError, as the
    tolerance may be what asks for too much.
    """


@dataclass(frozen=True)
class FixedMethod:
    """One explicit Runge-Kutta step, and the order of the error of its dense output."""

    step: Step
    nodes: tuple[float, ...]  # stage times after the first, as fractions of the step
    order: int


def _rk4(field: Field, t: list[Tensor], z: Tensor, k1: Tensor, h: float) -> Tensor:
    k2 = field(t[0], torch.add(z, k1, alpha=0.5 * h))
    y3 = torch.add(z, k2, alpha=0.5 * h)
    k3 = field(t[0], y3)
    y4 = torch.add(z, k3, alpha=h)
    k4 = field(t[1], y4)
    # lerp(y3, y4, 1/3) = z + h/3 (k2 + k3): one operation where plain sums take two.
    return torch.lerp(y3, y4, 1.0 / 3.0).add(k1, alpha=h / 6.0).add(k4, alpha=h / 6.0)


def _heun(field: Field, t: list[Tensor], z: Tensor, k1: Tensor, h: float) -> Tensor:
    y2 = torch.add(z, k1, alpha=h)
    k2 = field(t[0], y2)
    # lerp(z, y2, 1/2) = z + h/2 k1.
    return torch.lerp(z, y2, 0.5).add(k2, alpha=0.5 * h)


# Dormand & Prince (1980): the stages of the fifth-order solution.
_DOPRI5 = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)


def _dopri5(field: Field, t: list[Tensor], z: Tensor, k1: Tensor, h: float) -> Tensor:
    slopes = [k1]
    for i, row in enumerate(_DOPRI5):
        y = z
        for weight, k in zip(row, slopes, strict=True):
            y = torch.add(y, k, alpha=weight * h) if weight else y
        if i < len(_DOPRI5) - 1:
            slopes.append(field(t[i], y))
    return y


FIXED = {
    "rk4": FixedMethod(_rk4, (0.5, 1.0), 4),
    "heun": FixedMethod(_heun, (1.0,), 2),
    # Fifth order at the nodes; the cubic between them has an error of fourth order.
    "dopri5_fixed": FixedMethod(_dopri5, (0.2, 0.3, 0.8, 8 / 9, 1.0), 4),
}
ADAPTIVE = ("dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun")
# How torchdiffeq's assertions begin where it cannot go on.
_GIVEN_UP = ("underflow in dt", "max_num_steps exceeded", "non-finite values in state")


def integrate(
    field: Field, z0: Tensor, t0: float, h: float, steps: int, method: FixedMethod
) -> tuple[list[Tensor], list[Tensor]]:
    """Nodes z_0 .. z_K of a uniform grid and the slopes there, K + 1 tensors each."""
    begin = torch.arange(steps + 1, dtype=z0.dtype, device=z0.device)
    after = torch.tensor(method.nodes, dtype=z0.dtype, device=z0.device)
    starts = (t0 + h * begin).unbind()
    stages = [row.unbind() for row in (t0 + h * (begin[:-1, None] + after)).unbind()]
    z, k = z0, first_slope(field, starts[0], z0)
    nodes, slopes = [z], [k]
    for i in range(steps):
        z = method.step(field, list(stages[i]), z, k, h)
        k = field(starts[i + 1], z)
        nodes.append(z)
        slopes.append(k)
    return nodes, slopes


def first_slope(field: Field, t: Tensor, z0: Tensor) -> Tensor:
    """The field at the start, its shape checked (later evaluations are trusted)."""
    slope = field(t, z0)
    if not isinstance(slope, Tensor):
        raise TypeError(f"field: expected a torch.Tensor, got {type(slope).__name__}")
    if slope.shape != z0.shape:
        raise ValueError(
            f"field: expected dz/dt of the shape of z, {tuple(z0.shape)}, got {tuple(slope.shape)}"
        )
    return slope


def dense_output(
    nodes: list[Tensor], slopes: list[Tensor], times: Tensor, t0: float, h: float
) -> Tensor:
    """The cubic through nodes and slopes at any times: (T,) or (N, T) -> (..., N, T, L)."""
    steps = len(nodes) - 1
    s = (times - t0) / h
    k = s.floor().clamp(0, steps - 1)
    s = s - k
    r = 1.0 - s
    # Of z_k, z_k+1, f_k and f_k+1, which lie at these positions of nodes + slopes.
    weights = (r * r * (1.0 + 2.0 * s), s * s * (3.0 - 2.0 * s), h * s * r * r, -h * s * s * r)
    left = k.long()
    positions = (left, left + 1, left + steps + 1, left + steps + 2)
    blend = _shared if times.dim() == 1 else _each
    return blend(nodes + slopes, [w.to(nodes[0].dtype) for w in weights], positions)


def _shared(rows: list[Tensor], weights: list[Tensor], positions: tuple[Tensor, ...]) -> Tensor:
    """One (T, 2K + 2) matrix for all sequences: a single product, whose backward is one too."""
    # The four columns of a row differ, so a plain scatter loses nothing. (Not in place: what is
    # traced may not write into what is not.)
    zero = weights[0].new_zeros(len(weights[0]), len(rows))
    matrix = zero.scatter(1, torch.stack(positions, dim=1), torch.stack(weights, dim=1))
    path: Tensor = matrix @ torch.stack(rows).flatten(1)
    return path.view(len(path), *rows[0].shape).movedim(0, -2).contiguous()


def _each(rows: list[Tensor], weights: list[Tensor], positions: tuple[Tensor, ...]) -> Tensor:
    """Four rows picked per sequence and time: cheaper than N matrices of mostly zeros."""
    stacked = torch.stack(rows, dim=-2)
    flat = stacked.reshape(-1, stacked.shape[-1])
    sequences = stacked.shape[:-2].numel()
    offset = len(rows) * torch.arange(sequences, device=flat.device)[:, None]
    shape = (*stacked.shape[:-2], weights[0].shape[1], stacked.shape[-1])
    path = torch.zeros((), dtype=flat.dtype, device=flat.device)
    for weight, position in zip(weights, positions, strict=True):
        where = position.repeat(sequences // len(position), 1) + offset
        part = flat.index_select(0, where.flatten()).view(shape)
        path = path + part * weight[..., None]
    return path


def solve_adaptive(
    field: Field,
    z0: Tensor,
    times: Tensor,
    t0: float,
    *,
    method: str,
    rtol: float,
    atol: float,
    adjoint: bool,
) -> Tensor:
    """torchdiffeq on the sorted union of all times, then gathered: (..., N, T, L)."""
    start = torch.full((1,), t0, dtype=times.dtype, device=times.device)
    union, inverse = torch.unique(torch.cat([start, times.flatten()]), return_inverse=True)
    position = inverse[1:].reshape(times.shape)
    slope = first_slope(field, start[0], z0.detach())
    if adjoint:
        field = _as_module(field, slope)
    solution = _odeint(field, z0, union, adjoint, method=method, rtol=rtol, atol=atol)
    path = solution.movedim(0, -2)
    if times.dim() == 1:
        return path.index_select(-2, position)
    rows = position[..., None].expand(*path.shape[:-2], times.shape[1], path.shape[-1])
    return path.gather(-2, rows)


def _odeint(field: Field, z0: Tensor, times: Tensor, adjoint: bool, **options: Any) -> Tensor:
    import torchdiffeq

    solve = torchdiffeq.odeint_adjoint if adjoint else torchdiffeq.odeint
    try:
        solution: Tensor = solve(field, z0, times, **options)
    except AssertionError as reason:
        if not str(reason).startswith(_GIVEN_UP):
            raise
        raise SolverError(
            f"field: expected one that {options['method']} can follow, got: "
            f"{str(reason).partition(':')[0]}"
        ) from reason
    return solution


class _Constant(nn.Module):
    """A field without parameters of its own, as the adjoint method wants it."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return self.field(t, z)


def _as_module(field: Field, slope: Tensor) -> nn.Module:
    if isinstance(field, nn.Module):
        return field
    # The adjoint sees only a module's parameters: gradients to anything else would silently be
    # zero.
    if slope.requires_grad:
        raise ValueError(
            "field: expected an nn.Module for adjoint=True, as this callable depends on tensors "
            "that require gradients, which the adjoint method would lose; "
            f"got {type(field).__name__}"
        )
    return _Constant(field)
