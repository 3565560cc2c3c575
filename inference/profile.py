"""Where the time of a training run goes, part by part."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pyro.infer.elbo import ELBO

from pyro_lebm.clock import Clock, timed

REST = "everything else"
TRACED = 3  # steps in a trace file, after two that warm up


class Profile:
    """The profile of a run, or of none.

    Args:
        asked: what `fit` was given: False, True, or where to write a trace for chrome://tracing.
        device: of the data.
    """

    def __init__(self, asked: bool | str | os.PathLike[str], device: torch.device) -> None:
        self.clock = None if asked is False else Clock(device)
        self.path = None if isinstance(asked, bool) else Path(asked)
        self._recorder: Any = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure what is run inside."""
        with ExitStack() as stack:
            if self.clock is not None:
                stack.enter_context(self.clock.running(REST))
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._recorder = stack.enter_context(_recorder(self.path))
            yield

    def step(self) -> None:
        """Told after each step."""
        if self._recorder is not None:
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


def _recorder(path: Path) -> Any:
    schedule = torch.profiler.schedule(wait=1, warmup=1, active=TRACED, repeat=1)

    def write(found: Any) -> None:
        found.export_chrome_trace(str(path))

    return torch.profiler.profile(schedule=schedule, on_trace_ready=write)


def in_parts(elbo: ELBO) -> ELBO:
    """An ELBO whose runs of guide and model are timed apart from the gradient."""
    parts = copy.copy(elbo)
    run: Any = parts._get_traces

    def traces(*arguments: Any) -> Iterator[Any]:
        found = run(*arguments)
        while True:
            with timed("guide and model"):
                pair = next(found, None)
            if pair is None:
                return
            yield pair

    parts._get_traces = traces  # type: ignore[method-assign]
    return parts
