"""Langevin steps in JAX: the arithmetic of `pyro_lebm.dynamics.langevin`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..dynamics.langevin import OPTIMAL_ACCEPTANCE, STEP_BOUNDS

Evaluate = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


class State(NamedTuple):
    """Positions ``(*chains, dim)``, log densities ``(*chains)`` and their gradients."""

    position: jax.Array
    log_density: jax.Array
    gradient: jax.Array


def overdamped(
    evaluate: Evaluate,
    state: State,
    step_size: jax.Array,
    rate: jax.Array,
    noise: jax.Array,
    uniform: jax.Array,
    steps: jax.Array,
    strength: jax.Array,
    kind: str,
) -> tuple[State, jax.Array, jax.Array]:
    """Langevin steps of one kind.

    Args:
        evaluate: log densities and gradients.
        state: where the chains are.
        step_size, rate: of each chain, and of its adaptation, ``(*chains)``.
        noise: standard normal, ``(room, *chains, dim)``.
        uniform: for the Metropolis tests, ``(room, *chains)``.
        steps: how many, at most the room there is.
        strength: of hot steps.
        kind: ``hot``, ``mala`` or ``ula``.

    Returns:
        the last state, the step sizes, the mean acceptance ``(*chains)``.
    """

    def turn(
        i: jax.Array, carry: tuple[State, jax.Array, jax.Array]
    ) -> tuple[State, jax.Array, jax.Array]:
        state, step, accepted = carry
        used = _hot(state.gradient, strength) if kind == "hot" else step
        new = _state(evaluate, _proposal(state, used, noise[i]))
        if kind != "mala":
            return new, step, accepted + 1
        state, probability = _accept(state, new, used, uniform[i])
        step = jnp.clip(step * jnp.exp(rate * (probability - OPTIMAL_ACCEPTANCE)), *STEP_BOUNDS)
        return state, step, accepted + probability

    start = state, step_size, jnp.zeros_like(step_size)
    state, step, accepted = lax.fori_loop(0, steps, turn, start)
    return state, step, accepted / steps


def _state(evaluate: Evaluate, position: jax.Array) -> State:
    value, gradient = evaluate(position)
    good = jnp.isfinite(value) & jnp.isfinite(gradient).all(-1)
    log_density = jnp.where(good, value, -jnp.inf)
    return State(position, log_density, jnp.where(good[..., None], gradient, 0.0))


def _proposal(state: State, step: jax.Array, noise: jax.Array) -> jax.Array:
    s = step[..., None]
    return state.position + 0.5 * s * s * state.gradient + s * noise


def _accept(old: State, new: State, step: jax.Array, uniform: jax.Array) -> tuple[State, jax.Array]:
    s = step[..., None]

    def log_kernel(a: State, b: State) -> jax.Array:
        residual = (b.position - a.position - 0.5 * s * s * a.gradient) / s
        return -0.5 * (residual * residual).sum(-1)

    log_ratio = new.log_density - old.log_density + log_kernel(new, old) - log_kernel(old, new)
    inside = jnp.isfinite(new.log_density)
    probability = jnp.nan_to_num(jnp.exp(jnp.minimum(log_ratio, 0.0)), nan=0.0)
    probability = jnp.where(jnp.isinf(old.log_density) & inside, 1.0, probability)
    probability = jnp.where(inside, probability, 0.0)
    taken = uniform < probability

    def chosen(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(taken[..., None] if new.ndim > taken.ndim else taken, new, old)

    return State(*map(chosen, new, old)), probability


def _hot(gradient: jax.Array, strength: jax.Array) -> jax.Array:
    rms = jnp.sqrt((gradient**2).mean(-1))
    return jnp.sqrt(2 * strength / (1 + rms))
