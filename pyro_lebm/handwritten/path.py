"""A likelihood along trajectories and its gradients, by hand-written vector-Jacobian products.

The algorithm is that of ``native/path.cpp``: Runge-Kutta steps on a uniform grid, a cubic between
its nodes, the emission slice by slice of the times, and all of it backwards. Every operation writes
into a buffer made before; none waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pyro_lebm.observations.problem import Band, Problem

from .likelihoods import COMPARE, HALF_LOG_TWO_PI
from .network import Network, Shape
from .readouts import read, write_back
from .workspace import POOL, Size, Workspace

TAPE = 2**24  # numbers kept of the states that are solved together
HIDDEN = 2**18  # hidden numbers in a slice of times: on a CPU, what a core's cache holds
ELSEWHERE = 2**6  # times as many of both on a device that wants large operations


@torch.no_grad()
def solve(
    problem: Problem, z0: Tensor, scale: Tensor, *, grad: bool = False, seed: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As `pyro_lebm.observations.seen.solve`.

    Memory beyond data and results: with K steps, the nodes and slopes, 4 (K + 1) L numbers a state,
    and where there is a gradient the stages' inputs, 3 K L, and the field's hidden values, 4 K + 1
    times as many as its hidden layers have (twice that for softplus and silu). States are solved so
    many at a time that this is about 64 MB in single precision on a CPU, 4 GB elsewhere. Beyond
    that there is one slice of the times, whatever their number. The workspaces of the latest four
    shapes, each of that size at most, are kept for the next call; ``POOL.clear()`` lets them go.
    """
    learned = seed is not None
    field = Network(problem.field, learned=learned)
    emission = Network(problem.emission, learned=learned)
    sequences = len(problem.data.values)
    states = z0.view(-1, sequences, z0.shape[1])
    value, grad_z0 = z0.new_empty(states.shape[:2]), torch.empty_like(z0)
    of_scale = z0.new_zeros(problem.data.values.shape[2])
    for part in _parts(problem, states):
        size = _size(problem, states[part], grad or learned)
        with POOL.borrowed(size) as work:
            block = _Block(problem, field, emission, scale, work, part[1].start)
            work.start.copy_(states[part].permute(2, 0, 1))
            block.advance()
            weight = None if seed is None else seed.view(value.shape)[part]
            terms = block.look(weight)
            block.score(terms, value[part])
            if weight is not None:
                of_scale += block.of_scale(terms, weight)
            if size.keeps:
                found = block.retreat()
                grad_z0.view(states.shape)[part].copy_(found.permute(1, 2, 0))
    if seed is None:
        return value.flatten(), grad_z0, None
    sums = torch.cat([*field.gradients(), *emission.gradients(), of_scale])
    return value.flatten(), grad_z0, sums


def _parts(problem: Problem, states: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cuts of ``(lead, N)`` into pieces of about as many states as are solved together."""
    (lead, sequences, latent), steps = states.shape, problem.readout.steps
    hidden = sum(Shape.of(problem.field).sizes[1:-1])
    most = max(1, _room(TAPE, states) // ((4 * steps + 1) * hidden + 7 * (steps + 1) * latent))
    columns = _even(sequences, most)
    rows = _even(lead, max(1, most // columns))
    for i in range(0, lead, rows):
        for j in range(0, sequences, columns):
            yield slice(i, min(lead, i + rows)), slice(j, min(sequences, j + columns))


def _room(numbers: int, states: Tensor) -> int:
    return numbers if states.device.type == "cpu" else ELSEWHERE * numbers


def _even(total: int, most: int) -> int:
    """The size of pieces of at most ``most``, as even as can be; 1 of nothing."""
    return -(-total // max(1, -(-total // most))) or 1


def _size(problem: Problem, states: Tensor, keeps: bool) -> Size:
    emission, times = Shape.of(problem.emission), problem.data.values.shape[1]
    lanes = states.shape[0] * states.shape[1]
    most = max(1, _room(HIDDEN, states) // (max(emission.sizes) * lanes))
    return Size(
        Shape.of(problem.field),
        emission,
        lead=states.shape[0],
        sequences=states.shape[1],
        slice=_even(times, most),
        steps=problem.readout.steps,
        keeps=keeps,
        dtype=states.dtype,
        device=states.device,
    )


class _Block:
    """Some states on their way there and back."""

    def __init__(
        self,
        problem: Problem,
        field: Network,
        emission: Network,
        scale: Tensor,
        work: Workspace,
        first: int,
    ) -> None:
        self.problem, self.field, self.emission, self.work = problem, field, emission, work
        self.h, self.scale, self.first = problem.readout.h, scale, first
        self.chosen = slice(first, first + work.size.sequences)

    def advance(self) -> None:
        """Nodes and slopes by the classical Runge-Kutta method."""
        h, last, hidden, work = self.h, self.field.last, self.field.hidden, self.work
        mm, addmm = torch.mm, torch.addmm
        for step in work.steps:
            z, slope, after, (y2, y3, y4) = step.z, step.slope, step.after, step.y
            at1, at2, at3, at4 = step.places
            mm(last, hidden(at1), out=slope)
            torch.add(z, slope, alpha=h / 2, out=y2)
            addmm(z, last, hidden(at2), alpha=h / 2, out=y3)
            addmm(z, last, hidden(at3), alpha=h, out=y4)
            # lerp(y3, y4, 1/3) = z + h/3 (k2 + k3)
            torch.lerp(y3, y4, 1 / 3, out=after)
            after.add_(slope, alpha=h / 6).addmm_(last, hidden(at4), alpha=h / 6)
        mm(last, hidden(work.last), out=work.last_slope)

    def retreat(self) -> Tensor:
        """Gradients at nodes and slopes, back to the first node: ``(L, lead, N)``."""
        h, work, up, down = self.h, self.work, self.field.up, self.field.back[0]
        addmm = torch.addmm
        g, g4, g3, g2 = work.stack.unbind()
        stack, combine = work.stack.flatten(1), work.combine
        combine[1, 3].fill_(h / 6)
        above = work.last
        for step in reversed(work.steps):
            at1, at2, at3, at4 = step.places
            # at the node above, then g + 3 v4, g + 3/2 v3, g + 3 v2 of those at the stages, v
            addmm(step.above, down, up(above, step.slope_above), out=g)
            addmm(g, down, up(at4, g, h / 6), alpha=3.0, out=g4)
            addmm(g, down, up(at3, g4, h / 3), alpha=1.5, out=g3)
            addmm(g, down, up(at2, g3, h / 3), alpha=3.0, out=g2)
            step.both.addmm_(combine, stack)
            above = at1
        node, slope = work.gnodes[0].unbind()
        addmm(node, down, up(above, slope), out=g)
        return g.view(len(g), work.size.lead, work.size.sequences)

    def look(self, seed: Tensor | None) -> Tensor:
        """Sums over the times of the likelihoods' terms, ``(D, lead, N)``, slice by slice.

        On the way, gradients at nodes and slopes, where there will be a gradient.
        """
        size, readout = self.work.size, self.problem.readout
        total = self.scale.new_zeros(len(self.scale), size.lead, size.sequences)
        if size.keeps:
            self.work.gnodes.zero_()
        for band in readout.bands(size.slice):
            total += self._at(band, seed)
        return total

    def _at(self, band: Band, seed: Tensor | None) -> Tensor:
        work, emission, columns = self.work, self.emission, self.problem.data.columns
        place = work.place(band.end - band.begin)
        out, terms, g, room = work.outputs_of(place)
        read(work, band, self.first)
        torch.mm(emission.last, emission.hidden(place), out=out.flatten(1))
        times, scale = slice(band.begin, band.end), self.scale[:, None, None, None]
        x, mask = (a[:, times, None, self.chosen] for a in (columns.values, columns.mask))
        COMPARE[self.problem.likelihood](out, x, mask, scale, terms, g, room)
        if work.size.keeps:
            if seed is not None:
                g.mul_(seed)
            gpath = work.gpath_of(place)
            torch.mm(emission.back[0], emission.up(place, g.flatten(1)), out=gpath)
            write_back(work, band, self.first, gpath)
        return terms.sum(1)

    def score(self, total: Tensor, value: Tensor) -> None:
        """Log likelihoods ``(lead, N)`` of the terms' sums."""
        torch.sum(total, 0, out=value)
        if self.problem.likelihood == "gaussian":
            counts = self.problem.data.columns.counts[:, self.chosen]
            constant = self.scale.log() + HALF_LOG_TWO_PI
            value.mul_(0.5).sub_(constant @ counts)

    def of_scale(self, total: Tensor, seed: Tensor) -> Tensor:
        """Gradient in the scale, ``(D)``."""
        if self.problem.likelihood != "gaussian":
            return torch.zeros_like(self.scale)
        counts = self.problem.data.columns.counts[:, None, self.chosen]
        gradient: Tensor = -((total + counts) * seed).sum((1, 2)) / self.scale
        return gradient
