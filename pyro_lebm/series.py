"""Irregularly sampled, partly observed time series: checked once, on entry, then cut freely."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_lebm.series_checks import (
    check_covariates,
    check_every_sequence,
    check_index,
    check_one,
    check_values,
    check_widths,
    checked_times,
    observed_mask,
)

Index = int | slice | list[int] | Tensor


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Series:
    """N sequences of T time points and D features, each entry observed or hidden.

    Args:
        times: ``(T,)``, one grid for all sequences, or ``(N, T)``, one for each; strictly
            increasing along T. The padded tail of a sequence (trailing points where it has nothing
            observed) may repeat the last time. Any unit: rates learned from the data are per that
            unit.
        values: ``(N, T, D)``, floating. Hidden entries may hold anything, NaN included.
        mask: ``(N, T, D)`` or ``(N, T)`` bool, True where observed; None: wherever ``values`` is
            finite.
        covariates: ``(N, T, C)``, known inputs at the same times, finite throughout; or None.
        index: ``(N,)`` long, positions in the data set this was cut from; None: ``0 .. N-1``.
        total: size of that data set; None: N.

    Raises:
        TypeError: a tensor of the wrong kind (values not floating, mask not bool, not a tensor).
        ValueError: empty data, shapes or devices that disagree, times not finite or not increasing,
            NaN or inf under an observed mask, a sequence with nothing observed.

    Example:
        >>> import torch
        >>> times = torch.tensor([0.0, 0.3, 1.0])
        >>> series = Series(times, torch.tensor([[[1.0], [float("nan")], [2.0]]]))
        >>> series
        Series(N=1, T=3, D=1, observed 2 of 3 entries)
        >>> series.filled[0, :, 0].tolist()
        [1.0, 0.0, 2.0]
    """

    times: Tensor
    values: Tensor
    mask: Tensor
    covariates: Tensor | None
    index: Tensor
    total: int

    def __init__(
        self,
        times: Tensor,
        values: Tensor,
        mask: Tensor | None = None,
        covariates: Tensor | None = None,
        index: Tensor | None = None,
        total: int | None = None,
    ) -> None:
        check_values(values)
        mask = observed_mask(mask, values)
        times = checked_times(times, values, mask)
        check_covariates(covariates, values)
        n = values.shape[0]
        total = n if total is None else total
        if index is None:
            index = torch.arange(n, device=values.device)
        check_index(index, values, total)
        self._set(times, values, mask, covariates, index, total)

    def _set(
        self,
        times: Tensor,
        values: Tensor,
        mask: Tensor,
        covariates: Tensor | None,
        index: Tensor,
        total: int,
    ) -> None:
        # Written past the frozen guard, once, by the constructor or by an internal cut.
        self.__dict__.update(
            times=times, values=values, mask=mask, covariates=covariates, index=index, total=total
        )

    def _with(self, **changes: Any) -> Series:
        """A copy with some fields exchanged, unchecked: what was valid stays valid when cut."""
        cut = object.__new__(Series)
        cut._set(**{**self.__dict__, **changes})
        return cut

    @classmethod
    def from_list(cls, sequences: Sequence[tuple[Tensor, ...]]) -> Series:
        """Pad sequences of different lengths to a common one.

        Args:
            sequences: pairs ``(times (T_i,), values (T_i, D))`` or triples with ``covariates (T_i,
                C)``. Non-finite values are hidden.

        Raises:
            TypeError, ValueError: a sequence whose parts disagree in length, or that has another D
                or C than the first; and as the constructor does.

        Example:
            >>> import torch
            >>> short = (torch.tensor([0.0, 1.0]), torch.ones(2, 1))
            >>> long = (torch.tensor([0.0, 0.5, 2.0]), torch.ones(3, 1))
            >>> Series.from_list([short, long]).times.tolist()
            [[0.0, 1.0, 1.0], [0.0, 0.5, 2.0]]
        """
        if not sequences:
            raise ValueError("sequences: expected at least one (times, values) pair, got none")
        sizes = {len(s) for s in sequences}
        if sizes not in ({2}, {3}):
            raise ValueError(
                "sequences: expected (times, values) pairs or (times, values, covariates) triples "
                f"throughout, got tuples of {sorted(sizes)} entries"
            )
        for i, parts in enumerate(sequences):
            check_one(i, *parts)
        check_widths(sequences)
        length = max(len(s[0]) for s in sequences)
        rows = [[_pad(part, length) for part in s] for s in sequences]
        columns = [torch.stack(column) for column in zip(*rows, strict=True)]
        lengths = torch.tensor([len(s[0]) for s in sequences], device=columns[1].device)
        real = torch.arange(length, device=lengths.device) < lengths[:, None]
        mask = torch.isfinite(columns[1]) & real[..., None]
        return cls(columns[0], columns[1], mask, columns[2] if len(columns) == 3 else None)

    def __len__(self) -> int:
        return self.values.shape[0]

    @property
    def observed(self) -> int:
        """Number of observed features, D."""
        return self.values.shape[-1]

    @property
    def length(self) -> int:
        """Number of time points, T."""
        return self.values.shape[1]

    @property
    def filled(self) -> Tensor:
        """Values with hidden entries replaced by 0, so that no NaN ever reaches a gradient."""
        return torch.where(self.mask, self.values, torch.zeros_like(self.values))

    def batch(self, idx: Index) -> Series:
        """The sequences ``idx`` as a minibatch; ``index`` and ``total`` stay those of the whole."""
        rows = torch.as_tensor([idx], device=self.values.device) if isinstance(idx, int) else idx
        return self._with(
            times=self.times if self.times.dim() == 1 else self.times[rows],
            values=self.values[rows],
            mask=self.mask[rows],
            covariates=None if self.covariates is None else self.covariates[rows],
            index=self.index[rows],
        )

    def __getitem__(self, idx: Index) -> Series:
        """The sequences ``idx`` as a data set of their own (an int gives one sequence, N = 1)."""
        cut = self.batch(idx)
        return cut._with(index=torch.arange(len(cut), device=cut.values.device), total=len(cut))

    def minibatches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Series]:
        """Minibatches of ``size`` over one random permutation; the last may be smaller."""
        if size < 1:
            raise ValueError(f"size: expected at least 1 sequence a batch, got {size}")
        order = torch.randperm(len(self), generator=generator).to(self.values.device)
        return (self.batch(part) for part in order.split(size))

    def hide(self, keep: int | float, generator: torch.Generator | None = None) -> Series:
        """Keep only some random observed time points of each sequence; hide the rest.

        Args:
            keep: an int: so many points a sequence (all, where it has fewer);
                a float in (0, 1]: that fraction of its observed points, at least one.
            generator: source of randomness; None: torch's global one.

        Example:
            >>> import torch
            >>> series = Series(torch.arange(10.0), torch.zeros(2, 10, 1))
            >>> series.hide(keep=4).mask.sum(1).flatten().tolist()
            [4, 4]
        """
        points = self.mask.any(-1)
        available = points.sum(-1, keepdim=True)
        if isinstance(keep, int):
            if not 1 <= keep <= self.length:
                raise ValueError(f"keep: expected 1 to {self.length} time points, got {keep}")
            count = available.clamp(max=keep)
        else:
            if not 0.0 < keep <= 1.0:
                raise ValueError(f"keep: expected a fraction in (0, 1] or an int, got {keep}")
            count = (available * keep).round().clamp(min=1).long()
        noise = torch.rand(points.shape, generator=generator).to(points.device)
        # Hidden points sort last, so that the first `count` ranks are observed ones.
        rank = noise.masked_fill(~points, 2.0).argsort(-1).argsort(-1)
        return self._with(mask=self.mask & (rank < count)[..., None])

    def only(self, features: slice | list[int]) -> Series:
        """Observed in these features alone, such as spikes without the position that they tell.

        Args:
            features: places among the D, as a slice or a list.

        Raises:
            ValueError: a place that there is not, or a sequence that has nothing observed in any.

        Example:
            >>> series = Series(torch.arange(3.0), torch.zeros(2, 3, 42))
            >>> series.only(slice(40)).mask.sum(-1)[0].tolist()
            [40, 40, 40]
        """
        chosen = torch.zeros_like(self.mask)
        try:
            chosen[..., features] = True
        except IndexError as error:
            raise ValueError(
                f"features: expected places from 0 to {self.observed - 1}, got {features}"
            ) from error
        given = self._with(mask=self.mask & chosen)
        check_every_sequence(given.mask, f"features ({features}):")
        return given

    def until(self, time: float) -> Series:
        """Observed up to and including ``time``; hidden after it.

        Raises:
            ValueError: a sequence has nothing observed by then.
        """
        given = self._with(
            mask=self.mask & (self.times <= time).expand(self.mask.shape[:2])[..., None]
        )
        check_every_sequence(given.mask, f"time ({time}):")
        return given

    def cut(self, time: float) -> Series:
        """The beginning: nothing after ``time`` but, of a sequence that starts later, its first.

        Unlike :meth:`until`, time points at which nothing is left are dropped, not hidden.

        Example:
            >>> series = Series(torch.tensor([0.0, 1.0, 2.0]), torch.zeros(5, 3, 1))
            >>> series.cut(1.5).times.tolist()
            [0.0, 1.0]
        """
        seen = self.mask.any(-1)
        times = self.times.expand(seen.shape)
        first = times.masked_fill(~seen, float("inf")).amin(-1, keepdim=True)
        kept = seen & (times <= first.clamp(min=time))
        length = 1 + int(kept.any(0).nonzero().max()) if kept.any() else 1
        covariates = self.covariates
        return self._with(
            times=self.times[..., :length],
            values=self.values[:, :length],
            mask=(self.mask & kept[..., None])[:, :length],
            covariates=None if covariates is None else covariates[:, :length],
        )

    def without(self, given: Series) -> Series:
        """Observed where this series is and ``given`` is not: what is left to predict.

        A sequence may have nothing left; scores then count none of its entries.
        """
        if given.mask.shape != self.mask.shape:
            raise ValueError(
                f"given: expected a cut of this series, mask {tuple(self.mask.shape)}, "
                f"got {tuple(given.mask.shape)}"
            )
        return self._with(mask=self.mask & ~given.mask)

    def split(self, time: float) -> tuple[Series, Series]:
        """``(given, target)`` for a forecast: observed up to ``time``, and observed after it."""
        given = self.until(time)
        return given, self.without(given)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Series:
        """On another device or in another floating type."""

        def move(x: Tensor) -> Tensor:
            return x.to(device=device, dtype=dtype)

        return self._with(
            times=move(self.times),
            values=move(self.values),
            mask=self.mask.to(device=device),
            covariates=None if self.covariates is None else move(self.covariates),
            index=self.index.to(device=device),
        )

    def __repr__(self) -> str:
        n, t, d = self.values.shape
        part = "" if self.total == n else f" of {self.total}"
        extra = "" if self.covariates is None else f", C={self.covariates.shape[-1]}"
        seen = f"observed {int(self.mask.sum())} of {self.mask.numel()} entries"
        return f"Series(N={n}{part}, T={t}, D={d}{extra}, {seen})"


def check_series(series: object) -> None:
    """Refuse what is no series."""
    if not isinstance(series, Series):
        raise TypeError(f"series: expected a Series, got {type(series).__name__}")


def _pad(x: Tensor, length: int) -> Tensor:
    """Repeat the last row until ``length`` rows."""
    return torch.cat([x, x[-1:].expand(length - len(x), *x.shape[1:])])
