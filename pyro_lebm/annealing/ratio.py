"""The log of a ratio of constants, as weights from both sides tell it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from scipy import stats
from torch import Tensor

LEAST_SHARE, LEAST_NUMBER = 0.05, 5.0  # of effective particles; weights that rest on fewer are poor
LEAST_SHARE_OF_FEW = 0.6  # instead of the number, where hardly more than it were given


@dataclass(frozen=True)
class LogRatio:
    r"""The log of the ratio of two densities' constants, :math:`\log (Z_1 / Z_0)`, from both sides.

    Of forward weights w, :math:`\mathrm{E}[w] = Z_1 / Z_0`, so that the expected log of their mean
    is at most the truth (Jensen); of reverse ones, from draws of the target,
    :math:`\mathrm{E}[w] = Z_0 / Z_1`, so that minus that log is at least the truth. Between the two
    lies the truth (bidirectional Monte Carlo: Grosse, Ghahramani & Adams 2015, arXiv 1511.02543),
    provided that the target's draws are exact. Draws of a chain that never saw a mode hide the
    mode's mass from the reverse side as well: then the gap is small and both sides are wrong.

    Weights of log p(x) have each prior's constant in them, at an estimate :math:`\log\hat Z` that
    is low in the mean, so that log p(x) comes out high. What is known of log Z is kept beside them:
    bounds of log p(x) are moved by what bounds of log Z allow, those of all at one joint level.

    Attributes:
        forward: log weights ``(repeats, particles, *problems)`` from draws of the start.
        backward: log weights ``(repeats', particles', *problems)`` from draws of the target.
        exact: whether those draws are exact; else the upper side is an estimate and no bound.
        level: confidence with which ``lower`` and ``upper`` hold the truth between them, provided
            that repeats are as many and as large as `lower` says.
        constants: log ratios that the weights are divided by at their estimates, each with how
            often: the log Z of priors, where it was estimated.
    """

    forward: Tensor
    backward: Tensor
    exact: bool
    level: float = 0.95
    constants: tuple[tuple[int, LogRatio], ...] = ()

    @cached_property
    def estimate(self) -> Tensor:
        """From the forward weights, whose mean is unbiased; ``(*problems)``."""
        return _log_mean(self.forward.flatten(0, 1))

    @property
    def reverse(self) -> Tensor:
        """From the reverse weights, ``(*problems)``."""
        return 0 - _log_mean(self.backward.flatten(0, 1))

    @property
    def gap(self) -> Tensor:
        """How far the reverse estimate lies above the forward one, in nats; ``(*problems)``.

        The gaps of ``constants`` add to it.
        """
        return self.reverse - self.estimate + sum(n * each.gap for n, each in self.constants)

    @property
    def lower(self) -> Tensor:
        """A bound from below: that of Jensen, less the width of a t interval over repeats.

        The interval takes the log means of repeats for about normal, and cannot know of weights
        that no particle had. The more particles a repeat has, the better that holds: of weights 1,
        and a tenth of them e^-20, ``lower`` at 95 % exceeds the truth in 43 % of cases for 8
        repeats of one particle and in 4 % for 8 of 32, in the place of 2.5 %.

        Raises:
            ValueError: where log Z of a prior has no bound from above, see ``constants``.
        """
        if not self._constants_are_bounded:
            raise ValueError(
                "lower: expected a log Z of the prior that is bounded from above, as by "
                "log_z(prior, draws=..., exact=True), or set to a number that is known, got one "
                "from draws of a chain, whose `reverse` is an estimate and no bound"
            )
        own = _mean_below(_log_mean(self.forward, 1), self._shared_level)
        return own - sum(n * (each.upper - each.estimate) for n, each in self._at_shared_level)

    @property
    def upper(self) -> Tensor:
        r"""A bound from above, as `lower`.

        Particles of one group (``repeats`` is 1) may share their draws, as where there is only one
        of each problem: no interval can be had of them. Then it is Markov's bound,
        :math:`P(\bar w \ge \mathrm{E}[w] / a) \le a`, with a = (1 - level) / 2: it lies
        :math:`-\log a` above ``reverse``, 3.7 nats at 95 %, whatever the weights.

        Raises:
            ValueError: for target draws that are not known to be exact.
        """
        if not self.exact:
            raise ValueError(
                "upper: expected exact draws of the target (exact=True), got draws of a chain, "
                "from which `reverse` is an estimate and no bound"
            )
        own = 0 - _mean_below(_log_mean(self.backward, 1), self._shared_level)
        return own + sum(n * (each.estimate - each.lower) for n, each in self._at_shared_level)

    @property
    def effective(self) -> Tensor:
        """Share of effective particles, of the worst side, ``constants`` too; ``(*problems)``."""
        own = torch.minimum(_effective(self.forward), _effective(self.backward))
        for _, each in self.constants:
            own = torch.minimum(own, each.effective.to(own))
        return own

    @property
    def effective_number(self) -> Tensor:
        """Effective particles, of the side that has fewer; ``(*problems)``."""
        return torch.minimum(_number(self.forward), _number(self.backward))

    @property
    def poor(self) -> Tensor:
        """Whether a side's weights rest on too few particles to be relied on; ``(*problems)``.

        That is fewer than 5 % of them, or than 5 (than 60 %, where no more than 8 were given). A
        single particle that has all the weight is 6 % of 16: the share alone would never tell.
        """
        return _poor(self.forward) | _poor(self.backward)

    @property
    def _constants_are_bounded(self) -> bool:
        return all(each.exact for _, each in self.constants)

    @property
    def _shared_level(self) -> float:
        """Of each interval, so that together they miss no more often than ``level`` says."""
        return 1 - (1 - self.level) / (1 + len(self.constants))

    @property
    def _at_shared_level(self) -> list[tuple[int, LogRatio]]:
        return [(n, replace(each, level=self._shared_level)) for n, each in self.constants]

    def __str__(self) -> str:
        def told(x: Tensor, form: str = ".3f") -> str:
            return format(float(x), form) if x.numel() == 1 else f"{float(x.mean()):{form}} (mean)"

        worst = f"gap {told(self.gap.max())} nats, effective particles {self.effective.min():.0%}"
        lacks = [] if self.exact else ["from draws of a chain: no bound above"]
        if not self._constants_are_bounded:
            lacks.append("log Z of the prior from draws of a chain: no bound below")
        if lacks:
            both = f"{told(self.estimate)} forward, {told(self.reverse)} in reverse"
            return f"estimate {both} ({'; '.join(lacks)}); {worst}"
        ends = f"between {told(self.lower)} and {told(self.upper)} at {self.level:.0%}"
        return f"{ends}; {worst}"


def _log_mean(log_weight: Tensor, dim: int = 0) -> Tensor:
    return log_weight.logsumexp(dim) - math.log(log_weight.shape[dim])


def _effective(log_weight: Tensor) -> Tensor:
    """Share of effective particles, pooled over repeats."""
    flat = log_weight.flatten(0, 1)
    share = (2 * flat.logsumexp(0) - (2 * flat).logsumexp(0)).exp() / len(flat)
    return torch.nan_to_num(share, nan=0.0)


def _number(log_weight: Tensor) -> Tensor:
    return _effective(log_weight) * log_weight.shape[:2].numel()


def _poor(log_weight: Tensor) -> Tensor:
    n = log_weight.shape[:2].numel()
    return _number(log_weight) < max(LEAST_SHARE * n, min(LEAST_NUMBER, LEAST_SHARE_OF_FEW * n))


def _mean_below(values: Tensor, level: float) -> Tensor:
    """The lower end of the mean's t interval over repeats; both sides together have the level.

    Of a single repeat the log of what Markov's inequality leaves of the mean.
    """
    n = len(values)
    if n == 1:
        return values[0] + math.log((1 - level) / 2)
    t = float(stats.t.ppf((1 + level) / 2, n - 1))
    below = values.mean(0) - t * values.std(0) / math.sqrt(n)
    # a repeat of no weight at all, of which no standard deviation can be had
    return torch.where((values == -torch.inf).any(0), -torch.inf, below)
