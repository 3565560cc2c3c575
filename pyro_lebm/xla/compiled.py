"""A program's two log densities, and their gradients, as one compiled function."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..engines import log
from ..recorded.graph import Graph
from .aten_entries import to_dtype
from .steps import State, overdamped
from .translate import Constants, Translation

MOST = 64  # compiled functions kept: one for each shape of a minibatch, and number of solver steps


class Compiled:
    """All programs of one structure: ``z`` and constants to log densities and gradients.

    Elements are independent given the constants, so that the gradient of a sum over them holds
    each one's own. Chains are mapped.

    Args:
        graph: of ``z (*elements, dim)`` to the log densities of the latent and the observed sites,
            ``(*elements)`` each.

    Raises:
        UnknownOperation, ValueError: what cannot be translated.
    """

    def __init__(self, graph: Graph) -> None:
        self.translation = Translation(graph)
        self.fixed: Constants = {}
        constants = self.translation.bind(graph.constants)
        self.shape, dtype = graph.input_form
        z = jnp.zeros(self.shape, to_dtype(dtype))
        try:
            jax.eval_shape(self.both, z, constants)
        except ValueError:
            # shapes may hang on masks, which then belong to what is compiled
            self.fixed = {k: x for k, x in constants.items() if jnp.asarray(x).dtype == jnp.bool_}
            if not self.fixed:
                raise
            jax.eval_shape(self.both, z, self.free(constants))
        self.values = jax.jit(jax.vmap(self.both, (0, None)))
        self.slopes = jax.jit(jax.vmap(self.with_gradients, (0, None)))
        self.visit = jax.jit(self._visit, static_argnames="kind")

    def free(self, constants: Constants) -> Constants:
        """Without those that are compiled in."""
        return {name: x for name, x in constants.items() if name not in self.fixed}

    def holds(self, constants: Constants) -> bool:
        """Whether those that are compiled in have these values."""
        return all(np.array_equal(x, constants[name]) for name, x in self.fixed.items())

    def both(self, z: jax.Array, constants: Constants) -> tuple[jax.Array, jax.Array]:
        """Log densities ``(*elements)`` of the latent and the observed sites, of one chain."""
        prior, likelihood = self.translation(z, {**self.fixed, **constants})
        return prior, likelihood

    def log_density(self, z: jax.Array, constants: Constants) -> jax.Array:
        """Their sum."""
        prior, likelihood = self.both(z, constants)
        return prior + likelihood

    def with_gradients(self, z: jax.Array, constants: Constants) -> tuple[jax.Array, ...]:
        """Both log densities and their gradients ``(*elements, dim)``."""

        def of_likelihood(z: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            both = self.both(z, constants)
            return both[1].sum(), both

        (_, both), likelihood = jax.value_and_grad(of_likelihood, has_aux=True)(z)
        prior = jax.grad(lambda z: self.both(z, constants)[0].sum())(z)
        return *both, prior, likelihood

    def _visit(self, constants: Constants, state: State, *rest: Any, kind: str) -> Any:
        """Langevin steps of all chains: `overdamped`, whose other arguments follow."""
        step, rate, noise, uniform, steps, strength = rest
        shape = state.position.shape
        one = jax.vmap(self._evaluate, (0, None))

        def evaluate(z: jax.Array) -> tuple[jax.Array, jax.Array]:
            value, gradient = one(z.reshape(-1, *self.shape), constants)
            return value.reshape(shape[:-1]), gradient.reshape(shape)

        return overdamped(evaluate, state, step, rate, noise, uniform, steps, strength, kind)

    def _evaluate(self, z: jax.Array, constants: Constants) -> tuple[jax.Array, jax.Array]:
        """The sum of both log densities, and its gradient."""

        def total(z: jax.Array) -> tuple[jax.Array, jax.Array]:
            found = self.log_density(z, constants)
            return found.sum(), found

        (_, value), gradient = jax.value_and_grad(total, has_aux=True)(z)
        return value, gradient


_KNOWN: list[tuple[str, Compiled]] = []  # with their structures, the latest used last


def compiled(graph: Graph) -> tuple[Compiled, Constants]:
    """What computes this graph, and its constants."""
    constants: Constants | None = None
    for i, (structure, one) in enumerate(_KNOWN):
        if structure != graph.structure:
            continue
        if constants is None:  # the same for all of this structure
            constants = one.translation.bind(graph.constants)
        if one.holds(constants):
            _KNOWN.append(_KNOWN.pop(i))
            return one, one.free(constants)
    new = Compiled(graph)
    log.info(
        "engine: 'xla' compiles a program of %d operations for this shape of data, the values of "
        "%d masks included",
        len(graph.operations),
        len(new.fixed),
    )
    _KNOWN.append((graph.structure, new))
    del _KNOWN[:-MOST]
    return new, new.free(new.translation.bind(graph.constants))
