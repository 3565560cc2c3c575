"""Paths of models of steps belong to their times, their noise, and the weights that walked them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_lebm.checkpoint import CheckpointError
from pyro_lebm.inference import (
    EncoderGuide,
    LangevinGuide,
    PathGuide,
    fit,
    log_likelihood,
    log_score,
    posterior_predict,
)
from pyro_lebm.inference.guides.guide import Guide
from pyro_lebm.models import DiffusionProcess, LangevinFlow
from pyro_lebm.series import Series


def sines(points: int = 5, n: int = 4) -> Series:
    times = torch.arange(float(points))
    return Series(times, torch.sin(times[:, None] + torch.arange(float(n))[:, None, None]))


def process(**options: Any) -> DiffusionProcess:
    torch.manual_seed(0)
    return DiffusionProcess(2, 1, hidden=(8,), **options)


def test_draws_are_not_scored_on_other_times() -> None:
    series, model = sines(), process()
    draws = PathGuide(model, series, 8).posterior(series, draws=3)
    given = series.hide(2)
    assert log_score(model, draws, given, series) < 0
    odd = Series(series.times[1::2], series.values[:, 1::2])
    with pytest.raises(ValueError, match="target: expected the times that the draws are of"):
        log_score(model, draws, given, odd)


@pytest.mark.parametrize("points", [3, 9])
def test_draws_of_other_lengths_are_refused(points: int) -> None:
    model, series = process(), sines()
    draws = PathGuide(model, series, 8).posterior(series, draws=3)
    message = rf"noise: expected shape \(\.\.\., {points - 1}, 2\).*, got \(3, 4, 4, 2\)"
    for score in (posterior_predict, log_likelihood):
        with pytest.raises(ValueError, match=message):
            score(model, draws, sines(points))


def test_draws_from_before_a_sampler_was_set_are_refused() -> None:
    model, series = process(stochasticity=1.0), sines()
    draws = PathGuide(model, series, 8, training="diffusion").posterior(series, draws=3)
    model.stochasticity = 0.0
    with pytest.raises(
        ValueError, match=r"noise: expected .* before the sampler was set otherwise"
    ):
        posterior_predict(model, draws, series)


@pytest.mark.parametrize("kind", [LangevinGuide, EncoderGuide])
def test_guides_from_before_a_sampler_was_set_are_refused(kind: type[Guide]) -> None:
    model, series = process(), sines()
    guide: Any = kind(model, series)
    guide(series)
    model.stochasticity = 1.0
    with pytest.raises(ValueError, match=r"expected \{'z0': 2, 'noise': 8\} numbers .*, got \{"):
        guide(series)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_late_times_keep_their_gaps(dtype: torch.dtype) -> None:
    times, flow = torch.arange(5), LangevinFlow(2, 1, step_size=0.3)
    late = (times + 1_700_000_000).to(dtype)
    paths = []
    for each in (times.float(), late):
        torch.manual_seed(1)
        paths.append(flow(times=each, n=3))
    assert torch.equal(*paths) and bool(paths[0].diff(dim=-2).abs().amin() > 0)


def _gradients(model: DiffusionProcess, series: Series, values: dict[str, Tensor]) -> list[Tensor]:
    model.zero_grad()
    trace = poutine.trace(poutine.condition(model, data=values)).get_trace(series)
    torch.as_tensor(trace.log_prob_sum()).backward(
        retain_graph=True
    )  # the guide's, which both share
    return [torch.zeros(()) if p.grad is None else p.grad.norm() for p in model.parameters()]


@pytest.mark.parametrize("how", ["no_grad", "frozen"])
def test_a_path_walked_without_gradients_is_walked_again(how: str) -> None:
    """As in wake-sleep: the guide draws, then the model alone learns from what was drawn."""
    model, series = process(), sines()
    nn.init.normal_(model.denoiser.network.layers[-1].weight)
    guide = PathGuide(model, series, 8)

    def walked() -> tuple[Any, dict[str, Tensor]]:
        model.requires_grad_(how != "frozen")
        with torch.set_grad_enabled(how != "no_grad"):
            nodes = poutine.trace(guide).get_trace(series).nodes
        model.requires_grad_(True)
        return nodes, {name: nodes[name]["value"] for name in ("z0", "noise")}

    kept, values = walked()  # a path is forgotten with its trace
    found = _gradients(model, series, values)
    expected = _gradients(model, series, {name: x.clone() for name, x in values.items()})
    assert len(kept) > 3
    assert sum(float(x) > 0 for x in found) == sum(float(x) > 0 for x in expected) > 4


@pytest.mark.parametrize(
    ("model", "guide", "named"),
    [
        ({"steps": 7}, {}, "model: sampler: expected 7 steps, .*, got 5 steps"),
        ({"stochasticity": 0.2}, {}, "model: sampler: expected .* stochasticity 0.2"),
        ({"unit": 5.0}, {}, "model: unit: expected 5, got 1"),
        ({}, {"dropout": 0.1}, "guide: training: expected diffusion, dropout 0.1, .*dropout 0.3"),
        ({}, {"unit": 2.0}, "guide: training: expected .* unit 2, got"),
    ],
)
def test_a_training_does_not_go_on_with_other_settings(
    model: dict[str, Any], guide: dict[str, Any], named: str, tmp_path: Path
) -> None:
    series, kept = sines(), tmp_path / "run.pt"

    def run(resume: bool, of: dict[str, Any], by: dict[str, Any]) -> None:
        built = process(**{"stochasticity": 1.0, **of})
        told = PathGuide(built, series, 8, **{"training": "diffusion", "dropout": 0.3, **by})
        fit(built, told, series, max_steps=2, checkpoint=kept, resume=resume, progress=False)

    run(False, {}, {})
    run(True, {}, {})
    with pytest.raises(CheckpointError, match=named):
        run(True, model, guide)
