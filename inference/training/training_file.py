"""The file of a training run: when it is written, what is in it, and how a run goes on from it."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_lebm.checkpoint import (
    check_fingerprint,
    check_structure,
    fingerprint,
    read_state,
    structure_of,
    write_state,
)
from pyro_lebm.clock import timed
from pyro_lebm.series import Series

from ..parallel.ranks import Ranks
from ..parallel.shards import share_of, whole
from .history import History
from .settings import check_same
from .trainer import Training

KIND = "training"


class TrainingFile:
    """Where a run is kept, and when writing it is due.

    Args:
        path: the file; None: the run is not kept. Its folder is made if need be.
        steps: steps between two writings, or None.
        seconds: seconds between two writings, or None.
        resume: whether `read` looks for what is there.
        ranks: who trains; rank 0 alone reads and writes, and knows whether there is a file.

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
        ranks: Ranks,
    ) -> None:
        if resume and path is None and ranks.rank == 0:
            raise ValueError("resume: expected a checkpoint to resume from, got checkpoint=None")
        for name, value in (("checkpoint_every", steps), ("checkpoint_seconds", seconds)):
            if value is not None and not value > 0:
                raise ValueError(f"{name}: expected a positive number, got {value}")
        self.path = None if path is None else Path(path)
        self.steps, self.seconds, self.resume = steps, seconds, resume
        self.ranks, self.kept = ranks, ranks.first(path is not None)
        self.written, self.step = time.monotonic(), 0

    def read(self) -> dict[str, Any] | None:
        """The run in the file, if one is wanted and there is one.

        Raises:
            CheckpointError: the file is damaged, or none of a training run.
        """
        saved = self.ranks.on_first(self._read) if self.kept else None
        self.step = saved["current"]["step"] if saved is not None else 0
        return saved

    def _read(self) -> dict[str, Any] | None:
        assert self.path is not None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return read_state(self.path, kind=KIND) if self.resume and self.path.exists() else None

    def write(self, run: Training) -> None:
        """Write the run, if it is to be kept."""
        if self.kept:
            with timed("checkpoint"):
                state = run_state(run)
                self.ranks.on_first(lambda: write_state(str(self.path), state, kind=KIND))
            self.written, self.step = time.monotonic(), run.step

    def due(self, step: int) -> bool:
        """Whether the steps or the seconds between two writings are over."""
        if not self.kept:
            return False
        late = self.seconds is not None and time.monotonic() - self.written >= self.seconds
        return self.ranks.first(late or (self.steps is not None and step % self.steps == 0))

    @property
    def way_back(self) -> str:
        """How to go on after a failure."""
        if not self.step:
            return "no checkpoint was written"
        return (
            f"the checkpoint holds the run up to step {self.step}: start all processes again with "
            "resume=True"
        )


def run_state(run: Training) -> dict[str, Any]:
    """A run as plain data: all of it on rank 0, which writes it."""

    def together(state: dict[str, Any]) -> dict[str, Any]:
        return whole(state, run.ranks, run.series)

    state = {
        "identity": _identity(run),
        "model": fingerprint(run.model),
        "guide": fingerprint(run.guide),
        "structure": _structures(run),
        "current": run.state(),
        "history": run.history.to_state(),
        "guard": run.guard.to_state(),
        "early_stop": None if run.early_stop is None else run.early_stop.to_state(),
        "seconds": run.seconds,
    }
    return _mapped(together, state)


def _mapped(
    change: Callable[[dict[str, Any]], dict[str, Any]], saved: Mapping[str, Any]
) -> dict[str, Any]:
    """A run as plain data with each of the states in it exchanged."""
    guard, stop = saved["guard"], saved["early_stop"]
    if stop is not None and stop["best"] is not None:
        stop = {**stop, "best": change(stop["best"])}
    return {
        **saved,
        "current": change(saved["current"]),
        "guard": {**guard, "states": [change(state) for state in guard["states"]]},
        "early_stop": stop,
    }


def resume_from(saved: Mapping[str, Any], run: Training) -> None:
    """Put a prepared run where `saved` was, whatever the number of ranks it had.

    Raises:
        CheckpointError: it is of another model, guide, data set, or of other settings.
    """

    def apart(state: dict[str, Any]) -> dict[str, Any]:
        return share_of(state, run.ranks, run.both, run.series)

    check_fingerprint(saved["model"], run.model, what="model")
    check_fingerprint(saved["guide"], run.guide, what="guide")
    for what, found in saved.get("structure", {}).items():
        check_structure(found, getattr(run, what), what=what)
    check_same(saved["identity"], _identity(run))
    saved = _mapped(apart, saved)
    run.history = History.from_state(saved["history"])
    run.guard.load_state(saved["guard"])
    if run.early_stop is not None:
        run.early_stop.load_state(saved["early_stop"])
    run.load_state(saved["current"])
    run.set_clock(saved["seconds"])


def check_alike(run: Training) -> None:
    """Refuse ranks that would not train one model on the same data in one way.

    Raises:
        ValueError: on all ranks; names what differs, and where. Or there are fewer sequences, in
            all or in a step, than ranks.
    """
    ranks = run.ranks
    if ranks.alone:
        return
    for name, count in (("series", len(run.series)), ("batch_size", run.settings.batch_size)):
        if count < ranks.size:
            raise ValueError(
                f"{name}: expected at least a sequence for each of {ranks.size} ranks, got {count}"
            )
    ours = {
        **asdict(run.settings),
        **_identity(run),
        "model": fingerprint(run.model),
        "guide": fingerprint(run.guide),
        "structure": _structures(run),
    }
    first, *others = ranks.gather(ours)
    for rank, theirs in enumerate(others, 1):
        for name, value in theirs.items():
            if value != first[name]:
                raise ValueError(
                    f"{name}: expected the same on all ranks, got {first[name]!r} on rank 0 and "
                    f"{value!r} on rank {rank}"
                )


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


def _structures(run: Training) -> dict[str, dict[str, str]]:
    """Settings that equal weights do not tell, of both modules."""
    return {"model": structure_of(run.model), "guide": structure_of(run.guide)}


def _described(series: Series) -> str:
    parts: list[Tensor] = [series.times, series.filled, series.mask]
    parts += [] if series.covariates is None else [series.covariates]
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part.detach().cpu().contiguous().numpy().tobytes())
    return f"{series!r} #{sha.hexdigest()[:12]}"
