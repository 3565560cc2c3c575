"""A graph of ATen operations as a function of JAX arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
import torch
from jax import lax
from torch import Tensor

from .aten import TABLE
from .aten_entries import array
from .graph import Graph, Operation, Ref, mapped
from .rolling import Loop, Slot, rolled


class UnknownOperation(NotImplementedError):
    """An operation that the table of `pyro_lebm.inference.aten` lacks."""


@dataclass(frozen=True)
class _Turn:
    """A result of one turn of a loop, not yet cut out of those of all turns."""

    all: jax.Array
    k: int


def to_jax(graph: Graph) -> Callable[[jax.Array], jax.Array]:
    """The graph as a function of its input; each loop of equal operations is one ``lax.scan``.

    Raises:
        UnknownOperation: names the operation and the site that needs it.
    """
    items = rolled(graph)
    for operation in graph.operations:
        _look_up(operation)

    def function(z: jax.Array) -> jax.Array:
        known: dict[Any, Any] = {Ref(-1): z}
        place = 0
        for item in items:
            if isinstance(item, Loop):
                known |= _scan(item, known, z)
                place = item.end
            else:
                known[Ref(place)] = _apply(item, known)
                place += 1
        result: jax.Array = jnp.asarray(_value(graph.result, known))
        return result

    return function


def _look_up(operation: Operation) -> Callable[..., Any]:
    full, short = str(operation.op).removeprefix("aten."), _short(operation)
    function = TABLE.get(full, TABLE.get(short))
    if function is None:
        raise UnknownOperation(
            f"model: site {operation.site!r} needs the operation {operation.op}, which is not in "
            "the table; write the model without it, enter it in pyro_lebm.inference.aten.TABLE, "
            "or sample with VectorizedMCMC"
        )
    return function


def _short(operation: Operation) -> str:
    packet = getattr(operation.op, "overloadpacket", operation.op)
    # in place: what is written to is noted anew, under the result
    return str(packet.__name__).removesuffix("_")


def _apply(operation: Operation, known: Mapping[Any, Any]) -> Any:
    if _short(operation) == "stack":
        return _stacked(*operation.args, known=known)
    args, kwargs = _value(operation.args, known), _value(operation.kwargs, known)
    try:
        return _look_up(operation)(*args, **kwargs)
    except UnknownOperation:
        raise
    except Exception as reason:
        raise ValueError(
            f"model: site {operation.site!r} needs the operation {operation.op} in a way that "
            f"cannot be translated ({type(reason).__name__}: {str(reason).splitlines()[0]}); "
            "write the model without it, or sample with VectorizedMCMC"
        ) from reason


def _stacked(parts: list[Any], dim: int = 0, *, known: Mapping[Any, Any]) -> jax.Array:
    """As ``stack``; successive turns of a loop, stacked already, are taken together."""
    found = [known.get(part, part) if isinstance(part, Ref) else part for part in parts]
    runs: list[jax.Array] = []
    # Equal keys: turns of one result that follow each other.
    key = lambda pair: (  # noqa: E731
        (id(pair[1].all), pair[1].k - pair[0]) if isinstance(pair[1], _Turn) else pair[0]
    )
    for _, group in groupby(enumerate(found), key):
        members = [member for _, member in group]
        head = members[0]
        if isinstance(head, _Turn):
            runs.append(head.all[head.k : head.k + len(members)])
        else:
            runs.append(jnp.asarray(_value(head, known))[None])
    return jnp.moveaxis(jnp.concatenate(runs), 0, dim)


def _scan(loop: Loop, known: Mapping[Any, Any], z: jax.Array) -> dict[Any, Any]:
    outer = {Slot("outer", i): _value(leaf, known) for i, leaf in enumerate(loop.outer)}
    each = [_each(leaves, known, z) for leaves in loop.each]
    first = {q: jnp.asarray(_value(leaf, known)) for q, leaf in loop.first.items()}

    def turn(before: dict[int, jax.Array], now: list[jax.Array]) -> tuple[Any, Any]:
        inside = {**outer}
        inside |= {Slot("each", i): value for i, value in enumerate(now)}
        inside |= {Slot("before", q): value for q, value in before.items()}
        for q, operation in enumerate(loop.body):
            inside[Slot("here", q)] = _apply(operation, inside)
        after = {q: inside[Slot("here", q)] for q in before}
        return after, [inside[Slot("here", q)] for q in loop.kept]

    _, kept = lax.scan(turn, first, each, length=loop.turns)
    return {
        Ref(loop.start + k * len(loop.body) + q): _Turn(values, k)
        for q, values in zip(loop.kept, kept, strict=True)
        for k in range(loop.turns)
    }


def _each(leaves: list[Any], known: Mapping[Any, Any], z: jax.Array) -> jax.Array:
    if all(isinstance(leaf, float) for leaf in leaves):
        return jnp.asarray(leaves, z.dtype)
    if all(isinstance(leaf, Tensor) for leaf in leaves):
        return jnp.asarray(array(torch.stack(leaves)))  # one constant, not as many as turns
    return jnp.stack([jnp.asarray(_value(leaf, known)) for leaf in leaves])


def _value(tree: Any, known: Mapping[Any, Any]) -> Any:
    def leaf(item: Any) -> Any:
        if isinstance(item, Ref | Slot):
            found = known[item]
            return found.all[found.k] if isinstance(found, _Turn) else found
        return array(item) if isinstance(item, Tensor) else item

    return mapped(tree, leaf)
