"""Growing horizon: training sees the beginning of each sequence first, then more and more."""

from __future__ import annotations

from pyro_lebm.series import Series

START = 0.2  # of all observations: what training sees at first


class Horizon:
    r"""Cuts minibatches at a time that grows with the progress of the run.

    A path over many periods of a signal is soon fitted by a flat line, from which nothing leads on,
    and its gradients explode through the long solve. Over the first part of a period neither
    happens, and what was learned there serves the next part: the fit is grown iteratively, as
    SciML's documentation recommends for neural differential equations. The horizon is a quantile
    of all times of observation, from a fifth to 1, linear in progress.

    Args:
        series: the data.
        warmup: fraction of the run until all is seen; 0: from the start.
    """

    def __init__(self, series: Series, warmup: float) -> None:
        self.warmup = warmup
        seen = series.mask.any(-1)
        self._times = series.times.expand(seen.shape)[seen].sort().values.tolist() if warmup else []

    def cut(self, batch: Series, progress: float) -> Series:
        """What of `batch` is seen at `progress` in [0, 1]."""
        if progress >= self.warmup:
            return batch
        share = START + (1 - START) * progress / self.warmup
        return batch.cut(self._times[int(share * (len(self._times) - 1))])
