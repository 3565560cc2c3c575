"""Recorded programs by torch.compile."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from .engines import log
from .recorded.graph import Const, Graph, Operation, Ref, mapped
from .recorded.record import needed

BACKEND = "inductor"
MOST = 64  # compiled functions kept
aten = torch.ops.aten

_KNOWN: OrderedDict[Any, Callable[..., Any]] = OrderedDict()  # the latest used last


class Bound:
    """A program by torch.compile, with the weights and data that it had.

    Numbers are compiled in; tensors are arguments. On CUDA the compiled function is a CUDA graph.
    """

    def __init__(self, graph: Graph, example: Tensor) -> None:
        self.graph, self._device = graph, example.device
        self._tensors = [c.detach().clone() for c in graph.constants if isinstance(c, Tensor)]
        self._numbers = tuple(c for c in graph.constants if isinstance(c, float))

    def run(self, z: Tensor, gradients: bool) -> tuple[Tensor, ...]:
        """Both log densities ``(chains, *elements)``, and if asked for both gradients."""
        key = (self.graph.structure, self._numbers, z.shape, z.device, gradients)
        if key not in _KNOWN:
            count = len(self.graph.operations)
            log.info("engine: 'compile' compiles a program of %d operations for this shape", count)
            _KNOWN[key] = self._compiled(z, gradients)
            while len(_KNOWN) > MOST:
                _KNOWN.popitem(last=False)
        _KNOWN.move_to_end(key)
        with torch.no_grad():
            found = _KNOWN[key](z, *self._tensors)
        # the next run of a CUDA graph writes over the results of this one
        return tuple(x.clone() for x in found) if z.is_cuda else tuple(found)

    def _compiled(self, z: Tensor, gradients: bool) -> Callable[..., Any]:
        chain = _with_gradients(self.graph) if gradients else _replayed(self.graph)
        chains = torch.func.vmap(chain, in_dims=(0, *[None] * len(self._tensors)))
        # traced to single operations here, backward passes included: nothing is left to autograd
        traced = make_fx(chains)(z, *self._tensors)
        mode = "reduce-overhead" if z.is_cuda else None
        compiled: Callable[..., Any] = torch.compile(
            traced, fullgraph=True, dynamic=False, backend=BACKEND, mode=mode
        )
        return compiled


def _with_gradients(graph: Graph) -> Callable[..., tuple[Tensor, ...]]:
    both = _replayed(graph)
    operations, result = needed(graph.operations, graph.result[0])
    alone = _replayed(Graph(operations, (result,), graph.input_form, graph.constants))

    def function(z: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        def of_likelihood(z: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            found = both(z, *tensors)
            return found[1].sum(), found

        likelihood, found = torch.func.grad(of_likelihood, has_aux=True)(z)
        prior = torch.func.grad(lambda z: alone(z, *tensors)[0].sum())(z)
        return *found, prior, likelihood

    return function


def _replayed(graph: Graph) -> Callable[..., tuple[Tensor, ...]]:
    """The graph as a function of its input and of the tensors among its constants."""
    operations = [o._replace(op=_functional(o)) for o in graph.operations]

    def function(z: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        known: dict[Any, Any] = {Ref(-1): z, **_constants(graph.constants, tensors)}

        def value(leaf: Any) -> Any:
            return known[leaf] if isinstance(leaf, Ref | Const) else leaf

        for place, o in enumerate(operations):
            known[Ref(place)] = o.op(*mapped(o.args, value), **mapped(o.kwargs, value))
        return tuple(value(leaf) for leaf in graph.result)

    return function


def _constants(constants: Sequence[Any], tensors: Sequence[Tensor]) -> dict[Const, Any]:
    rest = iter(tensors)
    return {
        Const(i): next(rest) if isinstance(value, Tensor) else value
        for i, value in enumerate(constants)
    }


def _functional(operation: Operation) -> Any:
    """Not in place: what is written to is noted anew, under the result."""
    schema = getattr(operation.op, "_schema", None)
    if schema is None or not schema.is_mutable:
        return operation.op
    return getattr(getattr(aten, operation.name), operation.op._overloadname)
