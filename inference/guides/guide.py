"""What all guides share: a program read once, and the checks of their arguments.

A guide is any way to get the latent state of a sequence given what was observed of it. Each is a
Pyro guide, trains with ``pyro.infer.SVI``, and gives draws for new sequences by ``posterior``.
Built as ``Guide(model, series)``, where the training series says how many sequences there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from pyro import poutine
from pyro.nn import PyroModule
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor

from pyro_lebm.dynamics.chains import Chains
from pyro_lebm.dynamics.inner_steps import InnerSteps
from pyro_lebm.number_checks import check_whole
from pyro_lebm.programs.program import Program
from pyro_lebm.series import Series

from ..draws import Draws
from ..posterior import anneal

ELBO = "negative ELBO"
LOG_JOINT = "negative unnormalised log joint"

Steps = int | tuple[int, int] | Literal["auto"]


class Guide(PyroModule):
    """What all guides share: the program read once, draws for new sequences.

    Attributes:
        loss_name: what the loss of ``SVI`` is with this guide.
    """

    loss_name = ELBO

    program: Program

    def __init__(self, program: Program) -> None:
        super().__init__()
        # Not a submodule: the model's parameters would be registered under a second name.
        object.__setattr__(self, "program", program)

    def schedule(self, progress: float) -> None:
        """Told before each step how much of the training is done, from 0 to 1."""

    def statistics(self) -> dict[str, float]:
        """Numbers for the history."""
        return {}

    def annealed(self, series: Series, draws: int = 64, **options: Any) -> Draws:
        """Annealed draws for new sequences, by all that the guide knows of where they may be.

        From the prior; a guide with an encoder anneals from that too, and takes, sequence by
        sequence, what has more evidence: see `inference.posterior.anneal` and ``anneal_twice``.
        """
        return anneal(self.program, series, draws, **options)

    @torch.no_grad()
    def draw(self, *args: Any, **kwargs: Any) -> Tensor:
        """One pass over data: the latents it would train the model with, ``(*elements, dim)``."""
        with poutine.block(), poutine.trace() as trace:
            self(*args, **kwargs)
        nodes: dict[str, Any] = dict(trace.trace.nodes)
        values = {site.name: nodes[site.name]["value"] for site in self.program.sites}
        return self.program.rebind(*args, **kwargs).pack(values)


def new_chains(program: Program, step_size: float, **options: Any) -> Chains:
    """One chain for every element of the whole data set, none visited yet."""
    start = program.draw
    position = start.new_zeros((*(program.full or (1,)), program.dim))
    return Chains(position, step_size=step_size, **options)


def chain_statistics(chains: Chains, steps: int | InnerSteps) -> dict[str, float]:
    """Acceptance of the last visit that measured it, mean step size of chains visited; steps."""
    step_size = chains.step_size[chains.visited].mean()
    found = {"acceptance": float(chains.acceptance), "step_size": float(step_size)}
    return found | ({"steps": float(int(steps))} if isinstance(steps, InnerSteps) else {})


def inner_steps(steps: Steps) -> int | InnerSteps:
    """What is meant by the argument ``steps`` of a guide.

    Raises:
        ValueError: for fewer than one step, or what is no number, two bounds or "auto".
    """
    if steps == "auto":
        return InnerSteps()
    if isinstance(steps, tuple) and len(steps) == 2:
        return InnerSteps(*steps)
    if isinstance(steps, str | tuple):
        raise ValueError(f"steps: expected a number, (least, most) or 'auto', got {steps!r}")
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    return steps


def check_share(argument: str, value: float) -> None:
    """Refuse a share outside [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{argument}: expected a share between 0 and 1, got {value}")


def check_draws(draws: int) -> None:
    """Refuse fewer than one draw."""
    check_whole(draws=draws)
    if draws < 1:
        raise ValueError(f"draws: expected at least 1, got {draws}")


def viewed(view: Callable[[Series], Series], series: Series) -> Series:
    """What a view leaves of a series.

    Raises:
        TypeError: for a view that returns no series.
    """
    found: object = view(series)
    if not isinstance(found, Series):
        raise TypeError(
            f"view: expected a function that returns a Series, got one that returns "
            f"{type(found).__name__}"
        )
    return found


def refuse_particles() -> None:
    """Refuse to run inside a plate: the Langevin draw cannot see it."""
    outer = [h.name for h in _PYRO_STACK if isinstance(h, IndepMessenger)]
    if outer:
        raise ValueError(
            f"guide: expected no plate around a sampling guide, got {outer}: its particles would "
            "be copies of one draw; use num_particles with vectorize_particles=False"
        )


def elements(program: Program) -> tuple[Tensor, ...]:
    """Where the chains of a program's elements are kept; one chain if all is one element."""
    return program.index if program.common else (torch.zeros(1, dtype=torch.long),)


def refuse_other_widths(program: Program, built: Program) -> None:
    """Refuse latent sites that have become wider or narrower since a guide was built."""
    if program.widths != built.widths:
        expected, got = (
            {site.name: width for site, width in zip(each.sites, each.widths, strict=True)}
            for each in (built, program)
        )
        raise ValueError(
            f"model: expected {expected} numbers of its latent sites, as when the guide was built, "
            f"got {got}"
        )


def refuse_coupling(program: Program) -> None:
    """Refuse a minibatch of elements whose posterior needs all the data."""
    subsampled = [p.name for p in program.plates.values() if p.size != p.full_size]
    outside = [name for name in subsampled if name not in program.common]
    if outside:
        raise ValueError(
            f"model: expected no minibatch in plates {outside}: a latent site outside them couples "
            "their elements, so that its posterior needs all the data"
        )
