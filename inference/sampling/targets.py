"""What many chains sample: a Pyro program or a potential function, over flat positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from pyro import poutine
from pyro.infer.autoguide.initialization import InitMessenger, init_to_uniform
from pyro.ops.integrator import _EXCEPTION_HANDLERS
from torch import Tensor

from pyro_lebm.dynamics.langevin import LogDensity, evaluate
from pyro_lebm.programs.potential import Potential, Strategy
from pyro_lebm.programs.program import Model, Program
from pyro_lebm.programs.reading import unvalidated

RADIUS = 2.0  # of Pyro's init_to_uniform, in unconstrained space
TRIES = 100


class Target(Protocol):
    """A density over positions ``(chains, dim)``."""

    dim: int
    device: torch.device

    def log_density(self, z: Tensor) -> Tensor:
        """``(chains, dim) -> (chains)``."""

    def constrain(self, z: Tensor) -> dict[str, Tensor]:
        """Named values on their supports, ``(*leading, *site shape)``."""

    def pack(self, values: Mapping[str, Tensor]) -> Tensor:
        """Named unconstrained values ``(chains, *shape)`` to positions."""

    def initial(self, chains: int) -> Tensor:
        """Where chains start, at points of positive density."""


class ModelTarget:
    """The posterior of a Pyro program.

    Args:
        model, args, kwargs: the program and what it is called with.
        strategy: how its chains are evaluated together, see `VectorizedMCMC`.
        init_strategy: as for Pyro's kernels.
    """

    def __init__(
        self,
        model: Model,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        strategy: Strategy,
        init_strategy: Callable[..., Any] = init_to_uniform,
    ) -> None:
        # not by `potential`: the model may have arguments of those names itself
        self.potential = Potential(
            in_order(Program.read(model, *args, **kwargs)), strategy=strategy
        )
        self.dim, self._init_strategy = self.potential.dim, init_strategy
        self.device = self.potential.program.draw.device

    def log_density(self, z: Tensor) -> Tensor:
        """Log joint density, ``(chains)``."""
        return outside_where_singular(self.potential.log_density, z)

    def constrain(self, z: Tensor) -> dict[str, Tensor]:
        """Site values on their supports."""
        return self.potential.constrain(z)

    def pack(self, values: Mapping[str, Tensor]) -> Tensor:
        """Unconstrained site values to positions.

        Raises:
            ValueError: for names other than the latent sites'.
        """
        sites = self.potential.program.sites
        names = {site.name for site in sites}
        if set(values) != names:
            raise ValueError(
                f"initial_params: expected the sites {sorted(names)}, got {sorted(values)}"
            )
        for site in sites:
            check_starts(site.name, values[site.name], site.batch + site.event)
        packed = self.potential.program.pack(values, constrained=False)
        return packed.reshape(len(packed), self.dim)

    def initial(self, chains: int) -> Tensor:
        """Uniform in (-2, 2) of unconstrained space, or as ``init_strategy`` says."""
        return _valid(self, self._candidates, chains)

    def _candidates(self, n: int) -> Tensor:
        program = self.potential.program
        if self._init_strategy is init_to_uniform:
            like = program.draw
            return like.new_empty(n, self.dim).uniform_(-RADIUS, RADIUS)
        names = [site.name for site in program.sites]
        model = InitMessenger(self._init_strategy)(program.model)
        found: dict[str, list[Tensor]] = {name: [] for name in names}
        for _ in range(n):
            with poutine.block(), poutine.trace() as trace:
                model(*program.args, **program.kwargs)
            for name in names:
                found[name].append(torch.as_tensor(trace.trace.nodes[name]["value"]).detach())
        packed = program.pack({name: torch.stack(values) for name, values in found.items()})
        return packed.reshape(n, self.dim)


class FunctionTarget:
    """The density exp(-U) of a potential function of named unconstrained values.

    Args:
        potential_fn: ``{name: value} -> ()``, of one chain.
        values: of some chains, for their shapes and their device.
        strategy: ``"vmap"`` or ``"loop"``.
        transforms: from supports to unconstrained space, as Pyro's kernels take them.
    """

    def __init__(
        self,
        potential_fn: Callable[[dict[str, Tensor]], Tensor],
        values: Mapping[str, Tensor],
        strategy: Strategy,
        transforms: Mapping[str, Any] | None = None,
    ) -> None:
        if strategy == "plate":
            raise ValueError("strategy: expected 'vmap' or 'loop' for potential_fn, got 'plate'")
        self.potential_fn, self.strategy = potential_fn, strategy
        self.shapes = {name: values[name].shape[1:] for name in sorted(values)}
        self.device = next((v.device for v in values.values()), torch.device("cpu"))
        self.transforms = dict(transforms or {})
        self.dim = sum(shape.numel() for shape in self.shapes.values())

    def _named(self, z: Tensor) -> dict[str, Tensor]:
        parts = z.split([shape.numel() for shape in self.shapes.values()], -1)
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.reshape(z.shape[:-1] + shape) for (name, shape), part in named}

    def log_density(self, z: Tensor) -> Tensor:
        """-U, ``(chains)``."""
        return outside_where_singular(self._log_density, z)

    def _log_density(self, z: Tensor) -> Tensor:
        def single(one: Tensor) -> Tensor:
            return -self.potential_fn(self._named(one)).reshape(())

        if self.strategy != "loop":
            try:
                with unvalidated():
                    found: Tensor = torch.func.vmap(single)(z)
                return found
            except RuntimeError as error:
                if not any(word in str(error) for word in ("vmap", "functorch")):
                    raise
                if self.strategy == "vmap":
                    raise ValueError(
                        "strategy: 'vmap' has no rule for what potential_fn does: "
                        f"{str(error).splitlines()[0]} Use strategy='loop'"
                    ) from error
                self.strategy = "loop"
        return torch.stack([single(one) for one in z])

    def constrain(self, z: Tensor) -> dict[str, Tensor]:
        """Values, through the inverse transforms where there are any."""
        named = self._named(z)
        return {
            k: self.transforms[k].inv(v) if k in self.transforms else v for k, v in named.items()
        }

    def pack(self, values: Mapping[str, Tensor]) -> Tensor:
        """Named values to positions."""
        for name, shape in self.shapes.items():
            check_starts(name, values[name], shape)
        return torch.cat([values[name].flatten(1) for name in self.shapes], -1)

    def initial(self, chains: int) -> Tensor:
        """Refused: a function says nothing of where to start."""
        raise ValueError("initial_params: expected starting values for potential_fn, got none")


def _valid(target: Target, candidates: Callable[[int], Tensor], chains: int) -> Tensor:
    """Candidates with a finite density and gradient, one a chain."""
    z = candidates(chains)
    for _ in range(TRIES):
        state = evaluate(target.log_density, z)
        bad = torch.isinf(state.log_density)
        if not bool(bad.any()):
            return z
        z = torch.where(bad.unsqueeze(-1), candidates(chains), z)
    raise ValueError(
        f"model: no point of finite density for {int(bad.sum())} of {chains} chains in {TRIES} "
        "tries; give initial_params or another init_strategy"
    )


def check_counts(values: Mapping[str, Tensor] | None, chains: int) -> None:
    """Refuse starting values that are not one for each chain.

    Raises:
        ValueError: naming the site.
    """
    for name, value in (values or {}).items():
        found = len(value) if value.ndim else 0
        if found != chains:
            raise ValueError(
                f"initial_params[{name!r}]: expected one value for each of {chains} chains, "
                f"got {found}"
            )


def check_starts(name: str, values: Tensor, shape: torch.Size) -> None:
    """Refuse starting values of another shape or kind.

    Raises:
        TypeError, ValueError: naming the site.
    """
    if not values.is_floating_point():
        raise TypeError(f"initial_params[{name!r}]: expected floating values, got {values.dtype}")
    if values.shape[1:] != shape or not values.ndim:
        raise ValueError(
            f"initial_params[{name!r}]: expected shape (chains, *{tuple(shape)}), got "
            f"{tuple(values.shape)}"
        )


def singular(error: Exception) -> bool:
    """Whether Pyro's registry counts the error as a point outside of the density."""
    return any(handles(error) for handles in _EXCEPTION_HANDLERS.values())


def outside_where_singular(log_density: LogDensity, z: Tensor) -> Tensor:
    """Log densities ``(chains)``, -inf for the chains whose matrices cannot be factorised."""
    try:
        return log_density(z)
    except Exception as error:
        if not singular(error):
            raise
    if len(z) == 1:
        return z.new_full((1,), -math.inf)
    # one such chain makes the evaluation of all fail: halve until it is alone
    return torch.cat([outside_where_singular(log_density, half) for half in z.tensor_split(2)])


def in_order(program: Program) -> Program:
    """The program with its sites by name, as kernels pack them."""
    return replace(program, sites=tuple(sorted(program.sites, key=lambda site: site.name)))
