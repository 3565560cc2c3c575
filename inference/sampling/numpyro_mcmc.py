"""NumPyro's samplers on an unmodified Pyro model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_lebm.programs.potential import Potential

from .run import Run
from .targets import ModelTarget, check_counts

KERNELS = {"nuts": "NUTS", "hmc": "HMC", "barker": "BarkerMH"}
# A quarter turn of a Gaussian in its metric: NumPyro's 2 pi is a whole one, back to the start.
DEFAULTS = {"hmc": {"trajectory_length": math.pi / 2}}
# Our names of NumPyro's fields; a kernel that lacks one says so by its absence.
FIELDS = {
    "potential_energy": "lp",
    "accept_prob": "acceptance_rate",
    "num_steps": "n_steps",
    "diverging": "diverging",
    "energy": "energy",
    "adapt_state.step_size": "step_size",
}
EXTRA = {"barker": ("potential_energy", "accept_prob", "adapt_state.step_size")}


class NumPyroMCMC(Run):
    """A Pyro model sampled by NumPyro, compiled by XLA.

    The model's potential is run once and noted down as a graph of ATen operations, parameters
    frozen; what does not hang on the latent values is computed then; successive equal stretches,
    such as the steps of a solver, become one loop; the rest is translated to JAX operation by
    operation. The model stays as it is.

    Args:
        model: a Pyro program with continuous latent sites.
        kernel: ``"nuts"``, ``"hmc"`` or ``"barker"``.
        num_samples, warmup_steps, num_chains: as for `VectorizedMCMC`.
        initial_params: unconstrained starting values, ``{site: (num_chains, *shape)}``.
        chain_method: NumPyro's: ``"vectorized"``, the default where the kernel can do it,
            ``"parallel"`` (a JAX device for each chain: on CPUs they are made, before JAX starts,
            by ``XLA_FLAGS=--xla_force_host_platform_device_count=4``) or ``"sequential"``.
        progress: NumPyro's bar (not for vectorized chains).
        kernel_options: for NumPyro's kernel, such as ``{"target_accept_prob": 0.9}``; HMC's
            ``trajectory_length`` is pi / 2 unless given.

    Raises:
        ImportError: without NumPyro; says how to install it.
        ValueError: for another kernel, a count below one, or fewer devices than parallel chains.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model():
        ...     return pyro.sample("x", dist.Normal(0.0, 1.0))
        >>> mcmc = NumPyroMCMC(model, num_samples=20, warmup_steps=20, num_chains=2)
        >>> mcmc.run()
        >>> mcmc.get_samples(group_by_chain=True)["x"].shape
        torch.Size([2, 20])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        kernel: str = "nuts",
        num_samples: int = 1000,
        warmup_steps: int | None = None,
        *,
        num_chains: int = 4,
        initial_params: Mapping[str, Tensor] | None = None,
        thinning: int = 1,
        chain_method: str | None = None,
        progress: bool = False,
        kernel_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if kernel not in KERNELS:
            raise ValueError(f"kernel: expected one of {sorted(KERNELS)}, got {kernel!r}")
        counts = {"num_samples": num_samples, "num_chains": num_chains, "thinning": thinning}
        for name, value in counts.items():
            if int(value) != value or value < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value}")
        check_counts(initial_params, num_chains)
        _numpyro()
        self.model, self.kernel, self.num_chains = model, kernel, num_chains
        self.num_samples, self.thinning = num_samples, thinning
        self.warmup_steps = num_samples if warmup_steps is None else warmup_steps
        together = "vectorized" if kernel in ("nuts", "hmc") else "sequential"
        self.initial_params, self.chain_method = initial_params, chain_method or together
        _check_devices(self.chain_method, num_chains)
        self.progress, self.kernel_options = (
            progress,
            DEFAULTS.get(kernel, {}) | dict(kernel_options or {}),
        )
        self.method, self.adjusted = f"NumPyro's {KERNELS[kernel]}", True
        self._draws: Tensor | None = None
        self._statistics: dict[str, Tensor] = {}

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Translate, compile, warm up and draw; the arguments are the model's.

        The seed is drawn from torch's generator.

        Raises:
            UnknownOperation: an operation that is not translated; names it and the site.
        """
        self.args, self.kwargs = args, kwargs
        target = ModelTarget(self.model, args, kwargs, "loop")
        function = translated(target.potential, target.potential.program.draw.reshape(-1))
        if self.initial_params is None:
            start = target.initial(self.num_chains)
        else:
            start = target.pack(self.initial_params).detach()
        seed = int(torch.randint(2**31 - 1, ()))
        self._draws, self._statistics = self._sample(function, start, seed)
        self._target = target

    def _sample(
        self, function: Callable[[Any], Any], start: Tensor, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        jax, numpyro = _numpyro()
        with jax.enable_x64(start.dtype == torch.float64):
            make = getattr(numpyro.infer, KERNELS[self.kernel])
            kernel = make(potential_fn=function, **self.kernel_options)
            mcmc = numpyro.infer.MCMC(
                kernel,
                num_warmup=self.warmup_steps,
                num_samples=self.num_samples * self.thinning,
                num_chains=self.num_chains,
                thinning=self.thinning,
                chain_method=self.chain_method,
                progress_bar=self.progress,
            )
            position = start if self.num_chains > 1 else start[0]
            mcmc.run(
                jax.random.PRNGKey(seed),
                init_params=jax.numpy.asarray(position.cpu().numpy()),
                extra_fields=EXTRA.get(self.kernel, tuple(FIELDS)),
            )
            draws = _tensor(mcmc.get_samples(group_by_chain=True)).to(start)
            extra = mcmc.get_extra_fields(group_by_chain=True)
            found = {FIELDS[name]: _tensor(value).to(start.device) for name, value in extra.items()}
        if "lp" in found:
            found["lp"] = -found["lp"]
        return draws, found

    @property
    def statistics(self) -> dict[str, Tensor]:
        """Statistics of each draw, as far as NumPyro's kernel tells them."""
        return self._statistics

    def _drawn(self) -> Tensor | None:
        return self._draws


def translated(potential: Potential, example: Tensor) -> Callable[[Any], Any]:
    """The potential of one chain as a function of a JAX array ``(dim,)``.

    Raises:
        UnknownOperation: an operation that is not translated.
        ValueError: what cannot be translated, or was translated into something else.
    """
    program = potential.program
    bound = program.compiled(program.draw.to(example)).bound
    shape = (*program.elements, program.dim)

    def function(z: Any) -> Any:
        return -bound.compiled.log_density(z.reshape(shape), bound.constants).sum()

    return function


def _check_devices(chain_method: str, num_chains: int) -> None:
    """NumPyro would only warn, and run one chain after the other."""
    jax, _ = _numpyro()
    if chain_method == "parallel" and jax.local_device_count() < num_chains:
        raise ValueError(
            f"chain_method: expected a JAX device for each of {num_chains} parallel chains, got "
            f"{jax.local_device_count()}; on CPUs, set XLA_FLAGS="
            f"--xla_force_host_platform_device_count={num_chains} before JAX starts, or take "
            "chain_method='vectorized'"
        )


def _numpyro() -> tuple[Any, Any]:
    try:
        import jax
        import numpyro.infer
    except ImportError as error:
        raise ImportError(
            "NumPyroMCMC: needs jax and numpyro; install them with pip install 'pyro-lebm[numpyro]'"
        ) from error
    return jax, numpyro


def _tensor(value: Any) -> Tensor:
    import numpy

    return torch.from_numpy(numpy.array(value))
