"""A program's log densities by XLA, for torch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

import jax
import jax.numpy as jnp
import torch
import torch.utils.dlpack
from torch import Tensor

from ..engines import engine
from ..once import Once
from .compiled import compiled
from .record import Recorder, capture

Score = Callable[[Tensor], tuple[Tensor, Tensor]]
Watched = Callable[[Callable[[str], None]], AbstractContextManager[None]]


class Density:
    """Log densities of a program with the weights and data that it has now, compiled.

    The program is run once and its operations noted; what is compiled is kept for all programs of
    the same structure, so that other weights or another minibatch of the same shape cost one such
    run. It is compared with what it is a translation of where that has not been done before.

    Args:
        score: of one chain, ``(*elements, dim)``, to the log densities of the latent and of the
            observed sites, ``(*elements)`` each.
        watched: tells the names of sites as they are scored.
        example: a position.
        compared: structures of this program that are known to be translated rightly; added to.

    Raises:
        UnknownOperation: an operation that is not translated; names it and the site.
        ValueError: what cannot be translated, or was translated into something else.
    """

    def __init__(self, score: Score, watched: Watched, example: Tensor, compared: set[str]) -> None:
        recorder = Recorder()
        with watched(recorder.scored):
            graph = capture(score, example, recorder)
        self._sources = recorder.sources
        self._double = example.dtype == torch.float64
        self._device = to_jax(example).device
        with self.precision():
            self.compiled, constants = compiled(graph)
            self.constants = jax.device_put(constants, self._device)
        if graph.structure not in compared:
            self._compare(score, example)
            compared.add(graph.structure)

    @property
    def stale(self) -> bool:
        """Whether weights or data were written to since."""
        return self._sources.changed

    def precision(self) -> AbstractContextManager[Any]:
        """JAX set to the positions' own."""
        return cast("AbstractContextManager[Any]", jax.enable_x64(self._double))

    def parts(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Both log densities ``(chains, *elements)`` at ``(chains, *elements, dim)``."""
        apply: Any = _Parts.apply
        prior, likelihood, *_ = apply(self, torch.is_grad_enabled(), z)
        return prior, likelihood

    def run(self, z: Tensor, gradients: bool) -> tuple[Tensor, ...]:
        """What is compiled, at detached positions."""
        function = self.compiled.slopes if gradients else self.compiled.values
        with self.precision():
            return tuple(map(to_torch, function(to_jax(z), self.constants)))

    def _compare(self, score: Score, example: Tensor) -> None:
        """The translation must not be trusted with whatever a program may do."""
        source = torch.Generator().manual_seed(0)  # not the run's: the second run compares nothing
        for scale in (0.0, 0.1):
            noise = torch.randn(example.shape, generator=source).to(example)
            z = (example + scale * noise).detach().requires_grad_()
            right = _eager(score, z)
            if not all(bool(x.isfinite().all()) for x in right):
                continue  # outside of the density, where both may be anything
            found = [x[0] for x in self.run(z.detach()[None], gradients=True)]
            _check_same(found, right, 1e-6 if self._double else 1e-2)


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
    def forward(density: Density, grad: bool, z: Tensor) -> tuple[Tensor, ...]:
        found = density.run(z.detach(), grad)
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
        info: Any, dims: tuple[Any, ...], density: Density, grad: bool, z: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
        lanes = z.movedim(dims[2], 0)
        apply: Any = _Parts.apply
        found = apply(density, grad, lanes.flatten(0, 1))
        split = [x.unflatten(0, lanes.shape[:2]) if len(x) else x for x in found]
        return tuple(split), tuple(0 if len(x) else None for x in found)


def to_jax(value: Tensor) -> jax.Array:
    """The same memory, as far as JAX takes it."""
    found: jax.Array = jnp.from_dlpack(value.detach().contiguous())
    return found


def to_torch(value: jax.Array) -> Tensor:
    """The same memory."""
    found: Tensor = torch.utils.dlpack.from_dlpack(value.block_until_ready())
    return found
