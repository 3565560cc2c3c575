"""A program's log densities with their gradients, recorded and compiled."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..engines import engine
from ..observations.once import Once
from .graph import Graph
from .record import Recorder, capture
from .sources import Attached

Score = Callable[[Tensor], tuple[Tensor, Tensor]]
Watched = Callable[[Callable[[str], None]], AbstractContextManager[None]]

PRODUCTS = frozenset({"mm", "bmm", "addmm", "baddbmm", "mv", "dot"})
PARTS = (
    "log density of the latent sites",
    "log density of the observed sites",
    "gradient of the latent sites",
    "gradient of the observed sites",
)


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
        example: a position ``(*elements, dim)``.
        chains: how many it is compared for, those that it will be asked for: less to compile.
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
        chains: int,
        compile: Callable[[Graph, Tensor], Bound],
        compared: set[str],
    ) -> None:
        recorder = Recorder()
        with watched(recorder.scored):
            graph = capture(score, example, recorder)
        self._sources = recorder.sources
        self.bound: Any = compile(graph, example)
        if graph.structure not in compared and self._compare(score, example, chains):
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

    def _compare(self, score: Score, example: Tensor, chains: int) -> bool:
        """The translation must not be trusted with whatever a program may do.

        Returns:
            whether there was anything to compare.
        """
        source = torch.Generator().manual_seed(0)  # not the run's: the second run compares nothing
        compared = False
        for scale in (0.0, 0.1):
            noise = torch.randn(example.shape, generator=source).to(example)
            z = (example + scale * noise).detach().requires_grad_()
            with Terms() as terms:
                right = _eager(score, z)
            if not all(bool(x.isfinite().all()) for x in right):
                continue  # outside of the density, where both may be anything
            found = self.bound.run(z.detach().expand(chains, *z.shape), gradients=True)
            _check_same([x[0] for x in found], right, terms.size)
            compared = True
        return compared


class Terms(TorchDispatchMode):
    """How large what is summed is, of all sums and products of matrices within: what the rounding
    of a sum goes by, be it itself next to nothing.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.size = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        size = 0.0
        if name == "sum" and args[0].is_floating_point():
            size = float(args[0].abs().sum())
        elif name in PRODUCTS:
            size = float(args[-2].norm() * args[-1].norm())  # bounds that of any entry
        self.size = max(self.size, size if math.isfinite(size) else 0.0)
        return func(*args, **(kwargs or {}))


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


def _check_same(found: list[Tensor], right: list[Tensor], terms: float) -> None:
    tolerance = 1e-6 if right[0].dtype == torch.float64 else 1e-2
    rounding = 8 * torch.finfo(right[0].dtype).eps * terms
    for name, a, b in zip(PARTS, found, right, strict=True):
        excess = (a - b).abs() - tolerance * (1 + b.abs()) - rounding
        if bool((excess <= 0).all()):
            continue
        worst = int(excess.nan_to_num(nan=torch.inf).argmax())
        raise ValueError(
            f"model: its translation is another function: {name} {float(a.flatten()[worst]):.6g} "
            f"for {float(b.flatten()[worst]):.6g}. Something in it cannot be followed, such as "
            "NumPy or a value looked at; sample with VectorizedMCMC"
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
