"""Equal stretches of operations, one after the other, as one loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..recorded.graph import Const, Graph, Operation, Ref, mapped, refs

LEAST_TURNS = 4
LONGEST_BODY = 4000


class Slot(NamedTuple):
    """In a loop's body: result `place` of this turn (``"here"``) or of the turn before
    (``"before"``), what differs from turn to turn (``"each"``), or is from outside (``"outer"``).
    """

    kind: str
    place: int


@dataclass(frozen=True)
class Loop:
    """``turns`` times the same operations.

    Attributes:
        start: place of the first operation in the graph.
        body: the operations, whose arguments hold `Slot`.
        first: what the first turn takes for the results of the turn before: ``{place: Ref or
            Const}``.
        each: what differs from turn to turn, a list of ``turns`` values a slot.
        outer: what is the same in all turns.
        kept: results that are used after the loop.
    """

    start: int
    turns: int
    body: list[Operation]
    first: dict[int, Any]
    each: list[list[Any]]
    outer: list[Any]
    kept: list[int]

    @property
    def end(self) -> int:
        """Place after the last operation."""
        return self.start + self.turns * len(self.body)


def rolled(graph: Graph) -> list[Operation | Loop]:
    """The operations in order, with loops in place of stretches that repeat."""
    uses = _last_uses(graph)
    found: list[Operation | Loop] = []
    i = 0
    loops = sorted(_loops(graph, uses, 0, len(graph.operations)), key=lambda loop: loop.start)
    for loop in loops:
        found += graph.operations[i : loop.start]
        found.append(loop)
        i = loop.end
    return found + graph.operations[i:]


def _loops(graph: Graph, uses: list[list[int]], low: int, high: int) -> Iterator[Loop]:
    """The stretch that saves most between two places, then what is left on both sides."""
    stretch = _stretch(graph, low, high)
    if stretch is None:
        return
    loop = _aligned(graph, uses, *stretch)
    if loop is None:
        return
    yield loop
    yield from _loops(graph, uses, low, loop.start)
    yield from _loops(graph, uses, loop.end, high)


def _last_uses(graph: Graph) -> list[list[int]]:
    """Of each operation, the places where its result is used; the graph's result comes last."""
    uses: list[list[int]] = [[] for _ in graph.operations]
    for place, operation in enumerate(graph.operations):
        for ref in refs((operation.args, operation.kwargs)):
            if ref.place >= 0:
                uses[ref.place].append(place)
    for ref in refs(graph.result):
        if ref.place >= 0:
            uses[ref.place].append(len(graph.operations))
    return uses


def _kind(graph: Graph, operation: Operation) -> str:
    """What operations of the same kind have in common, whatever they are applied to."""

    def shape(leaf: Any) -> Any:
        if isinstance(leaf, Ref):
            return "ref"
        if isinstance(leaf, Const):
            return ("const", graph.form(leaf))
        return "float" if type(leaf) is float else (type(leaf), leaf)

    parts = (mapped(operation.args, shape), mapped(operation.kwargs, shape), operation.form)
    return repr((str(operation.op), *parts))


def _stretch(graph: Graph, low: int, high: int) -> tuple[int, int, int] | None:
    """Start, period and length of the stretch whose repetition saves most operations."""
    names: dict[str, int] = {}
    found = (_kind(graph, o) for o in graph.operations[low:high])
    kinds = np.array([names.setdefault(kind, len(names)) for kind in found])
    best, saved = None, 0
    for period in range(1, min(LONGEST_BODY, len(kinds) // LEAST_TURNS) + 1):
        start, length = _longest_run(kinds[:-period] == kinds[period:])
        turns = (length + period) // period
        if turns >= LEAST_TURNS and (turns - 1) * period > saved * 1.01:
            best, saved = (low + start, period, length + period), (turns - 1) * period
    return best


def _longest_run(same: Any) -> tuple[int, int]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], same.astype(np.int8), [0]))))
    if not len(edges):
        return 0, 0
    starts, ends = edges[::2], edges[1::2]
    longest = int(np.argmax(ends - starts))
    return int(starts[longest]), int(ends[longest] - starts[longest])


def _aligned(
    graph: Graph, uses: list[list[int]], start: int, period: int, length: int
) -> Loop | None:
    """A loop within a stretch: where a turn begins is not known, so each place is tried."""
    for shift in range(period):
        turns = (length - shift) // period
        if turns < LEAST_TURNS:
            return None
        for skip in (0, 1):  # the first turn may take its input from elsewhere
            loop = _Rolling(graph, uses, start + shift + skip * period, period, turns - skip).loop()
            if loop is not None and loop.turns >= LEAST_TURNS:
                return loop
    return None


class _Rolling:
    """One attempt to read a stretch as a loop."""

    def __init__(
        self, graph: Graph, uses: list[list[int]], start: int, period: int, turns: int
    ) -> None:
        self.graph, self.uses = graph, uses
        self.start, self.period, self.turns = start, period, turns
        self.first: dict[int, Any] = {}
        self.each: list[list[Any]] = []
        self.outer: list[Any] = []

    def loop(self) -> Loop | None:
        """The loop, or None if the stretch is none."""
        operations = self.graph.operations
        body = []
        for q in range(self.period):
            column = [operations[self.start + k * self.period + q] for k in range(self.turns)]
            try:
                args = self._merge([o.args for o in column])
                kwargs = self._merge([o.kwargs for o in column])
            except _NoLoop:
                return None
            body.append(column[0]._replace(args=args, kwargs=kwargs))
        end = self.start + self.turns * self.period
        kept = [
            q
            for q in range(self.period)
            if any(
                use >= end
                for k in range(self.turns)
                for use in self.uses[self.start + k * self.period + q]
            )
        ]
        return Loop(self.start, self.turns, body, self.first, self.each, self.outer, kept)

    def _merge(self, trees: list[Any]) -> Any:
        """One tree of slots for the same argument of all turns."""
        head = trees[0]
        if any(isinstance(tree, Ref | Const) for tree in trees) or isinstance(head, float):
            return self._slot(trees)
        if isinstance(head, list | tuple):
            items = [self._merge(list(column)) for column in zip(*trees, strict=True)]
            return items if isinstance(head, list) else tuple(items)
        if isinstance(head, dict):
            return {key: self._merge([tree[key] for tree in trees]) for key in head}
        return head

    def _slot(self, leaves: list[Any]) -> Any:
        inside = [isinstance(leaf, Ref) and leaf.place >= self.start for leaf in leaves]
        if len({self.graph.form(leaf) for leaf in leaves}) > 1:
            raise _NoLoop
        if not any(inside):
            return self._outside(leaves)
        if not all(inside[1:]):
            raise _NoLoop
        places = [
            leaf.place - self.start - k * self.period
            for k, leaf in enumerate(leaves)
            if k or inside[0]
        ]
        place = places[-1]
        if any(p != place for p in places):
            raise _NoLoop
        if place >= 0:
            if not inside[0]:
                raise _NoLoop
            return Slot("here", place)
        if place < -self.period or inside[0]:
            raise _NoLoop
        carried = place + self.period
        known = self.first.setdefault(carried, leaves[0])
        if not _same(known, leaves[0]):
            raise _NoLoop
        return Slot("before", carried)

    def _outside(self, leaves: list[Any]) -> Any:
        if all(_same(leaf, leaves[0]) for leaf in leaves):
            if isinstance(leaves[0], float):
                return leaves[0]
            for i, known in enumerate(self.outer):
                if _same(known, leaves[0]):
                    return Slot("outer", i)
            self.outer.append(leaves[0])
            return Slot("outer", len(self.outer) - 1)
        self.each.append(leaves)
        return Slot("each", len(self.each) - 1)


class _NoLoop(Exception):
    """A stretch that is not a loop."""


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(a == b)
