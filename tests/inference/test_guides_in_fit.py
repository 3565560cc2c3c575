"""The guides inside fit: energies phased in, validation, and a resumed run bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyro_lebm.energy import MLPEnergy
from pyro_lebm.inference import EncoderGuide, History, LangevinGuide, RefinedGuide, fit
from pyro_lebm.models import LatentODE, MLPField, datasets
from pyro_lebm.prior import EnergyPrior
from pyro_lebm.series import Series

GUIDES = {
    "langevin": lambda model, series: LangevinGuide(model, series, steps=2),
    "encoder": lambda model, series: EncoderGuide(model, series),
    "refined": lambda model, series: RefinedGuide(
        EncoderGuide(model, series), steps=2, refine_from=0.5
    ),
}
LOSSES = {
    "langevin": "negative unnormalised log joint",
    "encoder": "negative ELBO",
    "refined": RefinedGuide.loss_name,
}


def sines() -> Series:
    series: Series = datasets.irregular_sines(20, points=15)
    return series.hide(10, torch.Generator().manual_seed(0))


def build(name: str, *, model_class: type[LatentODE] = LatentODE) -> tuple[LatentODE, Any]:
    torch.manual_seed(0)
    prior = EnergyPrior(MLPEnergy(3, (16,)), 3, num_chains=32)
    field = MLPField(3, hidden=(16,))
    with torch.no_grad():
        for p in field.parameters():
            p.mul_(6.0)  # quick enough that the solver needs more than a handful of steps
    model = model_class(3, 1, prior=prior, field=field, tolerance=1e-4)
    return model, GUIDES[name](model, sines())


def train(model: LatentODE, guide: Any, **changes: Any) -> History:
    settings: dict[str, Any] = {
        "max_steps": 12,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "learning_rates": {"prior.": 1e-3},
        "clip_norm": 100.0,
        "energy_from": 0.5,
        "snapshot_every": 2,
        "progress": False,
        "seed": 3,
    }
    return fit(model, guide, sines(), **(settings | changes))


def result(model: nn.Module, guide: nn.Module, history: History) -> dict[str, Tensor]:
    found = {}
    for prefix, module in (("model", model), ("guide", guide)):
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            found[f"{prefix}.{name}"] = value.detach().clone()
    columns = [name for name in history.columns if name != "seconds"]
    return found | {f"history.{name}": history.column(name) for name in columns}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    equal = {k: torch.equal(found[k].nan_to_num(), v.nan_to_num()) for k, v in expected.items()}
    assert all(equal.values()), [name for name, same in equal.items() if not same]


@pytest.mark.parametrize("name", GUIDES)
def test_every_guide_trains_with_an_energy_phased_in(name: str) -> None:
    model, guide = build(name)
    parameters = dict([*model.named_parameters(), *guide.named_parameters()])
    before = {name: p.detach().clone() for name, p in parameters.items()}
    history = train(model, guide)
    assert history.loss_name == LOSSES[name] and len(history) == 12
    assert bool(torch.isfinite(history.column("loss")).all())
    for column in ("energy_positive", "energy_negative", "negative_acceptance"):
        values = history.column(column)
        assert bool(values[:6].isnan().all() and torch.isfinite(values[6:]).all())
    if name != "encoder":
        acceptance = history.column("acceptance")
        assert bool(acceptance[:6].isnan().all() and torch.isfinite(acceptance[6:]).all())
    still = [name for name, p in parameters.items() if torch.equal(p, before[name])]
    assert still == ["prior.energy.net.2.bias"]  # a constant changes no density
    assert guide.posterior(sines()[:3], 4).shape == (1, 4, 3)
    assert torch.isfinite(model.generate(2, torch.linspace(0, 8, 5))).all()


@pytest.mark.parametrize("name", ["langevin", "refined"])
@pytest.mark.parametrize("stop", [5, 9])  # before and after refinement and the energy begin
def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(
    tmp_path: Path, name: str, stop: int
) -> None:
    expected_run = build(name)
    expected = result(*expected_run, train(*expected_run))

    class Interrupted(LatentODE):  # type: ignore[misc]
        steps = 0

        def refresh(self, series: Series) -> None:
            super().refresh(series)
            assert float(self.step_size) < 5 / 17  # rounding would show
            type(self).steps += 1
            if self.steps * 3 > stop:  # an epoch has three steps
                raise KeyboardInterrupt

    files: dict[str, Any] = {"checkpoint": tmp_path / "run.pt", "checkpoint_seconds": None}
    with pytest.raises(KeyboardInterrupt):
        train(*build(name, model_class=Interrupted), **files)
    resumed = build(name)
    torch.manual_seed(99)
    history = train(*resumed, **files, resume=True)
    assert_same(result(*resumed, history), expected)


@pytest.mark.parametrize("name", GUIDES)
def test_validation_scores_the_guides_posterior_and_disturbs_nothing(name: str) -> None:
    series = datasets.irregular_sines(6, points=15, seed=1, times=sines().times)
    given = series.hide(8, torch.Generator().manual_seed(1))
    settings: dict[str, Any] = {"validate_every": 3, "validation_draws": 6, "patience": 1}
    plain = build(name)
    undisturbed = train(*plain)
    model, guide = build(name)
    history = train(model, guide, validation=(given, series), **settings)
    scores = history.column("validation")
    taken = scores[~scores.isnan()]
    assert bool(torch.isfinite(taken).all()) and len(taken) >= 1
    assert torch.equal(history.column("loss"), undisturbed.column("loss")[: len(history)])
    # It ran on for as long as the scores rose, and one more.
    rose = taken.diff() > 0
    assert bool(rose[:-1].all()) and (len(history) == 12 or not bool(rose[-1]))
