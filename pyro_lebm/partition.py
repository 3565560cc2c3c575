"""The constant of an energy-based prior, from below and from above."""

from __future__ import annotations

import torch
from torch import Tensor

from .annealing.ais import check_settings, log_ratio
from .annealing.ratio import LogRatio
from .base import white_metric
from .distribution import EnergyBased, annealed, path_from_base
from .learned import LearnedDensity

PILOT = 256  # draws of the base on which the schedule is tuned


def log_z(
    prior: LearnedDensity | EnergyBased,
    *,
    particles: int = 256,
    repeats: int = 8,
    rungs: int = 200,
    moves: int = 1,
    draws: Tensor | None = None,
    exact: bool = False,
    level: float = 0.95,
    progress: bool = False,
) -> LogRatio:
    r"""Estimate :math:`\log Z = \log \mathrm{E}_b[\exp(-E)]` forward from the base and in reverse.

    By annealed importance sampling both ways, see `annealing.ais.log_ratio`. An `EnergyPrior`
    remembers the forward estimate, whose weights are unbiased, as its ``log_z`` for as long as its
    parameters and buffers stay as they are: scores are normalised from then on. It remembers both
    sides too: bounds of log p(x) need bounds of log Z (see `log_evidence`), that from below one
    from above, which only exact draws give. A log Z whose weights rest on too few particles
    (`LogRatio.poor`), of which there is a warning, is not kept: what was remembered before stands.

    A small gap shows that the annealing is slow enough for whatever the draws have seen. It does
    not show that they have seen every mode: with draws of the density that are not exact, both
    sides may lack the same one.

    Args:
        prior: the density, or the module that makes it: an `EnergyPrior`, or a `Tilt`, whose draws
            are positions of its chains.
        particles: of a repeat, each way.
        repeats: independent groups of particles, over which the confidence is taken.
        rungs: temperatures; more of them make the gap smaller.
        moves: Langevin steps at each.
        draws: of the density, ``(n, *event)``, for the way back; by default annealed ones.
        exact: whether those given are exact and independent: then ``upper`` is a bound.
        level: confidence of the bounds.
        progress: show a bar.

    Warns:
        RuntimeWarning: where the weights rest on too few particles.

    Raises:
        ValueError: for fewer than two particles, ``exact`` without draws, draws of another shape
            or with NaN, and as `log_ratio` does.

    Example:
        >>> import pyro.distributions as dist
        >>> _ = torch.manual_seed(0)
        >>> base = dist.Normal(torch.zeros(1), 1.0).to_event(1)
        >>> tilted = EnergyBased(lambda z: -2.0 * z.sum(-1), base)
        >>> exact = 2 + torch.randn(512, 1)  # N(2, 1), whose log Z is 2
        >>> found = log_z(tilted, particles=64, rungs=50, draws=exact, exact=True)
        >>> bool(found.lower < 2.0 < found.upper)
        True
    """
    check_settings(repeats, rungs, moves, level)
    if particles < 2:
        raise ValueError(f"particles: expected at least 2, got {particles}")
    if exact and draws is None:
        raise ValueError("draws: expected exact ones for exact=True, got None")
    distribution = prior if isinstance(prior, EnergyBased) else prior.density()
    fixed = distribution.fixed()
    total = particles * repeats
    if draws is None:
        draws = annealed(fixed, total, keep=0.85, moves=5).position
        draws = draws.reshape(total, *fixed.event_shape)
    if draws.shape[1:] != fixed.event_shape:
        raise ValueError(
            f"draws: expected shape ({', '.join(['n', *map(str, fixed.event_shape)])}), got "
            f"{tuple(draws.shape)}"
        )
    if not bool(draws.isfinite().all()):
        raise ValueError("draws: expected finite ones, got NaN or inf")
    metric = white_metric(fixed.base)

    def flat(z: Tensor) -> Tensor:
        z = z.detach().reshape(len(z), -1)
        return z if metric is None else metric.white(z)

    with torch.inference_mode(False), torch.no_grad():
        start, pilot = (flat(fixed.base.sample(torch.Size((n,)))) for n in (total, PILOT))
        found = log_ratio(
            path_from_base(fixed),
            start,
            flat(draws[torch.randperm(len(draws))]),
            pilot=pilot,
            exact=exact,
            repeats=repeats,
            rungs=rungs,
            moves=moves,
            level=level,
            progress=progress,
        )
    if isinstance(prior, LearnedDensity) and not bool(found.poor):
        prior.log_z = found
    return found
