"""Where the time of a training run goes, part by part."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pyro.infer.elbo import ELBO

from pyro_lebm.clock import Clock, timed

REST = "everything else"
SKIPPED, TRACED = 2, 3  # steps before those in a trace file, and those


class Profile:
    """The profile of a run, or of none.

    Args:
        asked: what `fit` was given: False, True, or where to write a trace for chrome://tracing.
        device: of the data.
        rank: which of several processes this is; the first alone writes a trace.
    """

    def __init__(
        self, asked: bool | str | os.PathLike[str], device: torch.device, rank: int = 0
    ) -> None:
        self.clock = None if asked is False else Clock(device)
        self.path = None if isinstance(asked, bool) or rank > 0 else Path(asked)
        self._recorder: Any = None
        self._steps = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure what is run inside."""
        with ExitStack() as stack:
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._recorder = stack.enter_context(self._recording())
            if self.clock is not None:
                stack.enter_context(self.clock.running(REST))
            yield
        if self.path is not None and self._steps <= SKIPPED:
            warnings.warn(
                f"profile: expected more than {SKIPPED} steps, as a trace is of those after them, "
                f"got {self._steps}; {self.path} was not written",
                RuntimeWarning,
                stacklevel=4,
            )

    def _recording(self) -> Any:
        schedule = torch.profiler.schedule(wait=1, warmup=SKIPPED - 1, active=TRACED, repeat=1)
        return torch.profiler.profile(schedule=schedule, on_trace_ready=self._write)

    def _write(self, found: Any) -> None:
        if self._steps > SKIPPED:
            found.export_chrome_trace(str(self.path))

    def step(self) -> None:
        """Told after each step."""
        self._steps += 1
        if self._recorder is not None and self.clock is not None:
            with self.clock.stopped():  # starting to record, and writing, take seconds
                self._recorder.step()

    def table(self, steps: int) -> pd.DataFrame | None:
        """Of each part: seconds, its share of them all, calls, milliseconds a step."""
        if self.clock is None:
            return None
        seconds = pd.Series(self.clock.seconds, dtype=float)
        table = pd.DataFrame(
            {
                "seconds": seconds,
                "share": seconds / self.clock.total,
                "calls": pd.Series(self.clock.calls),
                "ms_per_step": 1e3 * seconds / max(steps, 1),
            }
        )
        return table.rename_axis("part").sort_values("seconds", ascending=False)


def in_parts(elbo: ELBO) -> ELBO:
    """An ELBO whose runs of guide and model are timed apart from the gradient."""
    parts = copy.copy(elbo)
    # One particle's: `_get_traces` is a generator that is asked once more at its end.
    run: Any = parts._get_trace

    def trace(*arguments: Any) -> Any:
        with timed("guide and model"):
            return run(*arguments)

    parts._get_trace = trace  # type: ignore[method-assign]
    return parts
