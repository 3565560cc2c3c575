"""Latent trajectories: dz/dt = field(t, z) from z(t0) = z0, read out at irregular times."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pyro_lebm.trajectories.recompute import path_in_segments, possible
from pyro_lebm.trajectories.solvers import (
    ADAPTIVE,
    FIXED,
    Field,
    dense_output,
    integrate,
    solve_adaptive,
)
from pyro_lebm.trajectories.solvers import SolverError as SolverError

FIRST_STEPS = 8
MOST_STEPS = 4096


def trajectory(
    field: Field,
    z0: Tensor,
    times: Tensor,
    *,
    t0: float | Tensor | None = None,
    method: str = "rk4",
    step_size: float | None = None,
    tolerance: float = 1e-3,
    rtol: float = 1e-3,
    atol: float = 1e-4,
    adjoint: bool = False,
    recompute: bool = False,
) -> Tensor:
    """Solve dz/dt = field(t, z), z(t0) = z0, and return z at ``times``, in any order.

    The fixed methods (``rk4``, ``heun``, ``dopri5_fixed``) take uniform steps, not longer than
    ``step_size``, from t0 to the last time, and read every time off the cubic Hermite polynomial
    through the nodes and their slopes (Hairer, Norsett & Wanner 1993, II.6): the cost barely
    depends on how many times are asked for. torchdiffeq's adaptive methods go by their own names
    (Chen et al. 2018, arXiv 1806.07366).

    Args:
        field: ``field(t, z) -> dz/dt`` of z's shape; t is a 0-dimensional tensor.
        z0: ``(..., N, L)``, or ``(..., L)`` with shared times; the state at t0.
        times: ``(T,)`` shared, or ``(N, T)`` per sequence; finite, none before t0; integers are
            taken in z0's dtype. Data: never differentiated.
        t0: the time of z0; None: the earliest of ``times``. Give it when minibatches start at
            different times.
        method: a fixed method, or one of torchdiffeq's adaptive ones.
        step_size: longest step of a fixed method, in units of ``times``; None: :func:`choose_step`
            now, at several times the cost of a solve. Must be given under ``torch.func.vmap``.
        tolerance: passed to :func:`choose_step`.
        rtol, atol: tolerances of the adaptive methods.
        adjoint: constant-memory gradients of the adaptive methods, by the adjoint equation.
        recompute: gradients of a fixed method that keep the states between segments of the path
            alone and compute the rest anew: memory grows as the square root of the number of steps,
            at a third more time. Under `torch.func` transforms, and for a field with `PyroSample`
            attributes, everything is kept.

    Returns:
        ``(..., N, T, L)`` (``(..., T, L)`` for z0 ``(..., L)`` and shared times).

    Raises:
        ValueError: an unknown method, a time that is not finite or before t0, shapes that
            disagree, a field that returns another shape, a step size <= 0.
        SolverError: no step within bounds reaches the tolerance, or an adaptive method cannot go
            on; an ArithmeticError and a ValueError.
        FloatingPointError: see :func:`choose_step`.

    Example:
        >>> import torch
        >>> path = trajectory(
        ...     lambda t, z: -z, torch.ones(3, 1), torch.tensor([0.0, 1.0]), step_size=0.1
        ... )
        >>> path.shape, round(path[0, 1, 0].item(), 3)
        (torch.Size([3, 2, 1]), 0.368)
    """
    _check_shapes(z0, times)
    times = _floating(times, z0)
    _check_method(method, adjoint, recompute)
    begin, end = _span(times, t0)
    if end == begin:
        return z0.unsqueeze(-2).expand(*z0.shape[:-1], times.shape[-1], z0.shape[-1])
    if method in ADAPTIVE:
        return solve_adaptive(
            field, z0, times, begin, method=method, rtol=rtol, atol=atol, adjoint=adjoint
        )
    if step_size is None:
        step_size = choose_step(field, z0, times, t0=begin, method=method, tolerance=tolerance)
    if not step_size > 0.0:
        raise ValueError(f"step_size: expected a number > 0, got {step_size}")
    # The slack keeps span / (span / K) at K steps in spite of rounding.
    steps = max(1, math.ceil((end - begin) / step_size - 1e-6))
    if recompute and possible(z0, field):
        h = (end - begin) / steps
        return path_in_segments(field, z0, times, begin, h, steps, FIXED[method])
    return _solve(field, z0, times, begin, end, steps, method)


def choose_step(
    field: Field,
    z0: Tensor,
    times: Tensor,
    *,
    t0: float | Tensor | None = None,
    method: str = "rk4",
    tolerance: float = 1e-3,
) -> float:
    """The longest uniform step, found by step doubling, whose trajectory is within ``tolerance``.

    With K and 2K steps of a method of order p, the error of the coarser solution is estimated by
    Richardson's max |z_K - z_2K| / (1 + |z_2K|) / (1 - 2^-p) over all ``times`` and a few early
    ones (steps far too long damp a fast field to nothing, and agree on it later); K doubles until
    that is below ``tolerance``, and then is reduced to what the order predicts, where a last solve
    confirms it.

    Args:
        field, z0, times, t0: as for :func:`trajectory`.
        method: a fixed method.
        tolerance: largest error allowed, relative to 1 + |z|.

    Returns:
        The step, in units of ``times``.

    Raises:
        SolverError: not converged within 4096 steps; the message has the error reached.
        FloatingPointError: the path is not finite, however small the step.

    Example:
        >>> import torch
        >>> step = choose_step(lambda t, z: -z, torch.ones(3, 1), torch.linspace(0, 5, 50))
        >>> 0.1 < step <= 1.0
        True
    """
    _check_shapes(z0, times)
    times = _floating(times, z0)
    if method not in FIXED:
        raise ValueError(
            f"method: expected a fixed method, one of {', '.join(FIXED)}, got {method!r}"
        )
    if not tolerance > 0.0:
        raise ValueError(f"tolerance: expected a number > 0, got {tolerance}")
    begin, end = _span(times, t0)
    if end == begin:
        return 1.0
    z0, watched = z0.detach(), _watched(times, begin, end)

    def solve(steps: int) -> Tensor:
        return _solve(field, z0, watched, begin, end, steps, method)

    with torch.no_grad():
        steps = _refine(solve, FIXED[method].order, tolerance)
    return (end - begin) / steps


def step_error(
    field: Field,
    z0: Tensor,
    times: Tensor,
    step_size: float,
    *,
    t0: float | Tensor | None = None,
    method: str = "rk4",
) -> float:
    """The error of a fixed method's step, estimated by one doubling as in :func:`choose_step`.

    Two solves tell whether a step may be kept, where a search takes many. Not finite where the path
    is not.

    Example:
        >>> import torch
        >>> error = step_error(lambda t, z: -z, torch.ones(3, 1), torch.linspace(0, 5, 50), 0.1)
        >>> 0 < error < 1e-5
        True
    """
    times = _floating(times, z0)
    begin, end = _span(times, t0)
    steps = max(1, math.ceil((end - begin) / step_size - 1e-6))
    watched, tableau = _watched(times, begin, end), FIXED[method]
    with torch.no_grad():
        coarse, fine = (
            _solve(field, z0.detach(), watched, begin, end, k, method) for k in (steps, 2 * steps)
        )
    return _difference(coarse, fine) / (1.0 - 2.0**-tableau.order)


def _watched(times: Tensor, begin: float, end: float) -> Tensor:
    early = begin + (end - begin) * 0.5 ** torch.arange(1.0, math.log2(MOST_STEPS) + 1)
    return torch.cat([times, early.to(times).expand(*times.shape[:-1], -1)], -1)


def _refine(solve: Callable[[int], Tensor], order: int, tolerance: float) -> int:
    scale = 1.0 / (1.0 - 2.0**-order)
    steps, coarse, earlier = FIRST_STEPS, solve(FIRST_STEPS), math.inf
    while True:
        fine = solve(2 * steps)
        error = scale * _difference(coarse, fine)
        if error <= tolerance:
            break
        if 4 * steps > MOST_STEPS:
            _give_up(error, tolerance, 2 * steps)
        steps, coarse, earlier = 2 * steps, fine, error
    if not math.isfinite(earlier):
        return steps
    # The coarser grid failed: what the order predicts lies between it and this one.
    fewer: int = math.ceil(steps / 2 * (earlier / tolerance) ** (1.0 / order) * 1.02)
    if fewer < steps and _difference(solve(fewer), fine) <= tolerance:
        return fewer
    return steps


def _difference(coarse: Tensor, fine: Tensor) -> float:
    error = ((coarse - fine).abs() / (1.0 + fine.abs())).max()
    try:
        value = float(error)
    except RuntimeError as reason:
        raise ValueError(
            "step_size: expected a number under torch.func.vmap, got None; "
            "call choose_step beforehand"
        ) from reason
    return value if math.isfinite(value) else math.inf


def _give_up(error: float, tolerance: float, steps: int) -> None:
    if math.isinf(error):
        raise FloatingPointError(
            f"field: expected a finite path, got NaN or inf even with {steps} steps"
        )
    raise SolverError(
        f"tolerance: expected to reach {tolerance:g} within {MOST_STEPS} steps, "
        f"got an error of {error:.3g} with {steps} steps"
    )


def _solve(
    field: Field, z0: Tensor, times: Tensor, begin: float, end: float, steps: int, method: str
) -> Tensor:
    h = (end - begin) / steps
    nodes, slopes = integrate(field, z0, begin, h, steps, FIXED[method])
    return dense_output(nodes, slopes, times, begin, h)


def _check_shapes(z0: Tensor, times: Tensor) -> None:
    if not z0.is_floating_point():
        raise TypeError(f"z0: expected a floating dtype, got {z0.dtype}")
    if z0.dim() < 1 or times.dim() not in (1, 2) or times.numel() == 0:
        raise ValueError(
            "z0, times: expected z0 (..., N, L) and times (T,) or (N, T) with T at least 1, "
            f"got {tuple(z0.shape)} and {tuple(times.shape)}"
        )
    if times.dim() == 2 and (z0.dim() < 2 or z0.shape[-2] != times.shape[0]):
        raise ValueError(
            f"times: expected (N, T) with N the second last size of z0 {tuple(z0.shape)}, "
            f"got {tuple(times.shape)}"
        )


def _floating(times: Tensor, z0: Tensor) -> Tensor:
    """A start given as .5 would be cut to 0 by integer times."""
    return times if times.is_floating_point() else times.to(z0.dtype)


def _check_method(method: str, adjoint: bool, recompute: bool) -> None:
    if method not in FIXED and method not in ADAPTIVE:
        raise ValueError(
            f"method: expected one of {', '.join((*FIXED, *ADAPTIVE))}, got {method!r}"
        )
    if adjoint and method not in ADAPTIVE:
        raise ValueError(
            f"adjoint: expected an adaptive method ({', '.join(ADAPTIVE)}), got {method!r}"
        )
    if recompute and method not in FIXED:
        raise ValueError(
            f"recompute: expected a fixed method ({', '.join(FIXED)}), got {method!r}; adaptive "
            "ones have adjoint=True"
        )


def _span(times: Tensor, t0: float | Tensor | None) -> tuple[float, float]:
    """First and last time as Python numbers: the loop over steps never waits for the device."""
    low, high = (float(x) for x in torch.aminmax(times.detach()))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"times: expected finite numbers, got them from {low:g} to {high:g}")
    # Rounded to the times' own precision: 0.1 as a double lies below 0.1 as a float.
    begin = low if t0 is None else float(torch.as_tensor(t0, dtype=times.dtype))
    if not math.isfinite(begin):
        raise ValueError(f"t0: expected a finite number, got {begin:g}")
    if low < begin:
        raise ValueError(f"times: expected none before t0 = {begin:g}, got {low:g}")
    return begin, high


def interpolate(times: Tensor, values: Tensor) -> Callable[[Tensor], Tensor]:
    """Linear interpolation of covariates, constant outside the range of ``times``.

    Args:
        times: ``(T,)`` shared or ``(N, T)`` per sequence, increasing (a tail may repeat).
        values: ``(N, T, C)``.

    Returns:
        ``control(t) -> (N, C)`` for a 0-dimensional tensor t, so that a field driven by covariates
        is ``lambda t, z: field(t, z, control(t))``.

    Example:
        >>> import torch
        >>> control = interpolate(torch.tensor([0.0, 2.0]), torch.tensor([[[1.0], [3.0]]]))
        >>> control(torch.tensor(0.5)).tolist()
        [[1.5]]
    """
    if values.dim() != 3 or times.shape not in (values.shape[1:2], values.shape[:2]):
        raise ValueError(
            "times, values: expected (T,) or (N, T) and (N, T, C), "
            f"got {tuple(times.shape)} and {tuple(values.shape)}"
        )
    if times.shape[-1] == 1:
        return lambda t: values[:, 0]
    times = times.detach().to(values.dtype)
    gap = times.diff(dim=-1)[..., None]
    # A padded tail repeats its last time: no gap, no slope.
    slopes = torch.where(
        gap > 0, values.diff(dim=1) / gap.clamp(min=1e-30), torch.zeros_like(values[:, 1:])
    )
    rows = times.expand(values.shape[:2]).contiguous()
    each = torch.arange(len(values), device=values.device)

    def control(t: Tensor) -> Tensor:
        at = t.to(rows.dtype).clamp(rows[:, 0], rows[:, -1])[:, None]
        k = (torch.searchsorted(rows, at) - 1).clamp(min=0).squeeze(-1)
        return values[each, k] + (at - rows[each, k, None]) * slopes[each, k]

    return control
