"""The same chain in JAX, with diffrax's adaptive Dopri5 under jit: a part of ``speed.py``.

diffrax is no requirement of this library: where it cannot be imported, the benchmark says so. What
XLA does is kept to one thread, by flags that must be set before JAX is imported.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pyro_lebm import Series

FLAGS = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def available() -> bool:
    """Whether diffrax can be imported."""
    return importlib.util.find_spec("diffrax") is not None


def sees_gpu() -> bool:
    """Whether JAX computes on a GPU."""
    import jax

    return bool(jax.default_backend() == "gpu")


def one_thread() -> None:
    """Keep XLA to one thread, and this process to one core: CPU time is then what work takes."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


class Peer:
    """The posterior of states under a field, an emission's mean and a scale, in JAX.

    All sequences are one system of equations, as for torchdiffeq: its steps are shared.
    """

    def __init__(self, field: nn.Module, mean: nn.Module, scale: float, series: Series) -> None:
        import diffrax
        import jax
        import jax.numpy as jnp

        def to_jax(x: Tensor) -> Any:
            return jnp.asarray(x.detach().cpu().numpy())

        def network(layers: nn.Module) -> Callable[[Any], Any]:
            first, second = (
                (
                    jnp.asarray(x.weight.detach().cpu().numpy()).T,
                    jnp.asarray(x.bias.detach().cpu().numpy()),
                )
                for x in layers.modules()
                if isinstance(x, nn.Linear)
            )
            return lambda z: jnp.tanh(z @ first[0] + first[1]) @ second[0] + second[1]

        slope, read = network(field), network(mean)
        times, values = map(to_jax, (series.times, series.values))
        term = diffrax.ODETerm(lambda t, z, args: slope(z))

        def log_density(z: Any) -> Any:
            path = diffrax.diffeqsolve(
                term,
                diffrax.Dopri5(),
                t0=0.0,
                t1=times[-1],
                dt0=None,
                y0=z,
                saveat=diffrax.SaveAt(ts=times),
                stepsize_controller=diffrax.PIDController(rtol=1e-3, atol=1e-4),
            ).ys
            residual = (values.swapaxes(0, 1) - read(path)) / scale
            return -0.5 * (residual**2).sum() - 0.5 * (z**2).sum()

        self._gradient = jax.jit(jax.grad(log_density))
        self._jax = jax

    def gradient(self, z: Tensor) -> Tensor:
        """Of the log density, in the states."""
        return torch.from_numpy(self._jax.device_get(self._gradient(z.cpu().numpy())).copy())

    def chain(self, z: Tensor, steps: int, size: float) -> Callable[[], object]:
        """Unadjusted Langevin steps from z, compiled as one."""
        jax = self._jax

        def run(z: Any, key: Any) -> Any:
            def step(carry: tuple[Any, Any], key: Any) -> tuple[tuple[Any, Any], None]:
                position, gradient = carry
                noise = jax.random.normal(key, position.shape)
                position = position + 0.5 * size**2 * gradient + size * noise
                return (position, self._gradient(position)), None

            keys = jax.random.split(key, steps - 1)
            return jax.lax.scan(step, (z, self._gradient(z)), keys)[0]

        start, key = jax.numpy.asarray(z.cpu().numpy()), jax.random.PRNGKey(0)
        compiled = jax.jit(run)
        return lambda: jax.block_until_ready(compiled(start, key))
