"""Buffers for one shape of a problem, made once and used again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from .network import Place, Shape, Tape

KEPT = 4  # workspaces


@dataclass(frozen=True)
class Size:
    """What buffers hang on.

    Attributes:
        lead: times that the sequences are taken over.
        sequences: of the data.
        slice: times that go through the emission together.
        keeps: whether there will be a gradient.
    """

    field: Shape
    emission: Shape
    lead: int
    sequences: int
    slice: int
    steps: int
    keeps: bool
    dtype: torch.dtype
    device: torch.device

    @property
    def lanes(self) -> int:
        """States."""
        return self.lead * self.sequences


@dataclass(frozen=True)
class Step:
    """Of the solver: views of what it reads and writes, ``(L, lanes)``."""

    z: Tensor
    slope: Tensor
    y: tuple[Tensor, Tensor, Tensor]
    after: Tensor
    places: list[Place]
    # gradients: at the node and slope together, and at those of the next node
    both: Tensor
    above: Tensor
    slope_above: Tensor


class Workspace:
    """Nodes, slopes and hidden values of all steps, and room for one slice of times.

    Attributes:
        nodes: of the grid, with the slopes there, ``(K + 1, 2, L + 1, lanes)``, ones below a node.
        gnodes: gradients there, ``(K + 1, 2, L, lanes)``.
        stack: gradients at a step's end and stages, ``(4, L, lanes)``, and how they add up to the
            node's and the slope's, ``combine (2, 4)``.
        path: states at a slice of times above ones, ``(L + 1, slice, lanes)``; ``gpath`` has room
            for their gradients, twice.
    """

    def __init__(self, size: Size) -> None:
        self.size = size
        like = torch.empty(0, dtype=size.dtype, device=size.device)
        latent, n, steps = size.field.sizes[0], size.lanes, size.steps
        self.nodes = like.new_zeros(steps + 1, 2, latent + 1, n)
        self.nodes[:, 0, latent] = 1.0
        stages = like.new_ones(steps if size.keeps else 1, 3, latent + 1, n)
        tape = Tape(size.field, 4 * steps + 1 if size.keeps else 1, (n,), like)
        kept = steps + 1 if size.keeps else 0
        self.gnodes = like.new_empty(kept, 2, latent, n)
        self.stack = like.new_empty(4, latent, n)
        self.combine = like.new_tensor([[-1 / 3, 1 / 3, 2 / 3, 1 / 3], [0.0, 0.0, 0.0, 0.0]])
        self.last, self.last_slope = tape.place(-1, self.nodes[-1, 0]), self.nodes[-1, 1, :latent]
        self.start = self.nodes[0, 0, :latent].unflatten(-1, (size.lead, size.sequences))
        self.steps = [self._step(s, tape, stages) for s in range(steps)]

        block, observed = size.slice, size.emission.sizes[-1]
        self.path = like.new_ones(latent + 1, block, n)
        self.gpath = like.new_empty(2, latent * block * n)
        self.tape = Tape(size.emission, 1, (block, n), like)
        self.outputs = like.new_empty(4, observed * block * n)
        self._places: dict[int, Place] = {}

    def place(self, times: int) -> Place:
        """Of the emission, for the first of a slice's times."""
        if times not in self._places:
            chosen = slice(0, times)
            self._places[times] = self.tape.place(0, self.path[:, chosen], chosen)
        return self._places[times]

    def outputs_of(self, place: Place) -> list[Tensor]:
        """Four arrays ``(D, times, lead, N)`` for the emission's outputs at this place."""
        observed, lanes = self.size.emission.sizes[-1], place.x.shape[1]
        shape = (observed, -1, self.size.lead, self.size.sequences)
        return [array[: observed * lanes].view(shape) for array in self.outputs]

    def gpath_of(self, place: Place) -> Tensor:
        """Where gradients in the states ``(L, times x lanes)`` go."""
        latent, lanes = self.size.field.sizes[0], place.x.shape[1]
        return self.gpath[0, : latent * lanes].view(latent, lanes)

    def _step(self, s: int, tape: Tape, stages: Tensor) -> Step:
        keeps, latent = self.size.keeps, self.size.field.sizes[0]
        inputs = [self.nodes[s, 0], *stages[s if keeps else 0]]
        places = [tape.place(4 * s + i if keeps else 0, x) for i, x in enumerate(inputs)]
        z, *y = (x[:latent] for x in inputs)
        g = self.gnodes[s : s + 2] if keeps else self.stack.new_empty(2, 2, latent, 0)
        return Step(
            z,
            self.nodes[s, 1, :latent],
            (y[0], y[1], y[2]),
            self.nodes[s + 1, 0, :latent],
            places,
            g[0].flatten(1),
            g[1, 0],
            g[1, 1],
        )


class Pool:
    """Workspaces that nobody uses, the latest last, at most ``KEPT`` of them."""

    def __init__(self) -> None:
        self._free: list[tuple[object, Workspace]] = []
        self._lock = threading.Lock()

    @contextmanager
    def borrowed(self, size: Size) -> Iterator[Workspace]:
        """One of this size, that nobody else has meanwhile."""
        key = (size, _stream(size.device))
        workspace = self._taken(key)
        if workspace is None:
            with torch.inference_mode(False):  # or it could not be written to outside
                workspace = Workspace(size)
        try:
            yield workspace
        finally:
            with self._lock:
                self._free.append((key, workspace))
                del self._free[:-KEPT]

    def _taken(self, key: object) -> Workspace | None:
        with self._lock:
            for i, (other, workspace) in enumerate(self._free):
                if other == key:
                    del self._free[i]
                    return workspace
        return None

    def __len__(self) -> int:
        return len(self._free)

    def clear(self) -> None:
        """Let their memory go."""
        with self._lock:
            self._free.clear()


def _stream(device: torch.device) -> int:
    # work on two streams is in no order: they must not share memory
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


POOL = Pool()
