"""A learned energy-based prior of one site."""

from __future__ import annotations

from typing import Unpack

from torch import nn

from .base import FullNormal, OfWhite, StandardNormal
from .distribution import EnergyBased
from .learned import LearnedDensity, Options


class EnergyPrior(LearnedDensity):
    r"""The prior :math:`p(z) \propto \exp(-E(z))\, b(z)`; calling it gives an `EnergyBased`.

    It owns the energy network, the base and the negative chains, which advance only in the backward
    pass of a parameter gradient, once for each value of the parameters however often the density is
    evaluated in between. ``train()`` / ``eval()`` says whether they are written back.

    Args:
        energy: module ``(*batch, dim) -> (*batch)``, such as `MLPEnergy`.
        base: module returning the base distribution with event shape ``(dim,)``; an integer means
            `StandardNormal`. Of a `FullNormal` the energy sees the white coordinates.
        negatives: where the parameters' gradient gets its negatives. ``persistent``: chains kept
            between steps (Tieleman 2008); ``short_run``: ``steps`` steps from the base each time,
            biased (Nijkamp et al. 2019, arXiv 1904.09770; 60 steps of .4 in Pang et al. 2020, arXiv
            2006.08205); ``annealed``: fresh sequential Monte Carlo.
        sampler: what `EnergyBased.sample` does: ``annealed`` (default; mixes), the ``persistent``
            chains as they stand, or a ``short_run``.
        num_chains: negatives of one gradient.
        steps: Langevin steps of a visit; default 5 for persistent chains and 60 for short runs.
        step_size: the noise's standard deviation: the start of the persistent chains' adaptation,
            the fixed step of unadjusted ones; default .4. In white coordinates of a `FullNormal`.
        adjusted: Metropolis-adjusted steps; default for persistent chains, not for short runs.
        dynamics: of the persistent chains, ``overdamped`` or ``underdamped``; see `Chains`.
        adapt: adapt the step size of each persistent chain; by default all but unadjusted
            overdamped steps are.
        refresh: every so many visits the persistent chains restart from annealed draws, or never
            at 0. Chains that cannot cross between modes keep the mode masses they happen to have,
            and the energy learns those; annealed draws bring the masses that the energy implies.

    Attributes:
        learning: False holds the energy fixed and draws no negatives (`fit` phases the energy in).

    Raises:
        ValueError: for fewer than one chain or step, a step size <= 0, an unknown name, a base of
            constrained support, or an energy that does not return one number per point.

    Example:
        >>> from pyro_lebm.energy import MLPEnergy
        >>> prior = EnergyPrior(MLPEnergy(2), base=2, num_chains=16)
        >>> prior().sample((5,)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self, energy: nn.Module, base: int | nn.Module, **options: Unpack[Options]
    ) -> None:
        base = StandardNormal(base) if isinstance(base, int) else base
        energy = OfWhite(energy, base) if isinstance(base, FullNormal) else energy
        super().__init__(energy, base, **options)

    def forward(self) -> EnergyBased:
        """The distribution as the parameters stand now."""
        return self.density()
