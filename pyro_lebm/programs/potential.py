"""The potential energy of a Pyro program: what every kernel stands on."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from ..engines import COMPILERS, ENGINES, Engine, asked, watching
from ..engines import engine as asking
from .program import Model, Program

Strategy = Literal["auto", "vmap", "plate", "loop"]
STRATEGIES = ("auto", "vmap", "plate", "loop")


class Potential:
    r"""Potential energy :math:`U(z) = -\log p(x, z) - \log|J(z)|` of one chain, parameters frozen.

    ``z`` is one flat unconstrained vector of all latent sites; J is the Jacobian of the map to the
    sites' supports. `single` scores one chain; calling the object scores a batch of them.

    Args:
        program: the program read off one trace.
        strategy: how a batch is scored. ``"vmap"`` maps one run of the program over all chains,
            right for any program without Python branches on latent values; ``"loop"`` scores chain
            by chain; ``"auto"``, the default, is vmap, and a loop where there is no rule for that;
            ``"plate"`` runs the program once in a further plate, often faster, right only for a
            program that broadcasts, and compared with `single` here.
        engine: what computes it, see `pyro_lebm.engine`; ``"auto"`` is what is asked for around a
            call. `picked` tells which one that is.

    Attributes:
        dim: length of ``z``.

    Raises:
        ValueError: for a program with a subsampled plate: its posterior is not that of the data;
            for ``strategy="plate"`` where it disagrees with `single`, and under an engine that
            compiles. When called with ``strategy="vmap"``: for an operation without a rule.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> def model():
        ...     return pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        >>> u = potential(model)
        >>> u.single(torch.zeros(1)).round(decimals=4)  # a standard normal in log scale
        tensor(0.9189)
        >>> u(torch.zeros(8, 1)).shape
        torch.Size([8])
    """

    def __init__(
        self, program: Program, *, engine: Engine = "auto", strategy: Strategy = "auto"
    ) -> None:
        if engine not in ENGINES:
            raise ValueError(f"engine: expected one of {ENGINES}, got {engine!r}")
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy: expected one of {STRATEGIES}, got {strategy!r}")
        for name, (size, full) in program.minibatches.items():
            raise ValueError(
                f"model: expected full data, got plate {name!r} with a minibatch of {size} out of "
                f"{full}"
            )
        self.program, self.engine, self.strategy = program, engine, strategy
        self.dim = program.dim * program.elements.numel()
        if strategy == "plate":
            with self._asked():
                self._check_plate()

    def _check_plate(self) -> None:
        """Compare the plate with one chain at a time, at a few points near the program's own."""
        points = torch.stack([self.program.draw.reshape(-1)] * 3)
        points = points + 0.1 * torch.randn_like(points)
        together = self._in_plate(points)
        alone = -torch.stack([self.single(point) for point in points])
        if not torch.allclose(together, alone, rtol=1e-4, atol=1e-3, equal_nan=True):
            raise ValueError(
                "strategy: 'plate' expects a program that broadcasts over a further plate, got log "
                f"densities {together.tolist()} for {alone.tolist()}; use strategy='vmap'"
            )

    def _in_plate(self, z: Tensor) -> Tensor:
        if asked() in COMPILERS:
            raise ValueError(
                f"strategy: expected 'auto', 'vmap' or 'loop' with engine={asked()!r}, which maps "
                "chains itself, got 'plate'"
            )
        return self.program.log_joint_in_plate(self._per_element(z))

    def _asked(self) -> AbstractContextManager[None]:
        # what is asked for around it holds, unless it was made with another engine
        return nullcontext() if self.engine == "auto" else asking(self.engine)

    @property
    def picked(self) -> str:
        """The engine that computes it: ``"native"`` or ``"vjp"`` in any part, or ``"eager"``."""
        with watching() as seen:
            self.single(self.program.draw.reshape(-1))
        return seen[-1] if seen else "eager"

    def _per_element(self, z: Tensor) -> Tensor:
        return z.reshape((*z.shape[:-1], *self.program.elements, self.program.dim))

    def single(self, z: Tensor) -> Tensor:
        """The potential of one chain: ``(dim,) -> ()``."""
        if z.shape != (self.dim,):
            raise ValueError(f"z: expected shape ({self.dim},), got {tuple(z.shape)}")
        with self._asked():
            return -self.program.log_density(self._per_element(z)).sum()

    def __call__(self, z: Tensor) -> Tensor:
        """The potential of many chains: ``(*chains, dim) -> (*chains)``."""
        if z.ndim < 2 or z.shape[-1] != self.dim:
            raise ValueError(f"z: expected shape (*chains, {self.dim}), got {tuple(z.shape)}")
        flat = z.reshape(z.shape[:-1].numel(), self.dim)
        if not len(flat):
            return z.sum(-1)
        with self._asked():
            if self.strategy == "loop":
                found = torch.stack([self.single(one) for one in flat])
            elif self.strategy == "plate":
                found = -self._in_plate(flat)
            else:
                found = self._mapped(flat)
        return found.reshape(z.shape[:-1])

    def _mapped(self, z: Tensor) -> Tensor:
        log_density = self.program.log_density(self._per_element(z))
        if self.strategy == "vmap" and self.program.unmapped is not None:
            raise ValueError(
                f"strategy: 'vmap' has no rule for what the model does {self.program.unmapped} "
                "Use strategy='loop', or 'plate' for a model that broadcasts over a further plate"
            )
        return -log_density.reshape(len(z), -1).sum(-1)

    def log_density(self, z: Tensor) -> Tensor:
        """-U, the form that `pyro_lebm.dynamics.langevin` takes."""
        return -self(z)

    def initial(self, chains: int) -> Tensor:
        """Starting points ``(chains, dim)`` drawn from the program's own prior."""
        if chains < 1:
            raise ValueError(f"chains: expected at least 1, got {chains}")
        return self.program.prior_draws(chains).reshape(chains, self.dim)

    def constrain(self, z: Tensor) -> dict[str, Tensor]:
        """Named site values on their supports, ``(*chains, *site shape)``."""
        return self.program.unpack(self._per_element(z))


def potential(
    model: Model,
    *args: Any,
    engine: Engine = "auto",
    strategy: Strategy = "auto",
    **kwargs: Any,
) -> Potential:
    """The potential energy of ``model(*args, **kwargs)``; see `Potential`."""
    return Potential(Program.read(model, *args, **kwargs), engine=engine, strategy=strategy)
