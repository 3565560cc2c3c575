"""A series in the form that fused densities take, prepared once and kept beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..series import Series
from .problem import Observed, Readout

GRIDS = 4  # readouts kept of a series: the solver's step changes once an epoch


@dataclass(frozen=True, eq=False)
class Prepared:
    """A series' values and mask as `Observed`, and its first and last time.

    A run of a chain scores the same series again and again, and to look for its last time makes a
    host wait for its GPU.
    """

    data: Observed
    times: Tensor
    first: float
    end: float
    _readouts: dict[tuple[float, float, torch.dtype], Readout] = field(default_factory=dict)

    @classmethod
    def of(cls, series: Series) -> Prepared:
        """Of a series as it is now, kept as long as the series lives and is not written into.

        Example:
            >>> series = Series(torch.tensor([0.5, 2.0]), torch.ones(3, 2, 1))
            >>> Prepared.of(series) is Prepared.of(series), Prepared.of(series).end
            (True, 2.0)
        """
        state = _state(series.times, series.values, series.mask)
        entry = _KEPT.get(series)
        if entry is not None and entry[0] == state and _state(entry[1].data.values) == entry[2]:
            return entry[1]
        found = cls._made(series)
        if state is not None:
            _KEPT[series] = (state, found, _state(found.data.values))
        return found

    @classmethod
    def _made(cls, series: Series) -> Prepared:
        with torch.inference_mode(False):  # or it could not be used outside
            times = series.times.detach().clone()
            first, end = torch.aminmax(times)
            mask = series.mask.to(torch.uint8).contiguous()
            data = Observed(series.filled.contiguous(), mask)
        return cls(data, times, float(first), float(end))

    def rounded(self, t0: float) -> float:
        """To the times' own precision: 0.7 as a double lies above 0.7 as a float."""
        return float(torch.as_tensor(t0, dtype=self.times.dtype))

    def readout(self, t0: float, step: float, dtype: torch.dtype) -> Readout:
        """On the grid from t0 to the last time whose steps are at most ``step``."""
        key = (t0, step, dtype)
        found = self._readouts.get(key)
        if found is None:
            steps = max(1, math.ceil((self.end - t0) / step - 1e-6))
            with torch.inference_mode(False):
                found = Readout.at(self.times, t0, self.end, steps, dtype)
            if len(self._readouts) >= GRIDS:
                self._readouts.clear()
            self._readouts[key] = found
        return found


def _state(*tensors: Tensor) -> tuple[int, ...] | None:
    """What changes when they are written into or exchanged; None for what is not to be kept.

    That is a graph that leads to them, and tensors whose changes PyTorch does not count.
    """
    if any(x.is_inference() or x.requires_grad for x in tensors):
        return None
    return tuple(n for x in tensors for n in (x._version, x.data_ptr()))


_Entry = tuple[tuple[int, ...], Prepared, tuple[int, ...] | None]
_KEPT: WeakKeyDictionary[Series, _Entry] = WeakKeyDictionary()
