"""Encoder and chains together: the encoder proposes, Langevin refines."""

from __future__ import annotations

from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_lebm.clock import timed
from pyro_lebm.dynamics.langevin import check_step_size
from pyro_lebm.dynamics.moves import Dynamics
from pyro_lebm.programs.program import Program
from pyro_lebm.series import Series

from ..draws import Draws
from ..posterior import anneal, anneal_twice
from .encoder_guide import EncoderGuide
from .guide import (
    ELBO,
    LOG_JOINT,
    Guide,
    Steps,
    chain_statistics,
    check_share,
    inner_steps,
    new_chains,
    refuse_other_widths,
    refuse_particles,
)


class RefinedGuide(Guide):
    r"""The encoder proposes, Langevin refines.

    In `fit`, before ``refine_from``, this is the `EncoderGuide`, trained by the ELBO. From there on
    the model learns from a chain per training sequence, as under a `LangevinGuide`. It starts at
    the encoder's :math:`z \sim q(z \mid x)`; each later visit offers it another such draw by an
    independence Metropolis step, accepted with probability

    .. math:: \min\{1, p(x, z')\, q(z \mid x) \,/\, (p(x, z)\, q(z' \mid x))\},

    and takes Langevin steps, Metropolis-adjusted unless told otherwise. The encoder goes on
    learning by its own loss, the negative ELBO with the model held fixed:

    .. math:: \ell_q = \mathrm{E}_q[\log q(z \mid x) - \log p(x, z)].

    (An encoder that learns only from its own refined draws did not get off the ground.)

    Refined draws let a learned noise scale fall at once, which makes the likelihood sharper and the
    gradient less noisy: Adam's steps, right for the ELBO until then, may be too long for it, and
    the loss runs away. Learning rates are to be small by ``refine_from`` (`fit`'s
    ``final_rate``).

    Args:
        guide: the encoder guide, whose model this is too.
        steps: Langevin steps of a visit, or ``(least, most)``, or ``"auto"``, as for
            `LangevinGuide`.
        refine_from: progress of the training at which refinement begins.
        step_size: start of the steps' adaptation, per sequence.
        adjusted, dynamics, friction, adapt: of the steps, as for `LangevinGuide`.

    Example:
        >>> import torch
        >>> def model(series):
        ...     with pyro.plate("sequences", series.total, subsample=series.index):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         x = dist.Normal(z[:, None, None], 1.0).expand(series.values.shape)
        ...         pyro.sample("x", x.to_event(2), obs=series.values)
        >>> series = Series(torch.linspace(0, 1, 5), torch.zeros(4, 5, 1))
        >>> guide = RefinedGuide(EncoderGuide(model, series), steps=2)
        >>> guide.posterior(series, draws=8)["z"].shape
        torch.Size([1, 8, 4])
    """

    loss_name = f"{ELBO} (after refine_from: {LOG_JOINT} + encoder's {ELBO})"

    def __init__(
        self,
        guide: EncoderGuide,
        *,
        steps: Steps = 5,
        refine_from: float = 0.7,
        step_size: float = 0.02,
        adjusted: bool = True,
        dynamics: Dynamics = "overdamped",
        friction: float = 0.05,
        adapt: bool | None = None,
    ) -> None:
        if not isinstance(guide, EncoderGuide):
            raise TypeError(f"guide: expected an EncoderGuide, got {type(guide).__name__}")
        super().__init__(guide.program)
        check_step_size(step_size)
        check_share("refine_from", refine_from)
        self.guide, self.refine_from = guide, refine_from
        self.steps = inner_steps(steps)
        self.adjusted, self.adapt = adjusted, adapt
        self.refining = True  # until `schedule` says that training begins
        self.chains = new_chains(self.program, step_size, dynamics=dynamics, friction=friction)

    def schedule(self, progress: float) -> None:
        """The encoder alone before ``refine_from``, refined draws from there on."""
        self.chains.moving = 1.0 - progress
        self.refining = progress >= self.refine_from

    def forward(self, series: Series, **kwargs: Any) -> None:
        """The guide: the encoder's sites, or the refined draws and the encoder's own loss."""
        if not self.refining:
            self.guide(series, **kwargs)
            return
        refuse_particles()
        program = self.program.rebind(series, **kwargs)
        refuse_other_widths(program, self.program)
        q = self.guide.propose(series)
        proposal = q.rsample()
        self._encoder_loss(program, q, proposal)
        with timed("posterior chains"):
            z = self.chains.run(
                program.log_density,
                self.steps,
                index=program.index,
                start=self._start(program, q, proposal.detach()),
                adjusted=self.adjusted,
                adapt=self.adapt,
                keep=self.training,
                whole=program.whole(program.draw),
            )
        program.say(z)

    @torch.no_grad()
    def _start(self, program: Program, q: dist.Normal, proposal: Tensor) -> Tensor:
        """The proposal, or the stored chain where a Metropolis step would stay there."""
        visited = self.chains.visited[program.index]
        if not bool(visited.any()):
            return proposal
        both = torch.stack([self.chains.position[program.index], proposal])
        stored, proposed = program.log_density(both) - q.log_prob(both).sum(-1)
        jump = torch.rand_like(stored).log() < proposed - stored
        return torch.where((jump | ~visited).unsqueeze(-1), proposal, both[0])

    def _encoder_loss(self, program: Program, q: dist.Normal, proposal: Tensor) -> None:
        loss = q.log_prob(proposal).sum(-1) - program.log_density(proposal)
        with program.inside(program.common):
            # SVI subtracts a guide's log factor: minimised, like every loss
            pyro.factor("encoder_loss", loss, has_rsample=True)

    def statistics(self) -> dict[str, float]:
        """Acceptance and mean step size of the refinement."""
        return chain_statistics(self.chains, self.steps) if self.refining else {}

    def annealed(self, series: Series, draws: int = 64, **options: Any) -> Draws:
        """As those of its encoder."""
        return self.guide.annealed(series, draws, **options)

    def posterior(
        self,
        series: Series,
        draws: int = 64,
        *,
        start: Literal["both", "prior", "encoder"] = "both",
        **options: Any,
    ) -> Draws:
        """Draws for new sequences by `inference.posterior.anneal_twice`, or from one start alone.

        From the prior, every mode is covered whatever the encoder learned, but few particles may
        lose one on a long way. From the encoder, the way is short, but a mode that its inflated
        Gaussian does not cover is missed. Both, the default, costs their sum, and more for
        sequences where the two disagree.

        Raises:
            ValueError: for another start than these three, and as `anneal` does.
        """
        if start == "both":
            return anneal_twice(self.program, series, draws, encode=self.guide.encode, **options)
        if start not in ("encoder", "prior"):
            raise ValueError(f"start: expected 'both', 'encoder' or 'prior', got {start!r}")
        encode = self.guide.encode if start == "encoder" else None
        return anneal(self.program, series, draws, encode=encode, **options)
