"""Early stopping on held-out points."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pyro_lebm.inference.draws import Draws
from pyro_lebm.inference.training.fit import fit
from pyro_lebm.series import Series
from small_programs import QUIET, Encoder, Linear, data


class Scored(Encoder):
    """A guide whose posterior, and so whose score, gets worse after its third score."""

    scores = 0

    def posterior(self, series: Series, draws: int) -> Draws:
        assert not self.training
        self.scores += 1
        found = super().posterior(series, draws)
        away = max(0, self.scores - 3) + max(0, 3 - self.scores)
        return Draws({"z0": found["z0"] * 0 + 10.0 * away})


def test_early_stop_keeps_the_best_state() -> None:
    series = data(64)
    kwargs: dict[str, Any] = {"validate_every": 5, "patience": 2, "seed": 4, **QUIET}
    torch.manual_seed(0)
    model, guide = Linear(), Scored()
    with torch.no_grad():
        model.net.weight.fill_(1.0)
    start = {**model.state_dict(), **guide.state_dict()}
    start = {name: value.clone() for name, value in start.items()}
    history = fit(
        model,
        guide,
        series,
        max_steps=1000,
        learning_rate=1e-4,
        final_rate=1.0,
        validation=(series.hide(keep=1), series),
        **kwargs,
    )
    assert len(history) == 25
    scores = history.column("validation")
    assert torch.isfinite(scores).nonzero().flatten().tolist() == [4, 9, 14, 19, 24]
    assert int(scores.nan_to_num(-math.inf).argmax()) == 14
    again, other = Linear(), Encoder()
    again.load_state_dict({k: v for k, v in start.items() if k.startswith("net")})
    other.load_state_dict({k: v for k, v in start.items() if not k.startswith("net")})
    fit(again, other, series, max_steps=15, learning_rate=1e-4, final_rate=1.0, **kwargs)
    assert torch.equal(again.net.weight, model.net.weight)
    assert torch.equal(other.encoder.weight, guide.encoder.weight)


def test_what_cannot_be_validated_is_refused() -> None:
    class Mute(Encoder):
        posterior = None  # type: ignore[assignment]

    series = data()
    with pytest.raises(
        TypeError, match=r"validation: expected a guide with a posterior.* got Mute"
    ):
        fit(Linear(), Mute(), series, max_steps=1, validation=(series, series), **QUIET)
    with pytest.raises(ValueError, match=r"validation: .* same sequences, got 64 and 3"):
        fit(Linear(), Encoder(), series, max_steps=1, validation=(series, series[:3]), **QUIET)
    with pytest.raises(
        ValueError, match="validation: expected a target with entries that given hides"
    ):
        fit(Linear(), Encoder(), series, max_steps=1, validation=(series, series), **QUIET)
