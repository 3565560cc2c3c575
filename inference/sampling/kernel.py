"""The adapter between a way to move chains and Pyro's MCMC."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import pyro
import torch
from pyro.infer.autoguide.initialization import init_to_uniform
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from pyro.infer.mcmc.util import initialize_model
from torch import Tensor

from pyro_lebm.dynamics.langevin import LogDensity, State
from pyro_lebm.dynamics.metric import Metric, unit_metric
from pyro_lebm.programs.scoring import RefuseDrawn

from .sampler import LARGEST_DENSE, Move, Sampler, Statistics
from .targets import singular

Params = dict[str, Tensor]
METRICS = ("auto", "dense", "diag", "none")


class Kernel(MCMCKernel):
    """A way to move chains, as a kernel of `pyro.infer.MCMC` and of `VectorizedMCMC`.

    Concrete kernels say how to move (`move`); this class does what Pyro asks of a kernel, for one
    chain. Positions are the model's latent sites, unconstrained and packed in the order of their
    names.

    Args:
        model: a Pyro program whose latent sites are continuous (discrete ones marked for
            enumeration are summed out under Pyro's MCMC).
        potential_fn: instead of a model, a function of a dictionary of unconstrained values.
        step_size: where the search for the step size begins, or the step size itself.
        adapt_step_size: learn it in the warm-up.
        metric: ``"dense"``, ``"diag"`` or ``"none"``: the linear map to white coordinates that the
            warm-up learns, from draws and gradients of all chains (`dynamics.metric.learned`);
            ``"auto"`` is dense up to 100 dimensions.
        target_acceptance: what the warm-up tunes the step size to; the kernel's own by default.
        transforms, max_plate_nesting, jit_compile, jit_options, ignore_jit_warnings,
            init_strategy: as for Pyro's HMC.

    Raises:
        ValueError: for both or neither of model and potential_fn, a step size that is not
            positive, an unknown metric, an acceptance outside (0, 1).
    """

    adjusted: ClassVar[bool] = True
    acceptance: ClassVar[float]
    gradients: int = 1  # evaluations of the target a move takes

    def __init__(
        self,
        model: Callable[..., Any] | None = None,
        potential_fn: Callable[[Params], Tensor] | None = None,
        *,
        step_size: float = 1.0,
        adapt_step_size: bool = True,
        metric: Literal["auto", "dense", "diag", "none"] = "auto",
        target_acceptance: float | None = None,
        transforms: Mapping[str, Any] | None = None,
        max_plate_nesting: int | None = None,
        jit_compile: bool = False,
        jit_options: dict[str, Any] | None = None,
        ignore_jit_warnings: bool = False,
        init_strategy: Callable[..., Any] = init_to_uniform,
    ) -> None:
        super().__init__()
        if (model is None) == (potential_fn is None):
            raise ValueError("model, potential_fn: expected exactly one of them")
        if not (step_size > 0 and math.isfinite(step_size)):
            raise ValueError(f"step_size: expected a positive number, got {step_size}")
        if metric not in METRICS:
            raise ValueError(f"metric: expected one of {METRICS}, got {metric!r}")
        target = self.acceptance if target_acceptance is None else target_acceptance
        if not 0 < target < 1:
            raise ValueError(f"target_acceptance: expected a number in (0, 1), got {target}")
        self.model, self.potential_fn, self.step_size = model, potential_fn, float(step_size)
        self.adapt_step_size, self.target_acceptance = adapt_step_size, target
        self.metric: Literal["auto", "dense", "diag", "none"] = metric
        self.transforms = None if transforms is None else dict(transforms)
        self._given_transforms = self.transforms
        self.init_strategy = init_strategy
        self._save_params: list[str] | None = None
        self._initialize = {
            "max_plate_nesting": max_plate_nesting,
            "jit_compile": jit_compile,
            "jit_options": jit_options,
            "skip_jit_warnings": ignore_jit_warnings,
            "init_strategy": init_strategy,
        }
        self._reset()

    # What a kernel is

    @abstractmethod
    def move(self, target: LogDensity, state: State, momentum: Tensor, step_size: Tensor) -> Move:
        """Advance all chains ``(chains, dim)`` by one move."""

    def first_metric(self, log_density: LogDensity, position: Tensor) -> Metric:
        """White coordinates to start with, for a target and positions ``(chains, dim)``."""
        dim = position.shape[-1]
        dense = self.metric == "dense" or (self.metric == "auto" and dim <= LARGEST_DENSE)
        return unit_metric(position, dense)

    def first_position(self, metric: Metric, position: Tensor) -> Tensor:
        """Where chains start that were to start at ``position``: there."""
        return position

    def seen(self, log_density: LogDensity, metric: Metric) -> LogDensity:
        """The target as moves see it: all of it, for kernels of full data."""
        return log_density

    def begin(self, state: State) -> Tensor:
        """Momenta to start with; of a kernel that has none, ``(chains, 0)``."""
        return state.position[..., :0]

    def score(self, move: Move) -> Tensor:
        """What the step size is tuned by, per chain, falling with it: the acceptance."""
        return move.acceptance

    # What Pyro asks of one

    def _reset(self) -> None:
        self._initial_params: Params | None = None
        self._sampler: Sampler | None = None
        self._last: Params | None = None
        self._shapes: dict[str, torch.Size] = {}
        self._kept: list[Statistics] = []
        self._warmup = 0
        self._mean_acceptance = 0.0

    @property
    def save_params(self) -> list[str]:
        """Names of the sites whose draws are kept. (Pyro unpacks them sorted.)"""
        if self._save_params is None:
            raise AttributeError("save_params")
        return self._save_params

    @save_params.setter
    def save_params(self, names: list[str]) -> None:
        self._save_params = sorted(names)

    @property
    def initial_params(self) -> Params | None:
        """Unconstrained starting values of one chain."""
        return self._initial_params

    @initial_params.setter
    def initial_params(self, params: Params) -> None:
        self._initial_params = params

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        """Called by Pyro before a chain begins.

        Raises:
            ValueError: for a potential without initial parameters.
        """
        given = self._initial_params
        self._reset()
        self._warmup, self._initial_params = warmup_steps, given
        if self.model is not None:
            self._read_model(args, kwargs)
        if self._initial_params is None:
            raise ValueError("initial_params: expected starting values for potential_fn, got none")
        if self._initial_params:
            self._start(self._initial_params)

    def _read_model(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        with RefuseDrawn():
            params, self.potential_fn, self.transforms, _ = initialize_model(
                self.model,
                args,
                kwargs,
                transforms=self._given_transforms,
                initial_params=self._initial_params,
                **self._initialize,
            )
        self._initial_params = params

    def _start(self, params: Params) -> None:
        self._shapes = {name: params[name].shape for name in sorted(params)}
        with pyro.validation_enabled(False):
            self._sampler = Sampler(self, self._log_density, self._packed(params), self._warmup)
        self._last = params

    def _packed(self, params: Params) -> Tensor:
        return torch.cat([params[name].detach().reshape(-1) for name in self._shapes])[None]

    def _unpacked(self, position: Tensor) -> Params:
        parts = position.split([shape.numel() for shape in self._shapes.values()])
        named = zip(self._shapes.items(), parts, strict=True)
        return OrderedDict((name, part.reshape(shape)) for (name, shape), part in named)

    def _log_density(self, position: Tensor) -> Tensor:
        # one chain, but some kernels hold several replicas of it
        return torch.stack([self._one_log_density(one) for one in position])

    def _one_log_density(self, position: Tensor) -> Tensor:
        assert self.potential_fn is not None
        try:
            return -self.potential_fn(self._unpacked(position)).reshape(())
        except Exception as error:
            if singular(error):
                return position.new_tensor(-math.inf)
            raise

    # A process that is spawned starts with an empty parameter store: the kernel brings its values.

    def __getstate__(self) -> dict[str, Any]:
        # as arrays: torch shares tensors with a process by files, which copies do not outlive
        store = {k: v.detach().cpu().numpy() for k, v in pyro.get_param_store().items()}
        return {**self.__dict__, "_store": store}

    def __setstate__(self, state: dict[str, Any]) -> None:
        store = state.pop("_store")
        self.__dict__.update(state)
        for name, value in store.items():
            if name not in pyro.get_param_store():
                pyro.get_param_store()[name] = torch.tensor(value)

    def sample(self, params: Params) -> Params:
        """One draw, given the last one."""
        if not params:
            return params
        if self._sampler is None:
            self._start(params)
        assert self._sampler is not None
        with pyro.validation_enabled(False):
            if params is not self._last:
                self._sampler.move_to(self._packed(params))
            found = self._sampler.advance()
        self._note(found)
        self._last = self._unpacked(self._sampler.position[0])
        return self._last

    def _note(self, found: Statistics) -> None:
        assert self._sampler is not None
        t = self._sampler.t
        if t > self._warmup:
            self._kept.append(found)
            t -= self._warmup
        self._mean_acceptance += (float(found.acceptance_rate) - self._mean_acceptance) / t

    def logging(self) -> dict[str, str]:
        """What the progress bar shows."""
        step = self.step_size if self._sampler is None else float(self._sampler.step_size)
        return OrderedDict(
            [("step size", f"{step:.2e}"), ("acc. prob", f"{self._mean_acceptance:.3f}")]
        )

    def diagnostics(self) -> dict[str, Any]:
        """Of the draws after the warm-up: a number each, and Pyro's own two."""
        kept = self._kept
        found: dict[str, Any] = {
            "divergences": [i for i, s in enumerate(kept) if bool(s.diverging)],
            "acceptance rate": self._mean_acceptance,
        }
        for name in ("lp", "acceptance_rate", "step_size", "n_steps", "energy", "gradient_noise"):
            values = [getattr(s, name) for s in kept]
            if values and values[0] is not None:
                found[name] = [v.item() for v in values]
        return found

    def cleanup(self) -> None:
        """Forget the run; its transforms stay, as Pyro asks for them afterwards."""
        self._reset()
