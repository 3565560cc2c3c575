"""Annealed sequential Monte Carlo: draws whose modes have the right weight.

A chain started in the wrong mode stays there. A cloud of particles carried from an easy density to
the target, reweighted and resampled on the way, fills every mode by its mass (Neal 2001; Del Moral,
Doucet & Jasra 2006). Many independent targets (the posteriors of many sequences) go side by side.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor

from ..dynamics.langevin import OPTIMAL_ACCEPTANCE
from .bridge import Cloud, Path, check_ends, evaluate, move


class Population(NamedTuple):
    """Equally weighted particles of each problem, and how the annealing went.

    Attributes:
        position: ``(particles, *problems, dim)``.
        log_target: ``(particles, *problems)``, unnormalised log density of each particle.
        log_evidence: ``(*problems)``, log of the ratio of the target's constant to the start's;
            its exponential is consistent (see `annealed_smc`), its logarithm biased downwards.
        temperatures: rungs that were climbed, the slowest problem's.
        acceptance: mean acceptance of the moves at the target, per problem.
        survivors: share of the starting particles with a descendant at the end, per problem; when
            it is a few per cent the population is poorer than it looks.
    """

    position: Tensor
    log_target: Tensor
    log_evidence: Tensor
    temperatures: int
    acceptance: Tensor
    survivors: Tensor


def annealed_smc(
    path: Path,
    start: Tensor,
    *,
    moves: int = 3,
    final_moves: int = 5,
    keep: float = 0.6,
    max_temperatures: int = 100,
    narrow: Callable[[Tensor], Path] | None = None,
) -> Population:
    r"""Carry draws of a start density to a target along :math:`p_0^{1-\lambda} p_1^{\lambda}`.

    At each rung :math:`\lambda` grows, per problem, until the conditional effective sample size is
    the share ``keep`` of the particles; particles are resampled systematically and moved by
    Metropolis-adjusted Langevin steps, preconditioned by the cloud's own spread, with a step size
    adapted per problem. Adaptation to the cloud makes the weights consistent rather than exactly
    unbiased (Beskos et al. 2016, arXiv 1306.6462).

    Args:
        path: log densities of both ends, differentiable; each may lack its constant.
        start: draws of the start density, ``(particles, *problems, dim)``.
        moves: Langevin steps a rung.
        final_moves: further steps at the target.
        keep: share of effective particles a rung may cost, between 0 and 1.
        max_temperatures: rungs after which the target is reached in one jump, with a warning.
        narrow: indices ``(M,)`` into the flattened problems to the path of these alone, on
            positions ``(particles, M, dim)``: problems that have arrived then cost no more while
            the slow ones climb on.

    Raises:
        ValueError: for fewer than two particles, ``keep`` outside (0, 1), no temperature, or a path
            of another shape.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> log_normal = lambda z, m: -0.5 * ((z - m) ** 2).sum(-1)
        >>> cloud = annealed_smc(
        ...     lambda z: (log_normal(z, 0.0), log_normal(z, 3.0)), torch.randn(500, 1)
        ... )
        >>> bool((cloud.position.mean() - 3.0).abs() < 0.3)
        True
    """
    if start.ndim < 2 or start.shape[0] < 2:
        raise ValueError(
            "start: expected at least 2 particles of shape (particles, *problems, dim), "
            f"got shape {tuple(start.shape)}"
        )
    if not 0 < keep < 1:
        raise ValueError(f"keep: expected a share between 0 and 1, got {keep}")
    if max_temperatures < 1:
        raise ValueError(f"max_temperatures: expected at least 1, got {max_temperatures}")
    with torch.inference_mode(False), torch.no_grad():
        problems = start.shape[1:-1]
        size = problems.numel()

        def flat_path(z: Tensor) -> tuple[Tensor, Tensor]:
            ends = path(z.reshape(start.shape))
            check_ends(start.shape[:-1], *ends)
            log_start, log_target = (end.reshape(z.shape[:-1]) for end in ends)
            return log_start, log_target

        run = Annealing(flat_path, start.detach().reshape(-1, size, start.shape[-1]), keep)
        which = torch.arange(size, device=start.device)
        rungs = run.anneal(moves, max_temperatures, which, narrow)
        acceptance = torch.stack([run.move() for _ in range(max(final_moves, 1))]).mean(0)
        return Population(
            run.cloud.position.reshape(start.shape),
            run.cloud.target.reshape(start.shape[:-1]),
            run.log_evidence.reshape(problems),
            rungs,
            acceptance.reshape(problems),
            run.survivors().reshape(problems),
        )


_PER_PROBLEM = ("temperature", "log_evidence", "step_size", "scale")


class Annealing:
    """The state of one run over ``(particles, problems, dim)``."""

    def __init__(self, path: Path, start: Tensor, keep: float) -> None:
        self.path, self.keep = path, keep
        self.cloud = evaluate(path, start)
        particles, problems, dim = start.shape
        self.temperature = start.new_zeros(problems)
        self.log_evidence = start.new_zeros(problems)
        self.step_size = start.new_full((problems,), 1.5 * dim ** (-1 / 6))
        self.ancestor = torch.arange(particles, device=start.device)[:, None].repeat(1, problems)
        self._precondition()

    def anneal(
        self, moves: int, rungs: int, which: Tensor, narrow: Callable[[Tensor], Path] | None
    ) -> int:
        """Climb to the target; the rungs it took. Goes on with the slow half alone if it can."""
        for rung in range(1, rungs + 1):
            self.climb(last=rung == rungs)
            for _ in range(moves):
                self.move()
            left = (self.temperature < 1).nonzero().squeeze(-1)
            if len(left) == 0:
                break
            if narrow is not None and 2 * len(left) <= len(which):
                slow = self._part(left, narrow(which[left]))
                rung += slow.anneal(moves, rungs - rung, which[left], narrow)
                self._restore(slow, left)
                break
        return rung

    def _part(self, problems: Tensor, path: Path) -> Annealing:
        part = copy(self)
        part.path = path
        part.cloud = Cloud(*(x[:, problems] for x in self.cloud))
        part.ancestor = self.ancestor[:, problems]
        for name in _PER_PROBLEM:
            setattr(part, name, getattr(self, name)[problems])
        return part

    def _restore(self, part: Annealing, problems: Tensor) -> None:
        self.cloud = Cloud(
            *(x.index_copy(1, problems, y) for x, y in zip(self.cloud, part.cloud, strict=True))
        )
        self.ancestor = self.ancestor.index_copy(1, problems, part.ancestor)
        for name in _PER_PROBLEM:
            whole = getattr(self, name).index_copy(0, problems, getattr(part, name))
            setattr(self, name, whole)

    def climb(self, *, last: bool) -> None:
        """Raise the temperatures, weigh and resample."""
        gain = self.cloud.gain
        room = 1 - self.temperature
        delta = _largest_step(gain, room, self.keep)
        if last and bool((delta < room).any()):
            warnings.warn(
                "annealed_smc: the target was not reached within max_temperatures; the last jump "
                "was made at once and its weights may be poor",
                RuntimeWarning,
                stacklevel=4,
            )
            delta = room
        # delta 0 at a gain of -inf is NaN: a problem that has arrived keeps equal weights
        log_weight = torch.where(delta > 0, delta * gain, torch.zeros_like(gain))
        dead = torch.isinf(log_weight).all(0)  # no particle has any density: leave them as they are
        log_weight = torch.where(dead, torch.zeros_like(log_weight), log_weight)
        gained = log_weight.logsumexp(0) - math.log(len(gain))
        self.log_evidence += torch.where(dead, torch.full_like(gained, -math.inf), gained)
        self.temperature = self.temperature + delta
        index = _systematic(log_weight.softmax(0))
        index = torch.where(delta > 0, index, torch.arange(len(gain), device=index.device)[:, None])
        self.cloud, self.ancestor = self.cloud.take(index), self.ancestor.gather(0, index)
        self._precondition()

    def move(self) -> Tensor:
        """One adjusted Langevin step of every particle; the acceptance per problem."""
        self.cloud, probability = move(
            self.path, self.cloud, self.temperature, self.step_size, self.scale
        )
        acceptance = probability.mean(0)
        self.step_size = self.step_size * (0.5 * (acceptance - OPTIMAL_ACCEPTANCE)).exp()
        return acceptance

    def survivors(self) -> Tensor:
        """Share of distinct first ancestors."""
        ordered = self.ancestor.sort(0).values
        return (1 + (ordered.diff(dim=0) != 0).sum(0)).to(self.temperature) / len(ordered)

    def _precondition(self) -> None:
        spread = self.cloud.position.std(0)
        floor = 1e-3 * spread.amax(-1, keepdim=True) + 1e-8
        self.scale = torch.maximum(spread, floor)


def _largest_step(gain: Tensor, room: Tensor, keep: float) -> Tensor:
    """Per problem the largest step whose effective sample size stays at ``keep``, by bisection."""

    def share(delta: Tensor) -> Tensor:
        w = torch.where(torch.isfinite(gain), delta * gain, gain)
        log_ess = 2 * w.logsumexp(0) - (2 * w).logsumexp(0)
        return torch.nan_to_num(log_ess.exp(), nan=1.0) / len(gain)

    low, high = torch.zeros_like(room), room.clone()
    whole = share(high) >= keep
    for _ in range(30):
        middle = 0.5 * (low + high)
        enough = share(middle) >= keep
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    # a hair above 0, so that particles without density are shed
    return torch.where(whole, room, torch.minimum(torch.clamp(low, min=1e-9), room))


def _systematic(weight: Tensor) -> Tensor:
    """Systematic resampling of each column of ``weight`` (particles, problems) to indices."""
    particles, problems = weight.shape
    first = torch.rand(problems, 1, dtype=weight.dtype, device=weight.device)
    comb = (torch.arange(particles, device=weight.device) + first) / particles
    edges = weight.T.contiguous().cumsum(-1)
    edges = edges / edges[:, -1:]
    return torch.searchsorted(edges, comb).clamp(max=particles - 1).T.contiguous()
