"""Kernels without momentum: ULA, MALA, Barker. Their ``step_size`` is a standard deviation."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from pyro_lebm.dynamics.barker import OPTIMAL_ACCEPTANCE as BARKER_ACCEPTANCE
from pyro_lebm.dynamics.barker import barker_step
from pyro_lebm.dynamics.langevin import (
    OPTIMAL_ACCEPTANCE,
    LogDensity,
    State,
    evaluate,
    log_acceptance,
    mala_move,
    propose,
    where_finite,
)

from .kernel import Kernel
from .sampler import Move


class MALA(Kernel):
    r"""The Metropolis-adjusted Langevin algorithm (Roberts & Tweedie 1996).

    .. math:: z' = z + \tfrac{s^2}{2} M \nabla\log p(z) + s M^{1/2} \varepsilon,

    accepted with the probability that leaves p as it is. M is the metric the warm-up learns;
    ``step_size`` is s, the noise's standard deviation in white coordinates, tuned to an acceptance
    of .574. For the other arguments see `Kernel`.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro.infer import MCMC
        >>> def model():
        ...     return pyro.sample("x", dist.Normal(0.0, 1.0))
        >>> mcmc = MCMC(MALA(model), num_samples=10, warmup_steps=10, disable_progbar=True)
        >>> mcmc.run()
        >>> mcmc.get_samples()["x"].shape
        torch.Size([10])
    """

    acceptance: ClassVar[float] = OPTIMAL_ACCEPTANCE

    def move(self, target: LogDensity, state: State, momentum: Tensor, step_size: Tensor) -> Move:
        """One adjusted step."""
        new, probability, log_ratio = mala_move(target, state, step_size)
        return Move(new, momentum, probability, -log_ratio)


class Barker(Kernel):
    r"""Barker's proposal (Livingstone & Zanella 2022, arXiv 1908.11812).

    Each coordinate takes a step of a random size, its sign chosen by the gradient: however steep
    the target, the step is no longer, so a poor step size costs less than MALA's. Tuned to an
    acceptance of .4; ``step_size`` is the standard deviation of the steps in white coordinates. For
    the other arguments see `Kernel`.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro.infer import MCMC
        >>> def model():
        ...     return pyro.sample("x", dist.Normal(0.0, 1.0))
        >>> mcmc = MCMC(Barker(model), num_samples=10, warmup_steps=10, disable_progbar=True)
        >>> mcmc.run()
        >>> mcmc.get_samples()["x"].shape
        torch.Size([10])
    """

    acceptance: ClassVar[float] = BARKER_ACCEPTANCE

    def move(self, target: LogDensity, state: State, momentum: Tensor, step_size: Tensor) -> Move:
        """One adjusted step."""
        new, probability, log_ratio = barker_step(target, state, step_size)
        return Move(new, momentum, probability, -log_ratio)


class ULA(Kernel):
    r"""The unadjusted Langevin algorithm: MALA's proposal, always taken.

    Biased: on a Gaussian target of variance v the draws' variance is :math:`v / (1 - s^2 / 4v)`,
    and the bias grows as :math:`s^2` elsewhere too. ``step_size`` is s, the noise's standard
    deviation in white coordinates; the warm-up tunes it to where a Metropolis test, not made, would
    accept .95 of the steps. A step out of the density is not taken, and counted as divergent. For
    the other arguments see `Kernel`.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro.infer import MCMC
        >>> def model():
        ...     return pyro.sample("x", dist.Normal(0.0, 1.0))
        >>> mcmc = MCMC(ULA(model), num_samples=10, warmup_steps=10, disable_progbar=True)
        >>> mcmc.run()
        >>> mcmc.get_samples()["x"].shape
        torch.Size([10])
    """

    adjusted: ClassVar[bool] = False
    acceptance: ClassVar[float] = 0.95

    def move(self, target: LogDensity, state: State, momentum: Tensor, step_size: Tensor) -> Move:
        """One step, taken wherever the density is positive."""
        new = evaluate(target, propose(state, step_size))
        log_ratio = log_acceptance(state, new, step_size)
        kept, _ = where_finite(new, state, -log_ratio)
        return Move(kept, momentum, log_ratio.clamp(max=0.0).exp().nan_to_num(nan=0.0), -log_ratio)
