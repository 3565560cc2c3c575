"""A graph of ATen operations as a function of JAX arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
import torch
from jax import lax
from torch import Tensor

from ..recorded.graph import Const, Graph, Operation, Ref, mapped
from .aten import TABLE
from .aten_entries import array
from .rolling import Loop, Slot, rolled


class UnknownOperation(NotImplementedError):
    """An operation that the table of `pyro_lebm.xla.aten` lacks."""


@dataclass(frozen=True)
class _Turn:
    """A result of one turn of a loop, not yet cut out of those of all turns."""

    all: jax.Array
    k: int


@dataclass(frozen=True)
class _Stack:
    """Constants of a loop's turns, one above the other: one argument, not as many as turns."""

    places: tuple[int, ...]


Constants = dict[str, Any]
"""JAX arrays, a pytree: of each `Const` and stack of them, in the translation's order."""


class Translation:
    """A graph as a function of JAX arrays: its input and its constants.

    Each loop of equal operations is one ``lax.scan``. Graphs that differ in the values of their
    constants only have one translation.

    Raises:
        UnknownOperation: names the operation and the site that needs it.
    """

    def __init__(self, graph: Graph) -> None:
        for operation in graph.operations:
            _look_up(operation)
        self.items, self.result = rolled(graph), graph.result
        self._dtype = graph.input_form[1]
        self._leaves = _constants(self.items, self.result)

    def bind(self, constants: Sequence[Tensor | float]) -> Constants:
        """A graph's constants as the translation's."""
        return {str(i): self._array(leaf, constants) for i, leaf in enumerate(self._leaves)}

    def _array(self, leaf: Const | _Stack, constants: Sequence[Tensor | float]) -> Any:
        if isinstance(leaf, Const):
            value = constants[leaf.place]
            # a number stays a weak one, which takes the type of what it meets
            return array(value) if isinstance(value, Tensor) else jnp.asarray(value)
        values = [constants[place] for place in leaf.places]
        tensors = [value for value in values if isinstance(value, Tensor)]
        return array(torch.stack(tensors) if tensors else torch.tensor(values, dtype=self._dtype))

    def __call__(self, z: jax.Array, constants: Constants) -> Any:
        """The graph's result at ``z``."""
        known: dict[Any, Any] = {Ref(-1): z}
        known |= {leaf: constants[str(i)] for i, leaf in enumerate(self._leaves)}
        place = 0
        for item in self.items:
            if isinstance(item, Loop):
                known |= _scan(item, known)
                place = item.end
            else:
                known[Ref(place)] = _apply(item, known)
                place += 1
        return mapped(_value(self.result, known), jnp.asarray)


def _constants(items: list[Operation | Loop], result: Any) -> list[Const | _Stack]:
    """What the items and the result take from outside, each once."""
    found: dict[Const | _Stack, None] = {}

    def visit(leaf: Any) -> None:
        if isinstance(leaf, Const):
            found[leaf] = None

    for item in items:
        if isinstance(item, Loop):
            mapped([item.outer, list(item.first.values())], visit)
            for leaves in item.each:
                stack = _stack(leaves)
                if stack is not None:
                    found[stack] = None
                else:
                    mapped(leaves, visit)
        else:
            mapped([item.args, item.kwargs], visit)
    mapped(result, visit)
    return list(found)


def _stack(leaves: list[Any]) -> _Stack | None:
    if all(isinstance(leaf, Const) for leaf in leaves):
        return _Stack(tuple(leaf.place for leaf in leaves))
    return None


def _look_up(operation: Operation) -> Callable[..., Any]:
    full = str(operation.op).removeprefix("aten.")
    function = TABLE.get(full, TABLE.get(operation.name))
    if function is None:
        raise UnknownOperation(
            f"model: site {operation.site!r} needs the operation {operation.op}, which is not in "
            "the table; write the model without it, enter it in pyro_lebm.xla.aten.TABLE, "
            "or sample with VectorizedMCMC"
        )
    return function


def _apply(operation: Operation, known: Mapping[Any, Any]) -> Any:
    if operation.name == "stack":
        return _stacked(*operation.args, known=known)
    args, kwargs = _value(operation.args, known), _value(operation.kwargs, known)
    try:
        return _look_up(operation)(*args, **kwargs)
    except UnknownOperation:
        raise
    except Exception as reason:
        raise _untranslated(operation.site, f"the operation {operation.op}", reason) from reason


def _untranslated(site: str, what: str, reason: Exception) -> ValueError:
    return ValueError(
        f"model: site {site!r} needs {what} in a way that cannot be translated "
        f"({type(reason).__name__}: {str(reason).splitlines()[0]}); write the model without it, or "
        "sample with VectorizedMCMC"
    )


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


def _scan(loop: Loop, known: Mapping[Any, Any]) -> dict[Any, Any]:
    outer = {Slot("outer", i): _value(leaf, known) for i, leaf in enumerate(loop.outer)}
    each = [_each(leaves, known) for leaves in loop.each]
    first = {q: jnp.asarray(_value(leaf, known)) for q, leaf in loop.first.items()}

    def turn(before: dict[int, jax.Array], now: list[jax.Array]) -> tuple[Any, Any]:
        inside = {**outer}
        inside |= {Slot("each", i): value for i, value in enumerate(now)}
        inside |= {Slot("before", q): value for q, value in before.items()}
        for q, operation in enumerate(loop.body):
            inside[Slot("here", q)] = _apply(operation, inside)
        after = {q: inside[Slot("here", q)] for q in before}
        return after, [inside[Slot("here", q)] for q in loop.kept]

    # Turns that carry nothing on are slices of something large: their results are computed again
    # for the gradient while they are in cache, which is faster than to fetch them from memory.
    step = turn if first else jax.checkpoint(turn)
    try:
        _, kept = lax.scan(step, first, each, length=loop.turns)
    except TypeError as reason:  # a turn whose results are of other types than its arguments
        op = loop.body[0].op
        raise _untranslated(loop.body[0].site, f"{op} and what follows it", reason) from reason
    return {
        Ref(loop.start + k * len(loop.body) + q): _Turn(values, k)
        for q, values in zip(loop.kept, kept, strict=True)
        for k in range(loop.turns)
    }


def _each(leaves: list[Any], known: Mapping[Any, Any]) -> jax.Array:
    stack = _stack(leaves)
    if stack is not None:
        found: jax.Array = known[stack]
        return found
    if all(isinstance(leaf, float) for leaf in leaves):
        return jnp.asarray(leaves, known[Ref(-1)].dtype)
    return jnp.stack([jnp.asarray(_value(leaf, known)) for leaf in leaves])


def _value(tree: Any, known: Mapping[Any, Any]) -> Any:
    def leaf(item: Any) -> Any:
        if isinstance(item, Ref | Slot | Const):
            found = known[item]
            return found.all[found.k] if isinstance(found, _Turn) else found
        return item

    return mapped(tree, leaf)
