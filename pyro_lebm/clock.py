"""Where time goes: a clock that named parts of a computation report to, if one runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

# Of the process, not of a thread: autograd draws negatives in another one where they are on a GPU.
_CLOCK: Clock | None = None
_UNTIMED: AbstractContextManager[Any] = nullcontext()


def timed(part: str) -> AbstractContextManager[Any]:
    """Count the time spent inside as this part's, where a `Clock` runs; else do nothing.

    Example:
        >>> clock = Clock()
        >>> with clock.running("all the rest"):
        ...     with timed("sleep"):
        ...         time.sleep(0.01)
        >>> sorted(clock.seconds), clock.seconds["sleep"] >= 0.01
        (['all the rest', 'sleep'], True)
    """
    return _UNTIMED if _CLOCK is None else _CLOCK.part(part)


class Clock:
    """Seconds and calls of named parts, each without the parts inside it: they add up to the whole.

    One clock runs in a process at a time. Parts may open in another thread, as autograd's for a
    CUDA device, while the one that started the clock waits for it.

    Args:
        device: a CUDA device is waited for at the bounds of each part, which costs some overlap.

    Attributes:
        seconds: of each part.
        calls: of each part.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self._device = device if device is not None and device.type == "cuda" else None
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def running(self, rest: str) -> Iterator[None]:
        """Run inside; time that no `timed` part takes is counted as ``rest``."""
        global _CLOCK
        before, _CLOCK = _CLOCK, self
        try:
            with self.part(rest):
                yield
        finally:
            _CLOCK = before

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Count the time inside for no part."""
        self._turn()
        open_parts, self._open = self._open, []
        try:
            yield
        finally:
            self._turn()
            self._open = open_parts

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time inside as this part's."""
        self._turn()
        self._open.append(name)
        self.calls[name] = self.calls.get(name, 0) + 1
        self.seconds.setdefault(name, 0.0)
        try:
            with torch.profiler.record_function(name):
                yield
        finally:
            self._turn()
            self._open.pop()

    def _turn(self) -> None:
        """Give the time since the last turn to the part that is open."""
        if self._device is not None:
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return sum(self.seconds.values())
