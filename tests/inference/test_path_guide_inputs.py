"""What the guide of stepwise models refuses, and such models themselves."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leaky import Leaky, walks
from pyro_lebm.inference import EncoderGuide, PathGuide, fit
from pyro_lebm.models import LatentODE
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
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        PathGuide(Leaky(), walks(), **options)


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
