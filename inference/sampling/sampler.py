"""Many chains of one kernel, and what their warm-up learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from pyro_lebm.dynamics.adaptation import DualAverage, dual_average, update, windows
from pyro_lebm.dynamics.langevin import LogDensity, State, evaluate
from pyro_lebm.dynamics.metric import Metric, Moments, add, learned, no_moments

from ..parallel.lost import Track, elsewhere, further, lost, no_track
from ..parallel.ranks import moved

# Dense metrics cost the cube of the dimension at each window, and its square at each step.
LARGEST_DENSE = 100
# What the search for a first step size crosses, as in Stan.
FIRST_ACCEPTANCE = 0.8
DIVERGING = 1000.0  # nats of energy error
# A chain far out, where the target is steep, needs a smaller step than the others for a while.
STUCK, HALVED, REGROWN = 0.1, 0.5, 1.1
# Dual averaging first goes far off: with fewer updates the step follows the acceptance directly.
FEW_UPDATES = 20


class Move(NamedTuple):
    """What a kernel makes of a state: all of shape ``(*chains)`` but the first two."""

    state: State
    momentum: Tensor  # (*chains, ...): what else the kernel carries from move to move
    acceptance: Tensor  # probability, that of a test not made for unadjusted kernels
    error: Tensor  # of the energy, in nats
    energy: Tensor | None = None  # the Hamiltonian, of kernels with momentum
    gradient_noise: Tensor | None = None  # of kernels that see minibatches


class Mover(Protocol):
    """A way to move chains, and what is to be learned for it: see `sampling.kernel`."""

    step_size: float
    adapt_step_size: bool
    metric: Literal["auto", "dense", "diag", "none"]
    target_acceptance: float
    gradients: int

    def first_metric(self, log_density: LogDensity, position: Tensor) -> Metric:
        """Coordinates to start in."""

    def first_position(self, metric: Metric, position: Tensor) -> Tensor:
        """Where chains start."""

    def seen(self, log_density: LogDensity, metric: Metric) -> LogDensity:
        """The target as moves see it."""

    def begin(self, state: State) -> Tensor:
        """Momenta to start with."""

    def move(self, target: LogDensity, state: State, momentum: Tensor, step_size: Tensor) -> Move:
        """Advance all chains."""

    def score(self, move: Move) -> Tensor:
        """What the step size is tuned by."""


SHARED = ("step_size", "average")  # by all chains, and on the CPU wherever they are


class Statistics(NamedTuple):
    """Of one draw, ``(*chains)`` each."""

    lp: Tensor
    acceptance_rate: Tensor
    step_size: Tensor
    n_steps: Tensor
    diverging: Tensor
    energy: Tensor | None = None
    gradient_noise: Tensor | None = None


def joined(blocks: Sequence[Statistics]) -> Statistics:
    """Blocks of chains side by side; what a kernel does not tell stays None."""
    parts = zip(*blocks, strict=True)
    return Statistics(*(None if part[0] is None else torch.cat(part) for part in parts))  # type: ignore[arg-type]


def stacked(draws: Sequence[Statistics]) -> dict[str, Tensor]:
    """By name, ``(*chains, draws)``; without what a kernel does not tell."""
    parts = zip(Statistics._fields, zip(*draws, strict=True), strict=False)  # of no draws: nothing
    return {name: torch.stack(part, -1) for name, part in parts if part[0] is not None}


class Sampler:
    """Chains of a kernel on a target, advanced together; adapts for ``warmup`` steps.

    While the metric is learned, chains that do not move at the shared step size take smaller steps
    and teach nothing; those that a window of the warm-up leaves where there can be next to nothing
    of the posterior's mass (see `lost`) begin again where another chain is.

    Args:
        kernel: makes the moves.
        log_density: the target, ``(chains, dim) -> (chains)``.
        position: where the chains start, ``(chains, dim)``.
        warmup: steps of adaptation; the step size and the metric stay as they are afterwards.
        saved: what `get_state` gave, to go on from there.

    Attributes:
        t: steps made.
        metric: white coordinates, in which the kernel moves.
        step_size: a number shared by all chains.
        restarts: how often a chain began again elsewhere.
    """

    def __init__(
        self,
        kernel: Mover,
        log_density: LogDensity,
        position: Tensor,
        warmup: int,
        saved: dict[str, Any] | None = None,
    ) -> None:
        self.kernel, self.warmup, self.t, self.restarts = kernel, warmup, 0, 0
        ends = windows(warmup)
        self._ends = frozenset(ends) if kernel.metric != "none" else frozenset()
        self._gather = max(ends, default=0)  # until when chains may have steps of their own
        if saved is not None:
            here = {k: v for k, v in saved.items() if k not in SHARED}
            saved = {**saved, **moved(here, position.device)}
        metric = Metric(*saved["metric"]) if saved else kernel.first_metric(log_density, position)
        self.metric, self._log_density = metric, kernel.seen(log_density, metric)
        if saved is not None:
            self._set_state(saved)
            return
        position = kernel.first_position(metric, position)
        self.step_size = torch.tensor(kernel.step_size, dtype=torch.float64)
        self.caution = torch.ones_like(position[:, 0])
        self._enter(evaluate(self._log_density, position))
        if self._adapts_step:
            self._find_step()

    @property
    def _adapts_step(self) -> bool:
        return self.kernel.adapt_step_size and self.t < self.warmup

    @property
    def position(self) -> Tensor:
        """Where the chains are, ``(chains, dim)``."""
        return self.metric.position(self.state.position)

    def _enter(self, state: State) -> None:
        """Go on from a state of the target, in the metric as it is."""
        self.state = self.metric.state(state)
        self.momentum = self.kernel.begin(self.state)
        self._moments = no_moments(state.position, self.metric.dense)
        self._track = no_track(self.state)
        self._average = dual_average(self.step_size)

    def move_to(self, position: Tensor) -> None:
        """Go on from other positions."""
        self.state = self.metric.state(evaluate(self._log_density, position))
        self.momentum = self.kernel.begin(self.state)

    def _move(self) -> Move:
        target = self.metric.target(self._log_density)
        return self.kernel.move(target, self.state, self.momentum, self.step_size * self.caution)

    @property
    def _together(self) -> Tensor:
        """Chains that move at the shared step: all that the warm-up learns from."""
        near = self.caution > 0.5
        return near if bool(near.any()) else torch.ones_like(near)

    def _mean_score(self, move: Move) -> Tensor:
        return self.kernel.score(move)[self._together].mean().cpu()

    def advance(self) -> Statistics:
        """One move of all chains."""
        move = self._move()
        used = self.step_size * self.caution
        self.state, self.momentum = move.state, move.momentum
        self.t += 1
        if self.t <= self.warmup:
            self._adapt(move)
        lp = move.state.log_density
        return Statistics(
            lp,
            move.acceptance,
            used.to(lp).expand(lp.shape),
            torch.full_like(lp, self.kernel.gradients, dtype=torch.long),
            ~(move.error <= DIVERGING),
            move.energy,
            move.gradient_noise,
        )

    def _adapt(self, move: Move) -> None:
        if self.kernel.adapt_step_size:
            self._adapt_step(self._mean_score(move))
            self._take_care(move)
        if self._ends:
            near = self._together
            position, gradient = self.state.position[near], self.state.gradient[near]
            self._moments = add(self._moments, position, gradient)
            self._track = further(self._track, self.state)
        if self.t in self._ends:
            self._learn_metric()

    def _adapt_step(self, score: Tensor) -> None:
        target = self.kernel.target_acceptance
        if self.warmup < FEW_UPDATES:
            self.step_size = self.step_size * (score.double() - target).exp()
            return
        self._average = update(self._average, score, target)
        done = self.t == self.warmup
        self.step_size = (self._average.log_average if done else self._average.log_step).exp()

    def _take_care(self, move: Move) -> None:
        """Smaller steps for chains that do not move, until they do; none of it in the end."""
        stuck = self.kernel.score(move) < STUCK * self.kernel.target_acceptance
        grown = (self.caution * REGROWN).clamp(max=1.0)
        self.caution = torch.where(stuck, self.caution * HALVED, grown)
        if self.t >= self._gather:
            self.caution = torch.ones_like(self.caution)

    def _learn_metric(self) -> None:
        leaving = lost(self.state, self._track)
        self.restarts += int(leaving.sum())
        state = self.metric.unwhitened(elsewhere(self.state, leaving))
        self.metric = learned(self.metric, self._moments)
        self._enter(state)
        if self._adapts_step:
            self._find_step()

    def _find_step(self) -> None:
        """Double or halve the step until acceptance crosses .8 (Hoffman & Gelman 2014)."""
        direction = 0.0
        for _ in range(100):
            score = float(self._mean_score(self._move()))
            found = 1.0 if score > FIRST_ACCEPTANCE else -1.0
            if direction and found != direction:
                break
            direction = found
            self.step_size = self.step_size * 2.0**direction
        self._average = dual_average(self.step_size)

    # Saving

    def get_state(self) -> dict[str, Any]:
        """All that the next move depends on, but the random numbers."""
        return {
            "t": self.t,
            "step_size": self.step_size,
            "caution": self.caution,
            "metric": tuple(self.metric),
            "state": tuple(self.state),
            "momentum": self.momentum,
            "moments": tuple(self._moments),
            "average": tuple(self._average),
            "track": tuple(self._track),
            "restarts": self.restarts,
        }

    def _set_state(self, state: dict[str, Any]) -> None:
        self.t, self.step_size, self.momentum = state["t"], state["step_size"], state["momentum"]
        self.caution = state["caution"]
        self.state = State(*state["state"])
        self._moments = Moments(*state["moments"])
        self._average = DualAverage(*state["average"])
        self._track = Track(*state["track"])
        self.restarts = state["restarts"]
