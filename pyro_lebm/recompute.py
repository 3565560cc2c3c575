"""Gradients of a trajectory whose inner values are computed twice, so as not to be kept."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils.checkpoint import checkpoint

from .solvers import Field, FixedMethod, dense_output, integrate


def possible(z: Tensor) -> bool:
    """Whether what follows from z can be computed again.

    Not where no gradient is recorded, nor under a `torch.func` transform or a tracer, which know
    nothing of what autograd keeps.
    """
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(z)
    traced = get_proxy_mode() is not None or torch.compiler.is_compiling()
    return torch.is_grad_enabled() and not (wrapped or traced)


def again(function: Callable[..., Any], *inputs: Tensor, modules: Sequence[nn.Module] = ()) -> Any:
    """What a function returns; its backward pass keeps the inputs alone and computes the rest anew.

    Gradients reach whatever the function's variables are, inputs or not.

    Args:
        function: of tensors.
        inputs: what it is given.
        modules: the second time, these have the parameters that they have now, whether or not a
            block that held them fixed (`frozen`) is over by then.
    """
    held = [(m, dict(m._parameters)) for top in modules for m in top.modules() if m._parameters]
    runs = itertools.count()

    def run(*inputs: Tensor) -> Any:
        if next(runs) == 0:
            return function(*inputs)
        # what was not refused the first time is not the second
        with _holding(held), pyro.validation_enabled(False):
            return function(*inputs)

    return checkpoint(run, *inputs, use_reentrant=False)


@contextmanager
def _holding(held: list[tuple[nn.Module, dict[str, Any]]]) -> Iterator[None]:
    now = [dict(module._parameters) for module, _ in held]
    try:
        for module, parameters in held:
            module._parameters.update(parameters)
        yield
    finally:
        for (module, _), parameters in zip(held, now, strict=True):
            module._parameters.update(parameters)


def path_in_segments(
    field: Field,
    z0: Tensor,
    times: Tensor,
    begin: float,
    h: float,
    steps: int,
    method: FixedMethod,
) -> Tensor:
    r"""`integrate` and `dense_output`, keeping the states between :math:`\sqrt K` segments alone.

    Of K steps a backward pass then holds :math:`\sqrt K` states and the inner values of
    :math:`\sqrt K` steps, for a second run of the field (Chen et al. 2016, arXiv 1604.06174).

    Returns:
        the path at ``times``, ``(..., N, T, L)``.
    """
    size = math.ceil(math.sqrt(steps))
    node = ((times - begin) / h).floor().clamp(0, steps - 1)
    read = _shared if times.dim() == 1 else _each
    networks = [field] if isinstance(field, nn.Module) else []
    parts: list[Tensor] = []
    for first in range(0, steps, size):
        count = min(size, steps - first)
        start = begin + first * h
        inside = (node >= first) & (node < first + count)
        segment = partial(_segment, field, start, h, count, method, times, inside, read)
        z0, part = again(segment, z0, modules=networks)
        parts.append(part)
    if times.dim() == 2:
        return _sum(parts)
    order = torch.argsort(torch.div(node, size, rounding_mode="floor"), stable=True)
    return torch.cat(parts, -2).index_select(-2, torch.argsort(order))


def _segment(
    field: Field,
    start: float,
    h: float,
    count: int,
    method: FixedMethod,
    times: Tensor,
    inside: Tensor,
    read: Callable[..., Tensor],
    z: Tensor,
) -> tuple[Tensor, Tensor]:
    """The state after a segment, and the path at the times inside it."""
    nodes, slopes = integrate(field, z, start, h, count, method)
    at = times.clamp(start, start + count * h)  # nothing is read off far outside the nodes
    return nodes[-1], read(partial(dense_output, nodes, slopes, t0=start, h=h), at, inside)


def _shared(path: Callable[..., Tensor], times: Tensor, inside: Tensor) -> Tensor:
    return path(times=times[inside])


def _each(path: Callable[..., Tensor], times: Tensor, inside: Tensor) -> Tensor:
    found = path(times=times)
    return torch.where(inside.unsqueeze(-1), found, torch.zeros_like(found))


def _sum(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
