"""What `fit` refuses before any work: a guide or data that could only fail in mid-run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from leaky import Leaky
from pyro_lebm.inference import (
    EncoderGuide,
    LangevinGuide,
    PathGuide,
    RefinedGuide,
    fit,
    posterior_predict,
)
from pyro_lebm.models import LatentODE
from pyro_lebm.series import Series
from small_programs import QUIET, Encoder, Linear, data

GUIDES: dict[str, Callable[..., Any]] = {
    "langevin": lambda model, series: LangevinGuide(model, series, steps=1),
    "encoder": EncoderGuide,
    "refined": lambda model, series: RefinedGuide(EncoderGuide(model, series), steps=1),
}
every_guide = pytest.mark.parametrize("make", GUIDES.values(), ids=list(GUIDES))


class NoWork(Linear):
    """A model that training never gets to run."""

    def forward(self, series: Series) -> None:
        raise AssertionError("expected a refusal before any work")


def refused(model: Any, guide: Any, series: Any, error: type[Exception], message: str) -> None:
    state = torch.get_rng_state()
    with pytest.raises(error, match=message):
        fit(model, guide, series, max_steps=2, seed=5, **QUIET)
    assert torch.equal(torch.get_rng_state(), state)


@every_guide
def test_a_guide_of_another_model_is_refused(make: Callable[..., Any]) -> None:
    guide = make(Linear(), data())
    message = "guide: expected one built on the model to train, got one built on another Linear"
    refused(NoWork(), guide, data(), ValueError, message)


@pytest.mark.parametrize("name", ["langevin", "refined"])
@pytest.mark.parametrize("n", [32, 96])
def test_chains_of_another_number_of_sequences_are_refused(name: str, n: int) -> None:
    model = Linear()
    guide = GUIDES[name](model, data(64))
    message = f"guide: expected a chain for each of the {n} sequences of series, got 64"
    refused(model, guide, data(n), ValueError, message)


def test_what_counts_is_the_whole_data_set() -> None:
    model, series = Linear(), data(64)
    guide = LangevinGuide(model, series.batch([3, 5]), steps=1)
    assert len(fit(model, guide, series, max_steps=1, **QUIET)) == 1


def test_guides_without_chains_or_programs_go_with_any_data() -> None:
    model = Linear()
    assert len(fit(model, EncoderGuide(model, data(64)), data(32), max_steps=1, **QUIET)) == 1
    foreign: Any = Encoder()
    foreign.program = "of another kind"
    assert len(fit(model, foreign, data(32), max_steps=1, **QUIET)) == 1


@pytest.mark.parametrize("series", [torch.zeros(2, 3, 1), None])
def test_a_series_that_is_none_is_refused(series: Tensor | None) -> None:
    name = type(series).__name__
    refused(NoWork(), Encoder(), series, TypeError, f"series: expected a Series, got {name}")


SERIES = data(8)
WIDE = Series(SERIES.times, SERIES.values.expand(-1, -1, 3))
DOUBLE = SERIES.to(dtype=torch.float64)
VALIDATION: dict[str, tuple[Any, type[Exception], str]] = {
    "features of given": ((WIDE, SERIES), ValueError, "expected 1 features .* got 3 in given"),
    "features of target": ((SERIES, WIDE), ValueError, "expected 1 features .* got 3 in target"),
    "dtype": (
        (SERIES, DOUBLE),
        ValueError,
        r"expected torch\.float32 as in series, got torch\.float64 in target",
    ),
    "no series": ((SERIES, SERIES.values), TypeError, "a Series as target, got Tensor"),
    "no pair": (SERIES, TypeError, r"expected a pair \(given, target\), got Series\(N=8"),
}


@pytest.mark.parametrize("case", VALIDATION)
def test_validation_unlike_the_series_is_refused(case: str) -> None:
    validation, error, message = VALIDATION[case]
    with pytest.raises(error, match="validation: .*" + message):
        fit(NoWork(), Encoder(), SERIES, max_steps=1, validation=validation, **QUIET)


def test_one_validation_draw_is_refused() -> None:
    model = LatentODE(2, 1)
    guide = LangevinGuide(model, SERIES, steps=1)
    validation = (SERIES.hide(1), SERIES)
    with pytest.raises(
        ValueError, match="validation_draws: expected a whole number of at least 2, got 1"
    ):
        fit(model, guide, SERIES, max_steps=1, validation=validation, validation_draws=1, **QUIET)


MOMENT = Series(torch.zeros(1), torch.randn(4, 1, 1))
OF_STEPS: dict[str, Callable[..., Any]] = {"langevin": GUIDES["langevin"], "path": PathGuide}


@pytest.mark.parametrize("make", OF_STEPS.values(), ids=list(OF_STEPS))
def test_a_model_of_steps_cannot_learn_from_one_time(make: Callable[..., Any]) -> None:
    model = Leaky()
    with pytest.raises(ValueError, match=r"series: expected at least two times, .* got 1: .*kept"):
        fit(model, make(model, MOMENT), MOMENT, max_steps=1, **QUIET)


def test_all_but_its_steps_learns_from_one_time() -> None:
    model = Leaky()
    model.kept.requires_grad_(False)
    assert len(fit(model, LangevinGuide(model, MOMENT, steps=1), MOMENT, max_steps=1, **QUIET)) == 1
    draws = PathGuide(model, MOMENT, 4).posterior(MOMENT, 3)
    assert posterior_predict(model, draws, MOMENT).shape == (1, 3, 4, 1, 1)
