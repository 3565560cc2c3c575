"""Compiled functions with their constants, as functions of torch's tensors."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, cast

import jax
import jax.numpy as jnp
import torch
import torch.utils.dlpack
from torch import Tensor

from ..recorded.graph import Graph
from .compiled import compiled


class Bound:
    """A program by XLA, with the weights and data that it had; tensors go by DLPack.

    Attributes:
        compiled: what all programs of its structure have in common.
        constants: its own.
    """

    def __init__(self, graph: Graph, example: Tensor) -> None:
        self._double = example.dtype == torch.float64
        with self.precision():
            self.compiled, constants = compiled(graph)
            self.constants = jax.device_put(constants, to_jax(example).device)

    def precision(self) -> AbstractContextManager[Any]:
        """JAX set to the positions' own."""
        return cast("AbstractContextManager[Any]", jax.enable_x64(self._double))

    def run(self, z: Tensor, gradients: bool) -> tuple[Tensor, ...]:
        """Both log densities ``(chains, *elements)``, and if asked for both gradients."""
        function = self.compiled.slopes if gradients else self.compiled.values
        with self.precision():
            return tuple(map(to_torch, function(to_jax(z), self.constants)))


def to_jax(value: Tensor) -> jax.Array:
    """The same memory, as far as JAX takes it."""
    found: jax.Array = jnp.from_dlpack(value.detach().contiguous())
    return found


def to_torch(value: jax.Array) -> Tensor:
    """The same memory."""
    found: Tensor = torch.utils.dlpack.from_dlpack(value.block_until_ready())
    return found
