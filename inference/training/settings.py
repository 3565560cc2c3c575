"""The settings of a training run: checked once, stored with every checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pyro_lebm.checkpoint import CheckpointError

# What may change when a run is resumed: they end or guard a run, they are no part of its numbers.
_FREE = frozenset({"max_steps", "max_seconds", "max_rollbacks"})


@dataclass(frozen=True)
class Settings:
    """What `fit` was asked for; see there for the meaning of each.

    Raises:
        ValueError: a setting out of its range.
    """

    max_steps: int | None = None
    max_seconds: float | None = None
    batch_size: int = 100
    learning_rate: float = 3e-3
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    betas: tuple[float, float] = (0.9, 0.999)
    rate_warmup: float = 0.0
    final_rate: float = 0.1
    clip_norm: float | None = None
    kl_warmup: float = 0.0
    horizon_warmup: float = 0.0
    energy_from: float = 0.0
    validate_every: int = 100
    validation_draws: int = 20
    patience: int = 10
    snapshot_every: int = 25
    energy_limit: float = 100.0
    max_rollbacks: int = 5

    def __post_init__(self) -> None:
        if self.max_steps is None and self.max_seconds is None:
            raise ValueError("max_steps, max_seconds: expected at least one of them, got neither")
        for name in ("max_steps", "batch_size", "validate_every", "patience", "snapshot_every"):
            self._check_count(name)
        # A sampling guide's posterior resamples a population, which one draw is not.
        self._check_count("validation_draws", least=2)
        self._check_count("max_rollbacks", least=0)
        for name in ("max_seconds", "learning_rate", "clip_norm", "energy_limit"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name}: expected a positive number, got {value}")
        for prefix, rate in self.learning_rates.items():
            if not (rate >= 0 and math.isfinite(rate)):
                raise ValueError(
                    f"learning_rates[{prefix!r}]: expected a number of at least 0, got {rate}"
                )
        for name in ("rate_warmup", "final_rate", "kl_warmup", "horizon_warmup", "energy_from"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: expected a fraction in [0, 1], got {value}")

        if not (len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)):
            raise ValueError(f"betas: expected two numbers in [0, 1), got {self.betas}")

    def _check_count(self, name: str, least: int = 1) -> None:
        value = getattr(self, name)
        if value is not None and (int(value) != value or value < least):
            raise ValueError(f"{name}: expected a whole number of at least {least}, got {value}")

    def progress(self, step: int, seconds: float) -> float:
        """How much of the run is done, in [0, 1]: the larger of the fractions of steps and time."""
        done = [0.0]
        if self.max_steps is not None:
            done.append(step / self.max_steps)
        if self.max_seconds is not None:
            done.append(seconds / self.max_seconds)
        return min(1.0, max(done))

    def rate_factor(self, progress: float) -> float:
        """The schedule of the learning rates: a cosine from 1 down to `final_rate`, warmed up."""
        cosine = self.final_rate + (1 - self.final_rate) * (1 + math.cos(math.pi * progress)) / 2
        return cosine * warmed(progress, self.rate_warmup)

    def to_state(self) -> dict[str, Any]:
        """The settings that the numbers of a run depend on, as plain data."""
        state = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _FREE}
        return {**state, "learning_rates": dict(self.learning_rates)}


def warmed(progress: float, warmup: float) -> float:
    """What rises from near 0 to 1 over a first fraction of a run."""
    return 1.0 if progress >= warmup else max(progress / warmup, 1e-3)


def check_same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise if a checkpoint was written under other settings or data.

    Raises:
        CheckpointError: names each that differs.
    """
    names = [*expected, *(name for name in found if name not in expected)]
    changed = [
        f"{name} was {found.get(name)!r}, now {expected.get(name)!r}"
        for name in names
        if found.get(name) != expected.get(name)
    ]
    if changed:
        raise CheckpointError("resume: the checkpoint is of another run: " + "; ".join(changed))
