"""Gradients of a trajectory whose inner values are computed twice, so as not to be kept."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils.checkpoint import checkpoint

from ..frozen import held
from .solvers import Field, FixedMethod, dense_output, integrate


def possible(z: Tensor, function: Callable[..., Any]) -> bool:
    """Whether what a function makes of z can be computed again.

    Not where no gradient is recorded, nor under a `torch.func` transform or a tracer, which know
    nothing of what autograd keeps; nor where a module of the function has attributes that Pyro
    samples (`PyroSample`), and would sample again.
    """
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(z)
    traced = get_proxy_mode() is not None or torch.compiler.is_compiling()
    if not torch.is_grad_enabled() or wrapped or traced:
        return False
    return not any(isinstance(m, PyroModule) and m._pyro_samples for m in _modules(function))


def _modules(function: Callable[..., Any]) -> list[nn.Module]:
    return [module for top in held(function) for module in top.modules()]


def again(function: Callable[..., Any], *inputs: Tensor, of: Callable[..., Any]) -> Any:
    """What a function returns; its backward pass keeps the inputs alone and computes the rest anew.

    Gradients reach whatever the function's variables are, inputs or not.

    Args:
        function: of tensors.
        inputs: what it is given.
        of: a network; the second time, it has the parameters that it has now, whether or not a
            block that held them fixed (`frozen`) is over by then.
    """
    fixed = [(module, dict(module._parameters)) for module in _modules(of) if module._parameters]
    runs = itertools.count()

    def run(*inputs: Tensor) -> Any:
        if next(runs) == 0:
            return function(*inputs)
        # what was not refused the first time is not the second
        with _holding(fixed), pyro.validation_enabled(False):
            return function(*inputs)

    return checkpoint(run, *inputs, use_reentrant=False)


@contextmanager
def _holding(fixed: list[tuple[nn.Module, dict[str, Any]]]) -> Iterator[None]:
    now = [dict(module._parameters) for module, _ in fixed]
    try:
        for module, parameters in fixed:
            module._parameters.update(parameters)
        yield
    finally:
        for (module, _), parameters in zip(fixed, now, strict=True):
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

    def segment(z: Tensor, first: int, count: int) -> tuple[Tensor, Tensor]:
        """The state after some steps, and the path at the times among them."""
        start = begin + first * h
        nodes, slopes = integrate(field, z, start, h, count, method)
        at = times.clamp(start, start + count * h)  # nothing is read off far outside the nodes
        inside = (node >= first) & (node < first + count)
        if times.dim() == 1:
            return nodes[-1], dense_output(nodes, slopes, at[inside], start, h)
        found = dense_output(nodes, slopes, at, start, h)
        return nodes[-1], torch.where(inside.unsqueeze(-1), found, 0.0)

    parts: list[Tensor] = []
    for first in range(0, steps, size):
        z0, part = again(
            partial(segment, first=first, count=min(size, steps - first)), z0, of=field
        )
        if times.dim() == 2 and parts:  # each sequence has times of its own: zero at the others'
            parts[0] = parts[0] + part
        else:
            parts.append(part)
    if times.dim() == 2:
        return parts[0]
    order = torch.argsort(torch.div(node, size, rounding_mode="floor"), stable=True)
    return torch.cat(parts, -2).index_select(-2, torch.argsort(order))
