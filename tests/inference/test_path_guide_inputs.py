"""What the guide of stepwise models refuses, and such models themselves."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leaky import Leaky, walks
from pyro_lebm.inference import BottomUpGuide, EncoderGuide, LangevinGuide, PathGuide, fit
from pyro_lebm.inference.guides.path_encoder import PathEncoder
from pyro_lebm.models import HierarchicalGenerator, LatentODE
from pyro_lebm.series import Series


class Broken(nn.Module):
    features = 3

    def forward(self, series: Series) -> Tensor:
        return torch.zeros(len(series), 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, "dropout: expected a share from 0 to below 1, got 1.0"),
        ({"dropout": 0.1, "view": lambda s: s}, "dropout, view: expected one of the two"),
        ({"training": "adversarial"}, "training: expected 'samples' or 'diffusion', got 'advers"),
        ({"training": "diffusion"}, "model: expected ['bridge', 'retrace'], which Leaky does not"),
        ({"unit": 0.0, "encoder": Broken()}, "unit: expected a positive number, got 0.0"),
        ({"encoder": nn.Identity()}, "encoder: expected an attribute features"),
        ({"hidden": 0}, "hidden: expected at least 1, got 0"),
        ({"hidden": 0, "encoder": Broken()}, "hidden: expected at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        PathGuide(Leaky(), walks(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 2.5}, "hidden: expected a whole number, got 2.5"),
        ({"dropout": "a"}, "dropout: expected a number, got 'a'"),
        ({"unit": None}, "unit: expected a number, got None"),
    ],
)
def test_what_is_no_number_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        PathGuide(Leaky(), walks(), **options)
    if "dropout" not in options:
        with pytest.raises(TypeError, match=re.escape(message)):
            PathEncoder(1, **options)


USES: dict[str, Callable[[PathGuide, Any], object]] = {
    "forward": lambda guide, series: guide(series),
    "encode": lambda guide, series: guide.encode(series),
    "posterior": lambda guide, series: guide.posterior(series, 2),
    "annealed": lambda guide, series: guide.annealed(series, 2),
}


@pytest.mark.parametrize("use", USES)
def test_what_is_no_series_is_refused(use: str) -> None:
    series = walks()
    with pytest.raises(TypeError, match="series: expected a Series, got Tensor"):
        USES[use](PathGuide(Leaky(), series), series.values)


@pytest.mark.parametrize("use", ["forward", "encode", "posterior"])
def test_other_dtypes_are_refused_alike(use: str) -> None:
    model, series = Leaky(), walks()
    guide, types = PathGuide(model, series, 4), (torch.float32, torch.float64)
    for of_guide, of_model, of_series in product(types, types, types):
        guide.to(of_guide)
        model.to(of_model)
        others = {"series": of_series, "model": of_model}
        wrong = [name for name, dtype in others.items() if dtype != of_guide]
        if not wrong:
            USES[use](guide, series.to(dtype=of_series))
            continue
        message = f"{wrong[0]}: expected {of_guide} as the guide is, got {others[wrong[0]]}; use "
        with pytest.raises(ValueError, match=re.escape(message)):
            USES[use](guide, series.to(dtype=of_series))


def test_fewer_than_one_draw_is_refused() -> None:
    series, latent = walks(), LatentODE(2, 1)
    guides = [PathGuide(Leaky(), series), EncoderGuide(latent, series)]
    for guide in (*guides, BottomUpGuide(latent, series)):
        for draws in (0, -1):
            with pytest.raises(ValueError, match=f"draws: expected at least 1, got {draws}"):
                guide.posterior(series, draws=draws)
        with pytest.raises(TypeError, match=r"draws: expected a whole number, got 2\.5"):
            guide.posterior(series, draws=2.5)
    with pytest.raises(TypeError, match=r"draws: expected a whole number, got 2\.5"):
        LangevinGuide(latent, series).posterior(series, draws=2.5)


def test_a_view_that_shows_no_series_is_refused() -> None:
    series, nothing = walks(), lambda series: None
    message = "view: expected a function that returns a Series, got one that returns NoneType"
    with pytest.raises(TypeError, match=message):
        PathGuide(Leaky(), series, view=nothing)(series)
    with pytest.raises(TypeError, match=message):
        EncoderGuide(LatentODE(2, 1), series, view=nothing)(series)


def test_other_models_and_series_are_refused() -> None:
    series = walks(shared=True)
    with pytest.raises(ValueError, match=re.escape("model: expected ['noise', 'step'], which")):
        PathGuide(LatentODE(2, 1), series)
    guide = PathGuide(Leaky(), series)
    with pytest.raises(ValueError, match="series: expected 1 observed features and 0 covariates"):
        guide.encode(Series(series.times, torch.zeros(5, 6, 2)))
    with pytest.raises(
        ValueError, match=re.escape("encoder: expected shape (5, 6, 3), got (5, 3)")
    ):
        PathGuide(Leaky(), series, encoder=Broken()).encode(series)
    with pytest.raises(TypeError, match="posterior: a guide's own draws take no options"):
        guide.posterior(series, steps=3)


def test_an_encoder_of_the_whole_noise_serves_too() -> None:
    series, model = walks(), Leaky()
    guide = EncoderGuide(model, series)
    fit(model, guide, series, max_steps=1, progress=False)
    assert guide.posterior(series, draws=2)["noise"].shape == (1, 2, 5, 5, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"times": torch.zeros(())}, "times: expected shape (K,) or (2, K), got ()"),
        ({"times": torch.zeros(0)}, "times: expected shape (K,) or (2, K), got (0,)"),
        ({"times": torch.zeros(3, 4)}, "times: expected shape (K,) or (2, K), got (3, 4)"),
        ({"times": torch.zeros(3, 2, 4)}, "times: expected shape (K,) or (2, K), got (3, 2, 4)"),
        ({"times": torch.tensor([0, torch.nan])}, "times: expected finite numbers, got NaN or inf"),
        ({"times": torch.zeros(3), "n": 0}, "n: expected at least 1 sequence, got 0"),
        ({"covariates": torch.zeros(2, 4, 2)}, "covariates: expected shape (2, 3, C), got (2, 4,"),
        ({"covariates": torch.zeros(2, 3, 1)}, "covariates: expected 2 of them, got 1"),
        (
            {"covariates": torch.zeros(2, 3, 2).double()},
            "covariates: expected torch.float32 as the model is, got torch.float64",
        ),
    ],
)
def test_a_model_of_steps_refuses(arguments: dict[str, Any], message: str) -> None:
    model = Leaky(covariates=2)
    given = {"times": torch.arange(3.0), "n": 2, "covariates": torch.zeros(2, 3, 2)} | arguments
    with pytest.raises(ValueError, match=re.escape(message)):
        model(**given)


CALLS: dict[str, Callable[..., Any]] = {
    "forward": Leaky(covariates=2),
    "generate": Leaky(covariates=2).generate,
    "latent ODE": LatentODE(2, 1, covariates=2).generate,
}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 2.0}, "n: expected a whole number, got 2.0"),
        ({"times": [0.0, 1.0, 2.0]}, "times: expected a torch.Tensor, got list"),
        ({"times": torch.arange(3) > 0}, "times: expected real numbers, got torch.bool"),
        ({"times": 1j * torch.arange(3)}, "times: expected real numbers, got torch.complex64"),
        ({"covariates": [[[1.0, 1.0]]]}, "covariates: expected a torch.Tensor, got list"),
    ],
)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_what_is_no_tensor_of_times_is_refused(
    call: Callable[..., Any], arguments: dict[str, Any], message: str
) -> None:
    given = {"times": torch.arange(3.0), "n": 2, "covariates": torch.zeros(2, 3, 2)} | arguments
    with pytest.raises(TypeError, match=re.escape(message)):
        call(**given)


@pytest.mark.parametrize("model", [Leaky(covariates=2), LatentODE(2, 1, covariates=2)])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_covariates_that_are_not_finite_are_refused(model: Any, bad: float) -> None:
    covariates = torch.zeros(2, 3, 2)
    covariates[1, 2, 0] = bad
    with pytest.raises(ValueError, match="covariates: expected finite numbers at every time"):
        model.generate(2, torch.arange(3.0), covariates)


@pytest.mark.parametrize("model", [Leaky(), LatentODE(2, 1), HierarchicalGenerator((2, 2), 1)])
def test_a_model_of_data_that_are_no_series(model: Any) -> None:
    with pytest.raises(TypeError, match="series: expected a Series, got Tensor"):
        model(torch.zeros(2, 3, 1))
