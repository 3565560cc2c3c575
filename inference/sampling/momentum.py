"""Kernels with momentum: Underdamped, MALT, MCLMC. Their ``step_size`` is a time."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_lebm.dynamics.langevin import LogDensity, State
from pyro_lebm.dynamics.microcanonical import mclmc_step, random_direction
from pyro_lebm.dynamics.underdamped import baoab_step, kinetic, malt_step

from .kernel import Kernel
from .sampler import Move


class Underdamped(Kernel):
    r"""Underdamped Langevin dynamics, unadjusted (BAOAB; Leimkuhler & Matthews 2013, 1203.5428).

    .. math:: dz = v\,dt, \qquad dv = \nabla\log p(z)\,dt - \gamma v\,dt + \sqrt{2\gamma}\,dW

    in the white coordinates the warm-up learns. The velocity is kept from draw to draw. Exact in
    the variance of Gaussian targets, elsewhere biased by the square of the step. ``step_size`` is a
    time; the warm-up tunes it to where a Metropolis test, not made, would accept .95 of the steps.

    Args:
        friction: :math:`\gamma`, per unit of time.
        steps: of the integrator between one draw and the next.
        options: as for `Kernel`, whose first two arguments are the first here.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro.infer import MCMC
        >>> def model():
        ...     return pyro.sample("x", dist.Normal(0.0, 1.0))
        >>> mcmc = MCMC(Underdamped(model), num_samples=10, warmup_steps=10, disable_progbar=True)
        >>> mcmc.run()
        >>> mcmc.get_samples()["x"].shape
        torch.Size([10])
    """

    adjusted: ClassVar[bool] = False
    acceptance: ClassVar[float] = 0.95

    def __init__(
        self,
        model: Any = None,
        potential_fn: Any = None,
        *,
        friction: float = 1.0,
        steps: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(model, potential_fn, **options)
        _check_friction(friction)
        _check_steps(steps)
        self.friction, self.gradients = friction, steps

    def begin(self, state: State) -> Tensor:
        """Velocities of unit temperature."""
        return torch.randn_like(state.position)

    def move(self, target: LogDensity, state: State, momentum: Tensor, step_size: Tensor) -> Move:
        """``steps`` of BAOAB."""
        total = torch.zeros_like(state.log_density)
        worst = torch.ones_like(total)
        for _ in range(self.gradients):
            state, momentum, error = baoab_step(target, state, momentum, step_size, self.friction)
            worst = torch.minimum(worst, (-error).clamp(max=0.0).exp().nan_to_num(nan=0.0))
            total = total + error
        return Move(state, momentum, worst, total, kinetic(momentum) - state.log_density)


class MALT(Kernel):
    r"""Metropolis-adjusted Langevin trajectories (Riou-Durand & Vogrinc 2022, arXiv 2202.13230).

    A fresh velocity, ``steps`` steps of underdamped dynamics (OBABO) in the white coordinates the
    warm-up learns, and one test of the whole, whose exponent is the sum of the leapfrog parts'
    energy errors: the noise inside the trajectory costs no acceptance. At friction 0 it is
    Hamiltonian Monte Carlo with a fixed number of steps; friction makes it care less about that
    number. ``step_size`` is a time, tuned to an acceptance of .8.

    Args:
        friction: :math:`\gamma`, per unit of time; 0 is allowed.
        steps: leapfrog steps of a trajectory.
        options: as for `Kernel`, whose first two arguments are the first here.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro.infer import MCMC
        >>> def model():
        ...     return pyro.sample("x", dist.Normal(0.0, 1.0))
        >>> mcmc = MCMC(MALT(model), num_samples=10, warmup_steps=10, disable_progbar=True)
        >>> mcmc.run()
        >>> mcmc.get_samples()["x"].shape
        torch.Size([10])
    """

    acceptance: ClassVar[float] = 0.8

    def __init__(
        self,
        model: Any = None,
        potential_fn: Any = None,
        *,
        friction: float = 1.0,
        steps: int = 4,
        **options: Any,
    ) -> None:
        super().__init__(model, potential_fn, **options)
        _check_friction(friction, least=0.0)
        _check_steps(steps)
        self.friction, self.gradients = friction, steps

    def move(self, target: LogDensity, state: State, momentum: Tensor, step_size: Tensor) -> Move:
        """One trajectory."""
        new, probability, error, energy = malt_step(
            target, state, step_size, friction=self.friction, steps=self.gradients
        )
        return Move(new, momentum, probability, error, energy)


class MCLMC(Kernel):
    r"""Microcanonical Langevin Monte Carlo, unadjusted (Robnik & Seljak 2023, arXiv 2303.18221).

    The velocity has unit length and turns towards the gradient; speed carries no energy, so steps
    are long where others' are short. Biased by the square of its step. ``step_size`` is a time, the
    velocity being of unit length a distance too, in white coordinates; the warm-up tunes it to
    where the energy error of a step has variance ``energy_variance`` per dimension.

    Args:
        length: distance over which the direction is forgotten, in white coordinates; by default
            the square root of the dimension.
        energy_variance: per dimension; smaller is less biased and slower.
        steps: of the integrator between one draw and the next.
        options: as for `Kernel`, whose first two arguments are the first here.

    Raises:
        ValueError: at the first move, for a target of one dimension.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> from pyro.infer import MCMC
        >>> def model():
        ...     return pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        >>> mcmc = MCMC(MCLMC(model), num_samples=10, warmup_steps=10, disable_progbar=True)
        >>> mcmc.run()
        >>> mcmc.get_samples()["x"].shape
        torch.Size([10, 2])
    """

    adjusted: ClassVar[bool] = False
    # E exp(-e^2 / v) of a normal error e of variance v: what `score` has where e is as wanted
    acceptance: ClassVar[float] = 1 / math.sqrt(3)

    def __init__(
        self,
        model: Any = None,
        potential_fn: Any = None,
        *,
        length: float | None = None,
        energy_variance: float = 5e-4,
        steps: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(model, potential_fn, **options)
        for name, value in (("length", length), ("energy_variance", energy_variance)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name}: expected a positive number, got {value}")
        _check_steps(steps)
        self.length, self.energy_variance, self.gradients = length, energy_variance, steps

    def begin(self, state: State) -> Tensor:
        """Uniform directions."""
        return random_direction(state.position)

    def score(self, move: Move) -> Tensor:
        """How well the energy is kept, beside what is wanted."""
        wanted = self.energy_variance * move.state.position.shape[-1] * self.gradients
        return (-move.error.square() / wanted).exp().nan_to_num(nan=0.0)

    def move(self, target: LogDensity, state: State, momentum: Tensor, step_size: Tensor) -> Move:
        """``steps`` microcanonical steps."""
        length = self.length or math.sqrt(state.position.shape[-1])
        total = torch.zeros_like(state.log_density)
        for _ in range(self.gradients):
            state, momentum, error = mclmc_step(target, state, momentum, step_size, length)
            total = total + error
        acceptance = (-total).clamp(max=0.0).exp().nan_to_num(nan=0.0)
        return Move(state, momentum, acceptance, total)


def _check_friction(friction: float, least: float = 1e-12) -> None:
    if not (friction >= least and math.isfinite(friction)):
        what = "a positive number" if least else "a number of at least 0"
        raise ValueError(f"friction: expected {what}, got {friction}")


def _check_steps(steps: int) -> None:
    if int(steps) != steps or steps < 1:
        raise ValueError(f"steps: expected a whole number of at least 1, got {steps}")
