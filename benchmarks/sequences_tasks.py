"""The tasks of the sequences' benchmark: their data, what is given of it, what is scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from pyro_lebm.models import datasets
from pyro_lebm.series import Series

Kind = Literal["gaussian", "poisson", "mixed"]
NOISE = (0.0, 0.1, 0.3, 1.0)  # shares of the training data's standard deviation, or mean counts
MISSING = (0.1, 0.5, 0.9)  # shares of the time points
SHOWN = (0.1, 1.0)  # shares of a training sequence that an encoder is shown, evenly
TRAINED_UNTIL, CHOSEN_UNTIL = 1985.0, 1992.0  # of the real series: then the test
STRIDE = 13  # weeks between the real series' windows
POSITION = 2  # features of a position, the last ones


@dataclass(frozen=True)
class Sizes:
    """What a scale decides: how much data, how large a model, and what is spent on measuring."""

    train: int
    points: int
    validation: int = 60
    test: int = 100
    neurons: int = 0
    latent: int = 8
    state: int = 32  # of the recurrent generator, whose networks are smaller
    hidden: int = 64
    batch: int = 50
    draws: int = 40
    corrupted: int = 40  # sequences that are tested with noise, and with points missing
    corrupted_draws: int = 12
    generated: int = 1000


@dataclass(frozen=True)
class Data:
    """What models learn from, and what they are tested on.

    Attributes:
        train: as models are scored on it.
        whole: test sequences, with all that may be given of them.
        truth: of the test sequences, what predicted means are compared with, ``(N, T, D)``.
        null: mean of each feature in training; its standard deviation is ``sd``.
        factor: from the units of the models to those of the data.
        unit: of time, the typical gap.
        real: further sequences, that nothing was learned from, to compare generated ones with.
    """

    train: Series
    whole: Series
    truth: Tensor
    null: Tensor
    sd: Tensor
    factor: float
    unit: float
    real: Tensor

    def to(self, device: str) -> Data:
        """On another device."""
        moved = {
            name: getattr(self, name).to(device)
            for name in ("train", "whole", "truth", "null", "sd", "real")
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class Task:
    """A data set and what is asked of it.

    Attributes:
        told: of what is measured, for the table.
        kind: of the emission.
        given: share of the time points that a test shows.
        errors: which entries the error is over: all, those of positions, those that are hidden.
        predictive: whether intervals are of observations, or of their means, against ``truth``.
        horizon: share of the time over which latent ODEs come to see whole sequences.
        shown: whether encoders see shares of a training sequence, or the counts alone, or all.
        centred: whether a sequence is taken less the mean of what is given of it.
    """

    told: str
    kind: Kind
    data: Callable[[Sizes, int, bool], Data]
    small: Sizes
    full: Sizes
    given: float = 1.0
    errors: Literal["all", "position", "hidden"] = "all"
    predictive: bool = True
    shown: Literal["shares", "counts", "all"] = "all"
    centred: bool = False
    learning_rate: float = 1e-2
    horizon: float = 0.0

    @property
    def counts(self) -> bool:
        """Whether there are neurons."""
        return self.kind != "gaussian"

    def view(self, series: Series) -> Series:
        """What an encoder is shown of a training sequence."""
        if self.shown == "counts":
            return without_position(series)
        low, high = SHOWN
        return series.hide(low + (high - low) * float(torch.rand(())))

    def neurons(self, x: Tensor) -> Tensor:
        """Those features that are counts."""
        return x[..., :-POSITION] if self.kind == "mixed" else x

    def cut(
        self,
        data: Data,
        whole: Series,
        generator: torch.Generator,
        *,
        missing: float | None = None,
        noise: float = 0.0,
    ) -> Series:
        """What a test gives: some of the points, with more noise.

        Noise of a number is Gaussian, a share of the training data's standard deviation; of a count
        it is spikes that are nobody's, Poisson, a share of the neuron's mean count.
        """
        given = without_position(whole) if self.kind == "mixed" else whole
        keep = self.given if missing is None else 1 - missing
        # Hidden first: whatever the noise, the same points are given.
        given = given.hide(keep, generator) if keep < 1 else given
        if noise:
            given = given._with(values=given.values + self._noise(data, given, noise, generator))
        return given

    def _noise(self, data: Data, series: Series, share: float, source: torch.Generator) -> Tensor:
        like = series.values
        if self.counts:
            mean = share * data.null.cpu().clamp(min=0)  # of a position too, which is hidden
            return torch.poisson(mean.expand(like.shape), source).to(like)
        return share * data.sd * torch.randn(like.shape, generator=source).to(like)

    def scored(self, whole: Series, given: Series | None) -> Tensor:
        """Entries ``(N, T, D)`` of ``truth`` that count; those hidden too, if nothing is given."""
        every = torch.ones_like(whole.mask)
        if self.errors == "position":
            every[..., :-POSITION] = False
        if self.errors == "hidden":
            return whole.mask if given is None else whole.mask & ~given.mask
        return every


def without_position(series: Series) -> Series:
    """Counts alone."""
    mask = series.mask.clone()
    mask[..., -POSITION:] = False
    return series._with(mask=mask)


def fresh_counts(rates: Tensor, seed: int) -> Tensor:
    """Spikes of the same rates once more: of those that were given, some may have been copied."""
    source = torch.Generator().manual_seed(700 + seed)
    return torch.poisson(rates.double().cpu(), source).to(rates)


def centre(given: Series, centred: bool) -> tuple[Series, Tensor]:
    """The series less what is to be added to predictions again, ``(N, 1, D)``."""
    if not centred:
        return given, given.values.new_zeros(1, 1, given.observed)
    level = given.filled.sum(1, keepdim=True) / given.mask.sum(1, keepdim=True).clamp(min=1)
    return given._with(values=given.values - level), level


# Data


def _seeds(seed: int, validation: bool) -> tuple[int, int, int]:
    """Of what is learned from, what is tested, what is generated: never shared."""
    first = 1000 + 10 * seed
    return first, first + (1 if validation else 2), first + 3


def _spirals(sizes: Sizes, seed: int, validation: bool) -> Data:
    first, other, fresh = _seeds(seed, validation)
    train = datasets.spirals(sizes.train, points=sizes.points, seed=first)
    n = sizes.validation if validation else sizes.test
    whole, known = datasets.spirals(n, points=sizes.points, seed=other, truth=True)
    real = datasets.spirals(n, points=sizes.points, seed=fresh).values
    return _data(train, whole, known["path"], real)


def _lorenz(sizes: Sizes, seed: int, validation: bool) -> Data:
    first, other, fresh = _seeds(seed, validation)
    options = {"points": sizes.points, "neurons": sizes.neurons}
    train = datasets.lorenz_spikes(sizes.train, seed=first, **options)
    n = sizes.validation if validation else sizes.test
    whole, known = datasets.lorenz_spikes(n, seed=other, truth=True, **options)
    real = datasets.lorenz_spikes(n, seed=fresh, **options).values
    return _data(train, whole, known["rates"], real)


def _reaching(sizes: Sizes, seed: int, validation: bool) -> Data:
    first, other, fresh = _seeds(seed, validation)
    options = {"points": sizes.points, "neurons": sizes.neurons}
    train = datasets.reaching(sizes.train, seed=first, **options)
    n = sizes.validation if validation else sizes.test
    whole, known = datasets.reaching(n, seed=other, truth=True, **options)
    truth = torch.cat([known["rates"], known["position"]], -1)
    return _data(train, whole, truth, datasets.reaching(n, seed=fresh, **options).values)


def _co2(sizes: Sizes, seed: int, validation: bool) -> Data:
    """There is but one series: seeds differ in what is hidden and in how models start."""
    series, known = datasets.co2(window=sizes.points, stride=STRIDE, truth=True)
    start, length = known["start"], float(series.times[-1])
    full = series.mask.any(-1).float().mean(-1) > 0.5  # a window of gaps shows nothing
    early = full & (start + length < TRAINED_UNTIL)
    middle = full & (start >= TRAINED_UNTIL) & (start + length < CHOSEN_UNTIL)
    late = full & (start >= CHOSEN_UNTIL)
    train, _ = centre(series[early.nonzero()[:, 0]], True)
    scaling = datasets.Scaling.of(train)
    tested = series[(middle if validation else late).nonzero()[:, 0]]
    # in the units of training, but where it was: what is given decides the level
    level = tested.filled.sum((1, 2)) / tested.mask.sum((1, 2))
    values = (tested.filled - level.mean()) / scaling.scale
    whole = tested._with(values=values)
    real = centre(whole, True)[0].filled
    found = _data(scaling.apply(train), whole, whole.filled, real)
    return replace(found, factor=float(scaling.scale))


def _data(train: Series, whole: Series, truth: Tensor, real: Tensor) -> Data:
    count = train.mask.sum((0, 1))
    null = train.filled.sum((0, 1)) / count
    sd = (((train.filled - null).square() * train.mask).sum((0, 1)) / count).sqrt()
    unit = float(train.times.diff(dim=-1).median())
    return Data(train, whole, truth, null, sd, 1.0, unit, real)


TASKS: dict[str, Task] = {
    "spirals": Task(
        "the noiseless path at all points, a random half given with noise .1",
        "gaussian",
        _spirals,
        Sizes(train=300, points=50),
        Sizes(train=2000, points=100, test=300, latent=16, state=64, hidden=128),
        given=0.5,
        shown="shares",
        horizon=0.4,
    ),
    "lorenz": Task(
        "rates of 30 neurons from all of their spikes",
        "poisson",
        _lorenz,
        Sizes(train=300, points=100, neurons=30),
        Sizes(train=2000, points=100, neurons=30, test=300, latent=16, state=128, hidden=128),
        predictive=False,
        horizon=0.3,
    ),
    "reaching": Task(
        "the position of a hand from spikes of 40 neurons",
        "mixed",
        _reaching,
        Sizes(train=300, points=60, neurons=40),
        Sizes(train=2000, points=60, neurons=80, test=300, latent=16, state=128, hidden=128),
        errors="position",
        shown="counts",
    ),
    "co2": Task(
        "weekly CO2 on Mauna Loa from 1992 on, ppm, half of the weeks hidden",
        "gaussian",
        _co2,
        Sizes(train=0, points=52),
        Sizes(train=0, points=104, latent=16, state=64, hidden=128),
        given=0.5,
        errors="hidden",
        shown="shares",
        centred=True,
    ),
}
