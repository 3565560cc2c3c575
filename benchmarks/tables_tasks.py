"""The tasks of the tables: their data, what is given of it, and the sizes of their models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pyro_lebm.models import datasets
from pyro_lebm.series import Series

Protocol = Literal["interpolation", "extrapolation"]
PROTOCOLS: tuple[Protocol, ...] = ("interpolation", "extrapolation")
LEFT_OUT = (8, 9)  # digits that training never sees
MORE = (5000, 6000)  # seeds of fresh data, and of other fresh data
FRESH = 500  # at most, of each
HOPPERS = 10_000  # sequences of the published data set, which its scaling is taken from


@dataclass(frozen=True)
class Known:
    """Sequences with what was put into them, by name: numbers, or classes.

    Attributes:
        moving: what changes with time, at the first time.
    """

    series: Series
    static: dict[str, Tensor]
    moving: dict[str, Tensor]


@dataclass(frozen=True)
class Data:
    """Sequences to learn from and to be tested on, which no choice is made by.

    Attributes:
        train: whole sequences.
        test: such as those, longer where they can go on.
        strange: name -> sequences of another kind, to be told from the test ones.
        outside: like ``test``, with properties beyond the training range, or None.
        fresh: ``(n, more) -> (n, T, D)``, others like the training ones; ``more`` is of `MORE`.
        known: sequences of which more is known, or None.
    """

    train: Series
    test: Series
    strange: dict[str, Series]
    outside: Series | None
    fresh: Callable[[int, int], Tensor]
    known: Known | None = None

    @property
    def familiar(self) -> Series:
        """The test sequences, as long as the training ones."""
        return self.test.cut(float(self.train.times[-1]))


@dataclass(frozen=True)
class Sizes:
    """What a scale decides: how much data and how large a model."""

    train: int
    latent: int
    static: int
    hidden: tuple[int, ...]  # of the field
    emission: tuple[int, ...]
    test: int = 100
    scored: int = 32  # sequences whose log p(x) is estimated
    particles: int = 32
    draws: int = 20
    known: int = 0  # sequences that tell what latents mean


@dataclass(frozen=True)
class Task:
    """A task: data by sizes, seed and whether it is for validation; what is given.

    Attributes:
        given: the shares of points given in interpolation, or of the given part of extrapolation.
        few: a share of points that no encoder was shown in training, to be tested on too.
        first: the share of time given in extrapolation.
        seeds: by default.
        small, full: sizes.
        observed: numbers at a time.
        pixels: whether they are those of an image.
        image: its height and width, where an encoder is to read it by convolutions.
        drives: whether static latents drive the field.
        horizon: share of the training over which sequences are learned from their beginnings.
        tolerance: of the solver under trainings by Langevin alone; ten times it under others.
        short_step: of short posterior runs; published, where it does not run away from so many
            numbers observed.
    """

    name: str
    data: Callable[[Sizes, int, Protocol, bool], Data]
    small: Sizes
    full: Sizes
    observed: int
    given: tuple[float, ...] = (0.5,)
    few: float | None = None
    first: float = 0.5
    seeds: int = 3
    pixels: bool = False
    image: tuple[int, int] | None = None
    drives: bool = False
    horizon: float = 0.4
    learning_rate: float = 1e-2
    tolerance: float = 5e-3
    short_step: float = 0.1
    same_data: bool = True  # in both protocols

    def view(self, protocol: Protocol, series: Series) -> Series:
        """What an encoder sees of training sequences: some random share of those that are given."""
        share = self.given[int(torch.randint(len(self.given), ()))]
        return self.cut(protocol, series, share, None)

    def scored(self, protocol: Protocol, series: Series) -> Tensor:
        """Which entries a prediction is scored on, as published."""
        if protocol == "interpolation":
            return series.mask
        _, rest = datasets.extrapolation(series, self.first)
        return rest.mask

    def cut(
        self, protocol: Protocol, series: Series, share: float, generator: torch.Generator | None
    ) -> Series:
        """What is given of sequences."""
        if protocol == "extrapolation":
            series, _ = datasets.extrapolation(series, self.first)
            if self.given == (0.5,):
                return series  # all of the first part
        return series.hide(share, generator)


def _seeds(seed: int, validation: bool) -> tuple[int, int]:
    """Of training data, and of what is scored: another for choices than for tests."""
    return 10 * seed + 1, 10 * seed + (2 if validation else 3)


def sines(sizes: Sizes, seed: int, protocol: Protocol, validation: bool) -> Data:
    """Irregular sinusoids; the test ones go on to three times the length on a regular grid."""
    learned, scored = _seeds(seed, validation)
    train = datasets.irregular_sines(sizes.train, seed=learned)
    longer = torch.cat([train.times, torch.linspace(5.1, 15.0, 100)])
    known = {"low": (0.2, 0.35), "high": (0.9, 1.2)}
    strange = {
        f"{name} frequencies": datasets.irregular_sines(
            sizes.test, seed=scored + 4, times=train.times, frequency=range_
        )
        for name, range_ in known.items()
    }
    strange["square waves"] = datasets.irregular_sines(
        sizes.test, seed=scored + 5, times=train.times, shape="square"
    )
    return Data(
        train,
        datasets.irregular_sines(sizes.test, seed=scored, times=longer),
        strange,
        None,
        lambda n, more: datasets.irregular_sines(n, seed=scored + more, times=train.times).values,
    )


def digits(sizes: Sizes, seed: int, protocol: Protocol, validation: bool) -> Data:
    """Rotating digits of eight classes; the test ones turn three times."""
    learned, scored = _seeds(seed, validation)
    classes = [c for c in range(10) if c not in LEFT_OUT]
    part: Literal["validation", "test"] = "validation" if validation else "test"
    train = datasets.rotating_digits(sizes.train, classes=classes, seed=learned)
    test = datasets.rotating_digits(sizes.test, frames=45, classes=classes, split=part, seed=scored)
    other = datasets.rotating_digits(
        sizes.test, frames=45, classes=LEFT_OUT, split=part, seed=scored + 4
    )
    # no image twice: one that is learned from and asked for would be known by heart
    again, truth = datasets.rotating_digits(
        sizes.known, classes=classes, split=part, seed=scored + 5, truth=True
    )
    angle = truth["angle"][:, 0]
    factors = {"class": truth["label"], "thickness": truth["thickness"]}

    def fresh(n: int, more: int) -> Tensor:
        # the floor is that of other images, as those that a model learned from are
        images: Literal["train", "validation", "test"] = part if more == MORE[0] else "train"
        found = datasets.rotating_digits(n, classes=classes, split=images, seed=scored + more)
        return found.values

    return Data(
        train,
        test,
        {"digits left out": other.cut(float(train.times[-1]))},
        other,
        fresh,
        Known(again, factors, {"cos angle": angle.cos(), "sin angle": angle.sin()}),
    )


def balls(sizes: Sizes, seed: int, protocol: Protocol, validation: bool) -> Data:
    """Bouncing balls with friction; the test ones go on to three times the length."""
    learned, scored = _seeds(seed, validation)
    train = datasets.bouncing_balls(sizes.train, seed=learned)
    again, truth = datasets.bouncing_balls(sizes.known, seed=scored + 5, truth=True)
    place, velocity = truth["position"][:, 0], truth["velocity"][:, 0]
    moving = {
        "x": place[:, 0],
        "y": place[:, 1],
        "velocity x": velocity[:, 0],
        "velocity y": velocity[:, 1],
    }
    return Data(
        train,
        datasets.bouncing_balls(sizes.test, frames=60, seed=scored),
        {"gravity": datasets.bouncing_balls(sizes.test, gravity=0.1, seed=scored + 4)},
        datasets.bouncing_balls(sizes.test, frames=60, friction=(0.02, 0.04), seed=scored + 4),
        lambda n, more: datasets.bouncing_balls(n, seed=scored + more).values,
        Known(again, {"friction": truth["friction"]}, moving),
    )


@cache
def _hoppers(n: int, points: int, seed: int) -> Series:
    return datasets.hopper(n, points=points, seed=seed, folder=Path("runs/hopper"))


def hopper(sizes: Sizes, seed: int, protocol: Protocol, validation: bool) -> Data:
    """The hopper in published units: windows of 100 points to interpolate, else all 200."""
    learned, scored = _seeds(seed, validation)
    whole = _hoppers(HOPPERS, 200, 0)
    low, high = whole.values.amin((0, 1)), whole.values.amax((0, 1))
    scaling = datasets.Scaling(low, high)  # as published, though the range would be high - low
    parts = datasets.split(whole, (0.8, 0.1, 0.1), seed=seed)
    part = parts[1 if validation else 2]
    train, test = parts[0][torch.arange(sizes.train)], part[torch.arange(sizes.test)]
    rest = torch.cat([part.values[sizes.test :], parts[0].values[sizes.train :]])
    fresh = Series(whole.times, rest[: 2 * FRESH])
    half = len(fresh) // 2
    if protocol == "extrapolation":
        longer = _hoppers(sizes.test, 600, scored)
        cut = [scaling.apply(each) for each in (train, longer, fresh)]
    else:
        cut = [
            _windows(scaling.apply(each), 100, seed)
            for seed, each in enumerate((train, test, fresh), 1000 * learned)
        ]
    train, test, fresh = cut
    # the same states in reverse order, velocities turned round
    seen = test.cut(float(train.times[-1]))
    velocity = torch.cat([torch.ones(7), -torch.ones(7)])
    zero = (0 - low) / high  # of a velocity, in these units
    back = zero + (seen.values.flip(1) - zero) * velocity
    back = torch.where(velocity > 0, seen.values.flip(1), back)
    return Data(
        train,
        test,
        {"time reversed": Series(seen.times, back)},
        None,
        lambda n, more: fresh.values[MORE.index(more) * half :][: min(n, half)],
    )


def _windows(series: Series, length: int, seed: int) -> Series:
    """A window of each sequence, from a random point on; times from 0."""
    generator = torch.Generator().manual_seed(seed)
    begin = torch.randint(series.length - length + 1, (len(series), 1), generator=generator)
    rows = torch.arange(len(series)).unsqueeze(-1)
    return Series(series.times[:length], series.values[rows, begin + torch.arange(length)])


_SINES = Sizes(400, latent=10, static=0, hidden=(100,), emission=(100,))
_DIGITS = Sizes(600, latent=4, static=8, hidden=(50,), emission=(200,), particles=16, known=280)
_BALLS = Sizes(
    500,
    latent=8,
    static=2,
    hidden=(100,),
    emission=(200,),
    test=64,
    particles=8,
    draws=10,
    known=200,
)
_HOPPER = Sizes(1000, latent=15, static=0, hidden=(100, 100), emission=(100,), test=64, draws=10)

TASKS = {
    task.name: task
    for task in (
        Task("sines", sines, _SINES, replace(_SINES, train=800, test=200), 1, few=0.05, seeds=5),
        Task(
            "digits",
            digits,
            _DIGITS,
            replace(_DIGITS, train=860, emission=(400,)),
            observed=100,
            pixels=True,
            learning_rate=3e-3,
            horizon=0.0,
            few=0.125,
            seeds=5,
            tolerance=1e-2,
        ),
        Task(
            "balls",
            balls,
            _BALLS,
            replace(_BALLS, train=1000, test=100, emission=(400,)),
            observed=784,
            pixels=True,
            learning_rate=3e-3,
            horizon=0.0,
            few=0.15,
            drives=True,
            image=(28, 28),
            tolerance=1e-2,
            short_step=0.01,
        ),
        Task(
            "hopper",
            hopper,
            _HOPPER,
            replace(_HOPPER, train=8000, test=500, hidden=(300, 300, 300), emission=(300,) * 3),
            observed=14,
            learning_rate=3e-3,
            given=(0.1, 0.2, 0.3, 0.5),
            first=1 / 3,
            same_data=False,
        ),
    )
}
