"""Ways of sampling that ``kernels.py`` measures: each tells what it took and what it drew."""

from __future__ import annotations

import importlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import numpyro.infer
import pyro
import pyro.ops.integrator
import torch
from kernel_targets import Target
from numpyro.infer.util import initialize_model
from pyro.infer import MCMC, NUTS

from pyro_lebm.inference import NumPyroMCMC

clock = time.process_time
finished: Any = jax.block_until_ready
numpyro_mcmc = numpyro.infer.MCMC
CHAINS = 4  # of NumPyro's NUTS, vectorised: what NumPyroMCMC does by default


class Drawn(NamedTuple):
    """Of one run.

    Attributes:
        values: constrained, ``{site: (chains, draws, ...)}``.
        setup, warmup, draw: seconds of CPU time; setup is what comes before the first move.
        gradients: evaluations of the gradient while drawing, over all chains.
    """

    values: dict[str, Any]
    setup: float
    warmup: float
    draw: float
    gradients: float


class Row(ABC):
    """A way of sampling a target."""

    compiled = False  # whether its first run compiles, which is to be told apart

    def __init__(self, name: str, target: Target, quick: bool) -> None:
        self.name, self.target = name, target
        self.sizes = target.quick if quick else target.sizes

    @abstractmethod
    def run(self, seed: int) -> Drawn: ...

    def starts(self, seed: int, chains: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return self.target.starts(chains)


class PyroNUTS(Row):
    """Pyro's own, at its defaults; jit is PyTorch's tracing of the potential."""

    def __init__(self, name: str, target: Target, quick: bool, jit: bool) -> None:
        super().__init__(name, target, quick)
        self.jit = jit

    def run(self, seed: int) -> Drawn:
        marks: dict[str, tuple[float, int]] = {}
        count = 0

        def counted(*args: Any) -> Any:
            nonlocal count
            count += 1
            return gradient(*args)

        def mark(kernel: Any, params: Any, stage: str, i: int) -> None:
            if stage == "Warmup":
                marks["warm"] = clock(), count

        def set_up(*args: Any, **kwargs: Any) -> None:
            original(*args, **kwargs)
            marks["ready"] = clock(), count

        gradient: Any = pyro.ops.integrator.potential_grad
        options = {"jit_compile": self.jit, "ignore_jit_warnings": True}
        kernel: Any = NUTS(self.target.model, **options)
        original, kernel.setup = kernel.setup, set_up
        n, start = self.sizes.pyro, {k: v[0] for k, v in self.starts(seed, 1).items()}
        mcmc = MCMC(kernel, n, n, initial_params=start, disable_progbar=True, hook_fn=mark)
        pyro.clear_param_store()
        begin = clock()
        # both: HMC imports the name, its integrator looks it up
        with (
            mock.patch("pyro.ops.integrator.potential_grad", counted),
            mock.patch("pyro.infer.mcmc.hmc.potential_grad", counted),
        ):
            mcmc.run(*self.target.args)
        values = {k: v.detach().numpy() for k, v in mcmc.get_samples(group_by_chain=True).items()}
        end = clock()
        (ready, _), (warm, before) = marks["ready"], marks["warm"]
        return Drawn(values, ready - begin, warm - ready, end - warm, count - before)


class Timed:
    """NumPyro's MCMC with its moves compiled once; by itself it compiles anew in every run.

    Its kernel adapts as long as it has made fewer moves than the warm-up has, so that warm-up and
    draws, being as many, are two calls of one function.
    """

    def __init__(self, kernel: Any, **options: Any) -> None:
        self.inner = numpyro_mcmc(kernel, **options)
        self.fields: tuple[str, ...] = ()
        self.first, self.moves = jax.jit(self._first), jax.jit(self._moves)
        self.warmup = self.draw = 0.0
        self.found: Any = None

    def _first(self, key: Any, init_params: Any) -> Any:
        keys = jax.random.split(key, self.inner.num_chains)
        return self.inner.sampler.init(keys, self.inner.num_warmup, init_params, (), {})

    def _moves(self, key: Any, state: Any) -> Any:
        self.inner.post_warmup_state = state
        self.inner.run(key, extra_fields=self.fields)
        found = self.inner.get_samples(True), self.inner.get_extra_fields(True)
        return self.inner.last_state, found

    def run(self, key: Any, init_params: Any, extra_fields: tuple[str, ...]) -> None:
        self.fields = extra_fields
        keys = jax.random.split(key, 3)
        begin = clock()
        state, _ = finished(self.moves(keys[1], self.first(keys[0], init_params)))
        warm = clock()
        _, self.found = finished(self.moves(keys[2], state))
        self.warmup, self.draw = warm - begin, clock() - warm

    def get_samples(self, group_by_chain: bool = True) -> Any:
        return self.found[0]

    def get_extra_fields(self, group_by_chain: bool = True) -> Any:
        return self.found[1]


class NativeNUTS(Row):
    """NumPyro's NUTS on the model written for it."""

    compiled = True

    def __init__(self, name: str, target: Target, quick: bool, dense: bool = False) -> None:
        super().__init__(name, target, quick)
        self.mcmc = Timed(
            numpyro.infer.NUTS(target.native, dense_mass=dense),
            num_warmup=self.sizes.numpyro,
            num_samples=self.sizes.numpyro,
            num_chains=CHAINS,
            chain_method="vectorized",
            progress_bar=False,
        )

    def run(self, seed: int) -> Drawn:
        start = {k: jnp.asarray(v.numpy()) for k, v in self.starts(seed, CHAINS).items()}
        begin = clock()
        self.mcmc.run(jax.random.PRNGKey(seed), start, ("num_steps",))
        values = {k: np.asarray(v) for k, v in self.mcmc.get_samples(group_by_chain=True).items()}
        setup = clock() - begin - self.mcmc.warmup - self.mcmc.draw
        gradients = float(self.mcmc.get_extra_fields()["num_steps"].sum())
        return Drawn(values, setup, self.mcmc.warmup, self.mcmc.draw, gradients)


class OurNumPyro(Row):
    """NumPyro's NUTS on the Pyro program, which is translated in every run."""

    compiled = True

    def __init__(self, name: str, target: Target, quick: bool) -> None:
        super().__init__(name, target, quick)
        self.made: list[Timed] = []

    def _once(self, kernel: Any, **options: Any) -> Timed:
        """The first run's, so that later ones compile as little as the native row's do."""
        if not self.made:
            self.made.append(Timed(kernel, **options))
        return self.made[0]

    def run(self, seed: int) -> Drawn:
        mcmc = NumPyroMCMC(
            self.target.model,
            num_samples=self.sizes.numpyro,
            num_chains=CHAINS,
            initial_params=self.starts(seed, CHAINS),
        )
        begin = clock()
        with mock.patch("numpyro.infer.MCMC", self._once):
            mcmc.run(*self.target.args)
        ran = clock()
        values = {k: v.numpy() for k, v in mcmc.get_samples(group_by_chain=True).items()}
        inner = self.made[0]
        setup = ran - begin - inner.warmup - inner.draw
        gradients = float(mcmc.statistics["n_steps"].sum())
        return Drawn(values, setup, inner.warmup, inner.draw + clock() - ran, gradients)


class BlackJAX(Row):
    """One of BlackJAX's kernels on the density of the native model, chains by ``jax.vmap``."""

    compiled = True
    gradients, steps = 1, 1  # of a step, between draws

    def __init__(self, name: str, target: Target, quick: bool) -> None:
        super().__init__(name, target, quick)
        self.blackjax: Any = importlib.import_module("blackjax")
        info = initialize_model(jax.random.PRNGKey(0), target.native)
        self.constrain = info.postprocess_fn
        _, self.unflatten = jax.flatten_util.ravel_pytree(info.param_info.z)
        self.names = set(info.param_info.z)
        self.log_density: Any = lambda x: -info.potential_fn(self.unflatten(x))
        self.warm, self.drawing = jax.jit(self.warmup), jax.jit(self.draw)

    @abstractmethod
    def warmup(self, key: Any, position: Any) -> tuple[Any, Any]:
        """States of all chains ``(chains, dim)`` and what was tuned."""

    @abstractmethod
    def move(self, tuned: Any) -> Callable[[Any, Any], Any]:
        """A move of one chain: a function of a key and a state."""

    def draw(self, key: Any, states: Any, tuned: Any) -> Any:
        moves = self.steps * self.sizes.ours
        _, positions = self.many(key, states, moves, self.move(tuned))
        return self.named(positions[self.steps - 1 :: self.steps], tuned)

    def run(self, seed: int) -> Drawn:
        starts = self.starts(seed, self.sizes.chains)
        parts = [starts[k].reshape(self.sizes.chains, -1).numpy() for k in sorted(starts)]
        flat = jnp.concatenate(parts, 1)  # in the order of ravel_pytree
        first, second = jax.random.split(jax.random.PRNGKey(seed))
        begin = clock()
        states, tuned = finished(self.warm(first, flat))
        warm = clock()
        positions = finished(self.drawing(second, states, tuned))
        end = clock()
        values = {k: np.asarray(jnp.swapaxes(v, 0, 1)) for k, v in positions.items()}
        gradients = self.sizes.ours * self.sizes.chains * self.steps * self.gradients
        return Drawn(values, 0.0, warm - begin, end - warm, gradients)

    def many(self, key: Any, states: Any, moves: int, one: Callable[..., Any]) -> Any:
        """``moves`` of all chains: last states, and constrained positions on the way."""

        def turn(states: Any, key: Any) -> tuple[Any, Any]:
            states, _ = jax.vmap(one)(jax.random.split(key, self.sizes.chains), states)
            return states, states.position

        return jax.lax.scan(turn, states, jax.random.split(key, moves))

    def named(self, positions: Any, tuned: Any) -> Any:
        latent = jax.vmap(jax.vmap(lambda x: self.constrain(self.unflatten(x))))(positions)
        return {k: v for k, v in latent.items() if k in self.names}


class BlackMALA(BlackJAX):
    """In coordinates whitened by BlackJAX's window adaptation, its step by its dual averaging.

    BlackJAX has no warm-up for MALA itself: one chain of its NUTS learns the metric.
    """

    def warmup(self, key: Any, position: Any) -> tuple[Any, Any]:
        learning, moving = jax.random.split(key)
        adaptation = self.blackjax.window_adaptation(
            self.blackjax.nuts, self.log_density, is_mass_matrix_diagonal=False
        )
        (_, found), _ = adaptation.run(learning, position[0], self.sizes.numpyro)
        factor = jnp.linalg.cholesky(found["inverse_mass_matrix"])
        density = self.white(factor)
        init = partial(self.blackjax.mala.init, logdensity_fn=density)
        states = jax.vmap(init)(jnp.linalg.solve(factor, position.T).T)
        averaging = importlib.import_module("blackjax.adaptation.step_size")
        first, update, final = averaging.dual_averaging_adaptation(0.574)

        def turn(carry: Any, key: Any) -> tuple[Any, None]:
            states, average = carry
            move = self.move((factor, jnp.exp(average.log_step_size)))
            states, info = jax.vmap(move)(jax.random.split(key, self.sizes.chains), states)
            return (states, update(average, info.acceptance_rate.mean())), None

        keys = jax.random.split(moving, self.sizes.ours)
        (states, average), _ = jax.lax.scan(turn, (states, first(0.1)), keys)
        return states, (factor, final(average))

    def white(self, factor: Any) -> Callable[[Any], Any]:
        return lambda y: self.log_density(factor @ y)

    def move(self, tuned: Any) -> Callable[[Any, Any], Any]:
        kernel, density = self.blackjax.mala.build_kernel(), self.white(tuned[0])
        return lambda key, state: kernel(key, state, density, tuned[1])

    def named(self, positions: Any, tuned: Any) -> Any:
        return super().named(positions @ tuned[0].T, tuned)


class BlackMCLMC(BlackJAX):
    """BlackJAX's tuning on one chain; the others then run to their own burn-in."""

    gradients, steps = 2, 4  # its integrator evaluates two a step

    def warmup(self, key: Any, position: Any) -> tuple[Any, Any]:
        mclmc = self.blackjax.mcmc.mclmc
        tuning, starting, moving = jax.random.split(key, 3)
        state = mclmc.init(position[0], self.log_density, starting)
        _, tuned, _ = self.blackjax.mclmc_find_L_and_step_size(
            mclmc_kernel=mclmc.build_kernel(),
            num_steps=10 * self.sizes.numpyro,
            state=state,
            rng_key=tuning,
            logdensity_fn=self.log_density,
        )
        keys = jax.random.split(starting, self.sizes.chains)
        states = jax.vmap(lambda x, k: mclmc.init(x, self.log_density, k))(position, keys)
        states, _ = self.many(moving, states, self.steps * self.sizes.ours, self.move(tuned))
        return states, tuned

    def move(self, tuned: Any) -> Callable[[Any, Any], Any]:
        kernel, density = self.blackjax.mcmc.mclmc.build_kernel(), self.log_density
        metric, length, size = tuned.inverse_mass_matrix, tuned.L, tuned.step_size
        return lambda key, state: kernel(key, state, density, metric, length, size)
