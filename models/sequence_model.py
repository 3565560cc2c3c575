"""What models of sequences share: the plate, the data's checks, samples of the model itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_lebm.number_checks import check_whole
from pyro_lebm.series import Series, check_series

from .saved import SavedModel


class SequenceModel(SavedModel):
    """A program called as ``model(series)`` or ``model(times=, n=, covariates=)``.

    Sites hang in the plate ``sequences``; data are ``x``, samples ``x_new``.
    """

    observed: int

    @contextmanager
    def _sequences(self, series: Series | None, n: int | None) -> Iterator[None]:
        index = None if series is None or _whole(series) else series.index
        size = series.total if series is not None else n
        with pyro.plate("sequences", size, subsample=index, dim=-1):
            yield

    def _emit(self, emission: Callable[..., Any], path: Tensor) -> TorchDistribution:
        x: TorchDistribution = emission(path)
        expected = (*path.shape[:-1], self.observed)
        if x.batch_shape != expected:
            raise ValueError(
                f"emission: expected {self.observed} features, batch shape {expected} for a path "
                f"of shape {tuple(path.shape)}, got batch shape {tuple(x.batch_shape)}"
            )
        return x

    @torch.no_grad()
    def generate(self, n: int, times: Tensor, covariates: Tensor | None = None) -> Tensor:
        """``n`` new sequences ``(n, T, D)`` at ``times``, drawn from the model itself.

        Raises:
            TypeError: for an ``n`` that is no whole number.
            ValueError: for fewer than one sequence.
        """
        check_whole(n=n)
        if n < 1:
            raise ValueError(f"n: expected at least 1, got {n}")
        with pyro.poutine.block(), pyro.poutine.trace() as trace:
            self(times=times, n=n, covariates=covariates)
        x = trace.trace.nodes["x_new"]["value"]
        assert isinstance(x, Tensor)
        return x

    def _check_series(self, series: Series, dtype: torch.dtype) -> None:
        check_series(series)
        if series.observed != self.observed:
            raise ValueError(
                f"series: expected {self.observed} features an observation, got {series.observed}"
            )
        if series.values.dtype != dtype:
            raise ValueError(
                f"series: expected {dtype} as the model is, got "
                f"{series.values.dtype}; use series.to(dtype=...) or model.to(...)"
            )


def _whole(series: Series) -> bool:
    """Whether it is its whole data set, in order."""
    if series not in _WHOLE:  # once: the host waits for its GPU
        _WHOLE[series] = len(series) == series.total and bool((series.index.diff() == 1).all())
    return _WHOLE[series]


_WHOLE: WeakKeyDictionary[Series, bool] = WeakKeyDictionary()
