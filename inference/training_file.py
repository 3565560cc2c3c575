"""The file of a training run: when it is written, what is in it, and how a run goes on from it."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_lebm.checkpoint import check_fingerprint, fingerprint, read_state, write_state
from pyro_lebm.series import Series

from .history import History
from .settings import check_same
from .training import Training

KIND = "training"


class TrainingFile:
    """Where a run is kept, and when writing it is due.

    Args:
        path: the file; None: the run is not kept. Its folder is made if need be.
        steps: steps between two writings, or None.
        seconds: seconds between two writings, or None.
        resume: whether `read` looks for what is there.

    Raises:
        ValueError: nothing to resume from, or an interval that is not positive.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        *,
        steps: int | None,
        seconds: float | None,
        resume: bool,
    ) -> None:
        if resume and path is None:
            raise ValueError("resume: expected a checkpoint to resume from, got checkpoint=None")
        for name, value in (("checkpoint_every", steps), ("checkpoint_seconds", seconds)):
            if value is not None and not value > 0:
                raise ValueError(f"{name}: expected a positive number, got {value}")
        self.path = None if path is None else Path(path)
        self.steps, self.seconds, self.resume = steps, seconds, resume
        self.written = time.monotonic()

    def read(self) -> dict[str, Any] | None:
        """The run in the file, if one is wanted and there is one.

        Raises:
            CheckpointError: the file is damaged, or none of a training run.
        """
        if self.path is None:
            return None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return read_state(self.path, kind=KIND) if self.resume and self.path.exists() else None

    def write(self, run: Training) -> None:
        """Write the run, if it is to be kept."""
        if self.path is not None:
            write_state(self.path, run_state(run), kind=KIND)
            self.written = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether the steps or the seconds between two writings are over."""
        late = self.seconds is not None and time.monotonic() - self.written >= self.seconds
        return late or (self.steps is not None and step % self.steps == 0)


def run_state(run: Training) -> dict[str, Any]:
    """A run as plain data."""
    return {
        "identity": _identity(run),
        "model": fingerprint(run.model),
        "guide": fingerprint(run.guide),
        "current": run.state(),
        "history": run.history.to_state(),
        "guard": run.guard.to_state(),
        "early_stop": None if run.early_stop is None else run.early_stop.to_state(),
        "seconds": run.seconds,
    }


def resume_from(saved: Mapping[str, Any], run: Training) -> None:
    """Put a prepared run where `saved` was.

    Raises:
        CheckpointError: it is of another model, guide, data set, or of other settings.
    """
    check_fingerprint(saved["model"], run.model, what="model")
    check_fingerprint(saved["guide"], run.guide, what="guide")
    check_same(saved["identity"], _identity(run))
    run.history = History.from_state(saved["history"])
    run.guard.load_state(saved["guard"])
    if run.early_stop is not None:
        run.early_stop.load_state(saved["early_stop"])
    run.load_state(saved["current"])
    run.set_clock(saved["seconds"])


def _identity(run: Training) -> dict[str, Any]:
    """What else must be the same for the numbers to go on: settings, loss, data."""
    elbo = run.elbo
    stop = run.early_stop
    return {
        **run.settings.to_state(),
        "elbo": f"{type(elbo).__name__} of {elbo.num_particles} particles",
        "series": _described(run.series),
        "validation": None if stop is None else [_described(stop.given), _described(stop.target)],
    }


def _described(series: Series) -> str:
    parts: list[Tensor] = [series.times, series.filled, series.mask]
    parts += [] if series.covariates is None else [series.covariates]
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part.detach().cpu().contiguous().numpy().tobytes())
    return f"{series!r} #{sha.hexdigest()[:12]}"
