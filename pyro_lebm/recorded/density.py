"""A program's log densities with their gradients, recorded and compiled."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

from ..engines import engine
from ..once import Once
from .graph import Graph
from .record import Recorder, capture
from .sources import Attached

Score = Callable[[Tensor], tuple[Tensor, Tensor]]
Watched = Callable[[Callable[[str], None]], AbstractContextManager[None]]


class Bound(Protocol):
    """A compiled graph with constants of its own."""

    def run(self, z: Tensor, gradients: bool) -> tuple[Tensor, ...]:
        """Both log densities ``(chains, *elements)``, and if asked for both gradients."""


class Density:
    """Log densities of a program with the weights and data that it has now, compiled.

    The program is run once and its operations noted; what is compiled is kept for all programs of
    the same structure, so that other weights or another minibatch of the same shape cost one such
    run. It is compared with what it is a translation of where that has not been done before.

    Args:
        score: of one chain, ``(*elements, dim)``, to the log densities of the latent and of the
            observed sites, ``(*elements)`` each.
        watched: tells the names of sites as they are scored.
        attach: notes what of the program may be replaced.
        example: a position.
        compile: makes a graph what can be run.
        compared: structures of this program that are known to be translated rightly; added to.

    Attributes:
        bound: what is compiled, with these weights and data.

    Raises:
        UnknownOperation: an operation that is not translated; names it and the site.
        ValueError: what cannot be translated, or was translated into something else.
    """

    def __init__(
        self,
        score: Score,
        watched: Watched,
        attach: Callable[[], Attached],
        example: Tensor,
        compile: Callable[[Graph, Tensor], Bound],
        compared: set[str],
    ) -> None:
        recorder = Recorder()
        with watched(recorder.scored):
            graph = capture(score, example, recorder)
        self._sources = recorder.sources
        self.bound: Any = compile(graph, example)
        if graph.structure not in compared:
            self._compare(score, example)
            compared.add(graph.structure)
        self._attached = attach()

    @property
    def stale(self) -> bool:
        """Whether weights or data were written to since, or replaced."""
        return self._attached.changed or self._sources.changed

    def parts(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Both log densities ``(chains, *elements)`` at ``(chains, *elements, dim)``."""
        apply: Any = _Parts.apply
        prior, likelihood, *_ = apply(self.bound, torch.is_grad_enabled(), z)
        return prior, likelihood

    def _compare(self, score: Score, example: Tensor) -> None:
        """The translation must not be trusted with whatever a program may do."""
        source = torch.Generator().manual_seed(0)  # not the run's: the second run compares nothing
        for scale in (0.0, 0.1):
            noise = torch.randn(example.shape, generator=source).to(example)
            z = (example + scale * noise).detach().requires_grad_()
            right = _eager(score, z)
            if not all(bool(x.isfinite().all()) for x in right):
                continue  # outside of the density, where both may be anything
            found = [x[0] for x in self.bound.run(z.detach()[None], gradients=True)]
            _check_same(found, right, 1e-6 if z.dtype == torch.float64 else 1e-2)


def _eager(score: Score, z: Tensor) -> list[Tensor]:
    with torch.enable_grad(), engine("eager"):
        both = score(z)
        pull = [
            torch.autograd.grad(x.sum(), z, retain_graph=True, allow_unused=True)[0]
            if x.requires_grad
            else None
            for x in both
        ]
    slopes = [torch.zeros_like(z) if slope is None else slope for slope in pull]
    return [x.detach() for x in (*both, *slopes)]


def _check_same(found: list[Tensor], right: list[Tensor], tolerance: float) -> None:
    value, expected = found[0].sum() + found[1].sum(), right[0].sum() + right[1].sum()
    size = 1 + max(float(x.abs().max()) for x in (*right, expected))
    gaps = [float((a - b).abs().max()) for a, b in zip(found, right, strict=True)]
    if not max(gaps) <= tolerance * size:
        raise ValueError(
            "model: its translation is another function: log density "
            f"{float(value):.6g} for {float(expected):.6g}, gradients that differ by up to "
            f"{max(gaps[2:]):.3g}. Something in it cannot be followed, such as NumPy or a value "
            "looked at; sample with VectorizedMCMC"
        )


class _Parts(torch.autograd.Function):
    """Both log densities and their gradients from one pass."""

    @staticmethod
    def forward(bound: Bound, grad: bool, z: Tensor) -> tuple[Tensor, ...]:
        found = bound.run(z.detach(), grad)
        return found if grad else (*found, z.new_empty(0), z.new_empty(0))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_backward(inputs[2], *output[2:])

    @staticmethod
    def backward(ctx: Any, *seeds: Tensor) -> tuple[Any, ...]:
        z, *slopes = ctx.saved_tensors
        once: Any = Once.apply
        parts = [s.unsqueeze(-1) * once(g, z) for s, g in zip(seeds[:2], slopes, strict=True)]
        return None, None, parts[0] + parts[1]

    @staticmethod
    def vmap(
        info: Any, dims: tuple[Any, ...], bound: Bound, grad: bool, z: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
        lanes = z.movedim(dims[2], 0)
        apply: Any = _Parts.apply
        found = apply(bound, grad, lanes.flatten(0, 1))
        split = [x.unflatten(0, lanes.shape[:2]) if len(x) else x for x in found]
        return tuple(split), tuple(0 if len(x) else None for x in found)
