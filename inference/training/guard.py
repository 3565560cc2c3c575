"""What watches over training: faults, the last good states, and when to give up."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# What a state that has gone wrong may raise before it shows in the loss.
FAULTS = (ArithmeticError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Fault:
    """Why a step cannot stand."""

    reason: str
    energy: bool = False


class Guard:
    """Keeps the last two good states; says when to return to them, and at what learning rates.

    A state that is returned to twice without a new good one in between led to both faults, so the
    second time the state before it is taken. Each return halves the learning rates: the energy's
    alone if the energy ran away, all of them otherwise.

    Args:
        energy_limit: |E on posterior draws - E on prior draws| beyond which an energy ran away.
        max_rollbacks: how many returns are allowed before the run fails.
    """

    def __init__(self, energy_limit: float, max_rollbacks: int) -> None:
        self.energy_limit = energy_limit
        self.max_rollbacks = max_rollbacks
        self.rollbacks = 0
        self.factor = 1.0
        self.energy_factor = 1.0
        self._states: list[dict[str, Any]] = []
        self._used = False

    def check(self, loss: float, statistics: Mapping[str, float]) -> Fault | None:
        """The fault of a step, if it has one."""
        if not math.isfinite(loss):
            return Fault(f"the loss is {loss}")
        gap = energy_gap(statistics)
        if not gap <= self.energy_limit:
            return Fault(f"the energy ran away: a gap of {gap:.4g} between data and model", True)
        return None

    def calm(self, statistics: Mapping[str, float]) -> bool:
        """Whether a state is fit to return to: not one that is about to run away itself."""
        return energy_gap(statistics) <= self.energy_limit / 2

    def keep(self, state: dict[str, Any]) -> None:
        """Remember a good state."""
        self._states = [*self._states[-1:], state]
        self._used = False

    @property
    def last(self) -> dict[str, Any]:
        """The latest good state."""
        return self._states[-1]

    def roll_back(self, fault: Fault, step: int, rng: Mapping[str, Tensor]) -> dict[str, Any]:
        """The state to return to; counts, lowers the learning rates and warns.

        Args:
            fault: what went wrong.
            step: at which step.
            rng: the random numbers with which to go on from the state.

        Raises:
            RuntimeError: after more than `max_rollbacks` returns.
        """
        if self.rollbacks >= self.max_rollbacks:
            raise RuntimeError(
                f"training failed at step {step}: {fault.reason}, after {self.rollbacks} rollbacks "
                f"(learning rates x {self.factor:g}, the energy's x "
                f"{self.factor * self.energy_factor:g}); model and guide hold the last good state"
            )
        if self._used:
            self._states = self._states[:1]
        self._used = True
        # Kept with the state: an interrupted run goes on from it as the uninterrupted one did.
        self._states[-1] = {**self._states[-1], "rng": rng}
        self.rollbacks += 1
        if fault.energy:
            self.energy_factor /= 2
        else:
            self.factor /= 2
        warnings.warn(
            f"step {step}: {fault.reason}; back to step {self.last['step']} with half the "
            f"{'learning rate of the energy' if fault.energy else 'learning rates'} "
            f"(rollback {self.rollbacks} of at most {self.max_rollbacks})",
            RuntimeWarning,
            stacklevel=4,
        )
        return self.last

    def to_state(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {
            "rollbacks": self.rollbacks,
            "factor": self.factor,
            "energy_factor": self.energy_factor,
            "states": list(self._states),
            "used": self._used,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put back what `to_state` returned."""
        self.rollbacks = state["rollbacks"]
        self.factor = state["factor"]
        self.energy_factor = state["energy_factor"]
        self._states = list(state["states"])
        self._used = state["used"]


def energy_gap(statistics: Mapping[str, float]) -> float:
    """The largest |E on posterior draws - E on prior draws| of the priors; 0 where none reports."""
    gap = 0.0
    for name, value in statistics.items():
        other = statistics.get(name.replace("energy_positive", "energy_negative"))
        if name.endswith("energy_positive") and other is not None:
            difference = abs(value - other)
            gap = difference if math.isnan(difference) else max(gap, difference)
    return gap
