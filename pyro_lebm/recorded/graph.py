"""A torch function as a list of ATen operations."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Ref(NamedTuple):
    """The result of an earlier operation; -1 is the input."""

    place: int


@dataclass(frozen=True)
class Const:
    """One of a graph's constants."""

    place: int


class Operation(NamedTuple):
    """One operation: arguments may hold `Ref`, `Const` and plain Python values."""

    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    site: str  # of the program, before which it came
    form: Any = None  # shape and dtype of its result

    @property
    def name(self) -> str:
        """Without its overload."""
        packet = getattr(self.op, "overloadpacket", self.op)
        # in place: what is written to is noted anew, under the result
        return str(packet.__name__).removesuffix("_")


@dataclass(frozen=True)
class Graph:
    """Operations in order, and the result: nested `Ref` and `Const`.

    Two graphs that differ in the values of their constants only are the same program on other data
    or with other weights.
    """

    operations: list[Operation]
    result: Any
    input_form: Any
    constants: list[Tensor | float]

    def form(self, leaf: Any) -> Any:
        """Shape and dtype of what a leaf stands for; None of a number."""
        if isinstance(leaf, Ref):
            return self.operations[leaf.place].form if leaf.place >= 0 else self.input_form
        return form(self.constants[leaf.place] if isinstance(leaf, Const) else leaf)

    @cached_property
    def structure(self) -> str:
        """All but the values of the constants, and the sites' names."""
        steps = [(str(o.op), o.args, o.kwargs, o.form) for o in self.operations]
        constants = [form(value) for value in self.constants]
        text = repr((steps, self.result, self.input_form, constants))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def form(value: Any) -> Any:
    """Shape and dtype of a tensor; None of anything else."""
    return (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else None


NESTED = frozenset({tuple, list, dict, torch.Size})


def mapped(tree: Any, replace: Callable[[Any], Any]) -> Any:
    """Nested arguments with every leaf replaced; a named tuple, such as `Ref`, is a leaf."""
    kind = type(tree)
    if kind is tuple or kind is list:
        # most trees are flat: a call saved for each leaf
        found = [mapped(x, replace) if type(x) in NESTED else replace(x) for x in tree]
        return found if kind is list else tuple(found)
    if kind is dict:
        return {key: mapped(x, replace) for key, x in tree.items()} if tree else tree
    if kind in NESTED or (isinstance(tree, tuple) and not hasattr(tree, "_fields")):
        return tuple(mapped(x, replace) for x in tree)
    return replace(tree)


def refs(tree: Any) -> list[Ref]:
    """Every `Ref` in nested arguments, in order."""
    leaves: list[Ref] = []

    def visit(item: Any) -> None:
        kind = type(item)
        if kind is Ref:
            leaves.append(item)
        elif kind is tuple or kind is list:
            for part in item:
                visit(part)
        elif kind is dict:
            for part in item.values():
                visit(part)

    visit(tree)
    return leaves
