"""Langevin chains as a guide: maximum likelihood by MCMC."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_lebm.clock import timed
from pyro_lebm.dynamics.langevin import check_step_size
from pyro_lebm.dynamics.moves import Dynamics
from pyro_lebm.programs.program import Model, Program
from pyro_lebm.series import Series

from ..draws import Draws
from ..posterior import anneal
from .guide import (
    LOG_JOINT,
    Guide,
    Steps,
    chain_statistics,
    check_share,
    elements,
    inner_steps,
    new_chains,
    refuse_coupling,
    refuse_other_widths,
    refuse_particles,
)


class LangevinGuide(Guide):
    r"""Posterior draws by Langevin dynamics, no encoder: maximum likelihood by MCMC.

    A chain per sequence persists between visits (Tieleman 2008). The detached draw
    :math:`z^+ \sim p(z \mid x)` goes into a ``Delta``, so that the gradient of
    ``SVI(model, guide, optim, Trace_ELBO())`` is :math:`\nabla\log p(x, z^+)`, that of the log
    likelihood (Fisher's identity; Cheng et al. 2024, arXiv 2409.03845). The loss printed is an
    unnormalised joint, not a bound on anything.

    Steps are *hot* early (unadjusted, see `dynamics.langevin.hot_step_size`), Metropolis-adjusted
    with a step size per chain later; `fit` says when, and without it they are adjusted throughout.
    The unit of acceptance is one element of the plates that all sites share. Chains are written in
    training mode only.

    Args:
        model: the Pyro program; its latent sites must be continuous.
        args, kwargs: the whole training data, as the model takes it.
        steps: Langevin steps of a visit; ``(least, most)`` as many as the chains still gain by, see
            `pyro_lebm.dynamics.inner_steps.InnerSteps`; ``"auto"`` between 3 and 40.
        hot_until: progress of the training at which adjusted steps begin.
        strength: how hot, the drift of one step in units of the latent space.
        step_size: start of the steps' adaptation: the noise's standard deviation of overdamped
            steps, a time of underdamped ones.
        adjusted: Metropolis-adjusted steps, when not hot.
        dynamics: ``overdamped`` steps, MALA or ULA; or ``underdamped``, when not hot: a visit is
            one adjusted trajectory (Riou-Durand & Vogrinc 2022, arXiv 2202.13230), or unadjusted
            BAOAB steps (Leimkuhler & Matthews 2013, arXiv 1203.5428) whose velocity is kept from
            visit to visit, for where a small bias may be.
        friction: of underdamped steps, per step: a velocity is remembered over 1 / friction steps.
        adapt: adapt the step size of each chain; see `Chains.run`, where unadjusted overdamped
            steps alone keep to ``step_size`` by default.
        restart: start every visit from the prior, or the base of an energy prior, instead of the
            stored chain (short runs).

    Raises:
        ValueError: for fewer than one step, a step size or friction <= 0, other dynamics, a share
            outside [0, 1]; when called: for subsampled data although a site outside the common
            plates couples the elements, or inside a plate of particles (all would be copies of one
            draw).

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> class Mean(pyro.nn.PyroModule):
        ...     def forward(self, x):
        ...         with pyro.plate("n", len(x)):
        ...             z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...             pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> x = torch.zeros(5)
        >>> guide = LangevinGuide(Mean(), x, steps=2)
        >>> guide(x)
        >>> guide.chains.position.shape
        torch.Size([5, 1])
    """

    loss_name = LOG_JOINT

    def __init__(
        self,
        model: Model,
        *args: Any,
        steps: Steps = 10,
        hot_until: float = 0.5,
        strength: float = 0.25,
        step_size: float = 0.05,
        adjusted: bool = True,
        dynamics: Dynamics = "overdamped",
        friction: float = 0.05,
        adapt: bool | None = None,
        restart: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(Program.read(model, *args, **kwargs))
        check_step_size(step_size)
        check_share("hot_until", hot_until)
        if not strength > 0:
            raise ValueError(f"strength: expected a positive number, got {strength}")
        self.hot_until, self.strength = hot_until, strength
        self.steps = inner_steps(steps)
        self.adjusted, self.adapt, self.restart = adjusted, adapt, restart
        self.hot = False  # until `schedule` says that training begins
        self.chains = new_chains(self.program, step_size, dynamics=dynamics, friction=friction)

    def schedule(self, progress: float) -> None:
        """Hot steps before ``hot_until``, adjusted ones from there on, of sizes that settle."""
        self.chains.moving = 1.0 - progress
        self.hot = progress < self.hot_until

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """The guide: latent sites at the ends of their chains."""
        refuse_particles()
        program = self.program.rebind(*args, **kwargs)
        refuse_coupling(program)
        refuse_other_widths(program, self.program)
        with timed("posterior chains"):
            z = self.chains.run(
                program.log_density,
                self.steps,
                index=elements(program),
                start=self._start(program),
                hot=self.strength if self.hot else None,
                adjusted=self.adjusted,
                adapt=self.adapt,
                keep=self.training,
                whole=program.whole(program.draw),
            )
        program.say(z if program.common else z[0])

    def _start(self, program: Program) -> Tensor | None:
        """Where to start: the stored chains, or a draw of the base for those not visited before."""
        at = elements(program)
        visited = self.chains.visited[at]
        if not self.restart and bool(visited.all()):
            return None
        stored: Tensor = self.chains.position[at]
        fresh = program.draw.reshape(stored.shape)  # an energy prior's base, N(0, I) mostly
        return fresh if self.restart else torch.where(visited.unsqueeze(-1), stored, fresh)

    def statistics(self) -> dict[str, float]:
        """Acceptance of the last visit that measured it, and the mean step size."""
        return chain_statistics(self.chains, self.steps)

    def posterior(self, series: Series, draws: int = 64, **options: Any) -> Draws:
        """Draws for new sequences, annealed from the prior; see `inference.posterior.anneal`."""
        return anneal(self.program, series, draws, **options)
