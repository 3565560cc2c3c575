"""What bad input gets, end to end: a clear error before any work, and nothing lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rotations
from pyro_lebm.checkpoint import CheckpointError
from pyro_lebm.energy import MLPEnergy
from pyro_lebm.inference import EncoderGuide, LangevinGuide, RefinedGuide, chains, fit
from pyro_lebm.models import GaussianEmission, LatentODE
from pyro_lebm.prior import EnergyPrior
from pyro_lebm.programs.program import Program
from pyro_lebm.series import Series

X = torch.zeros(2, 3, 1)
T = torch.arange(3.0)


class Wide(nn.Module):
    """A field, energy or emission that returns one number too many."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.cat([inputs[-1], inputs[-1][..., :1]], -1)


class Nowhere(nn.Module):
    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return z / 0.0


class TwoNumbers(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z[..., :2]


class Collapsing(nn.Module):
    """One number for all points."""

    def forward(self, z: Tensor) -> Tensor:
        return z.sum()


BUILD: dict[str, tuple[Callable[[], Any], str]] = {
    "times not increasing": (
        lambda: Series(torch.tensor([0.0, 2.0, 1.0]), X),
        r"times: expected strictly increasing .*, got 2\.0 then 1\.0",
    ),
    "nan under an observed mask": (
        lambda: Series(T, X * torch.nan, torch.ones(2, 3, 1, dtype=torch.bool)),
        "values: expected finite entries wherever mask is True, got nan at sequence 0",
    ),
    "nothing observed": (
        lambda: Series(T, torch.stack([X[0], X[0] * torch.nan])),
        "mask: expected every sequence .* at least one observed entry, got none in sequence 1",
    ),
    "shapes that disagree": (
        lambda: Series(T[:2], X),
        r"times: expected shape \(3,\) or \(2, 3\) .*, got \(2,\)",
    ),
    "another number of features": (
        lambda: LangevinGuide(LatentODE(2, 4), Series(T, X)),
        "series: expected 4 features an observation, got 1",
    ),
    "another precision": (
        lambda: LangevinGuide(LatentODE(2, 1), Series(T, X).to(dtype=torch.float64)),
        "series: expected torch.float32 as the model is, got torch.float64",
    ),
    "times before t0": (
        lambda: EncoderGuide(LatentODE(2, 1, t0=0.5), Series(T, X)),
        r"times: expected none before t0 = 0\.5, got 0",
    ),
    "a field of another shape": (
        lambda: LangevinGuide(LatentODE(2, 1, field=Wide()), Series(T, X)),
        r"field: expected .*2, 2\), got .*2, 3\)",
    ),
    "an emission of another shape": (
        lambda: LangevinGuide(LatentODE(2, 1, emission=GaussianEmission(2, 3)), Series(T, X)),
        r"emission: expected 1 features, .*, got batch shape \(2, 3, 3\)",
    ),
    "an energy of two numbers": (
        lambda: EnergyPrior(TwoNumbers(), 3),
        r"energy: expected one number per point, shape \(512,\) .*, got shape \(512, 2\)",
    ),
    "an energy of one number for all": (
        lambda: EnergyPrior(Collapsing(), 3),
        r"energy: expected one number per point, shape \(512,\) .*, got shape \(\)",
    ),
    "a prior of another dimension": (
        lambda: LatentODE(2, 1, prior=EnergyPrior(MLPEnergy(3), 3)),
        r"prior: expected event shape \(2,\), got \(3,\)",
    ),
    "no dimension": (
        lambda: LatentODE(0, 1),
        "covariates, static: expected sizes of at least 1, 1, 0 and 0, got 0, 1, 0 and 0",
    ),
    "an unknown solver": (
        lambda: LatentODE(2, 1, method="rk5"),
        "method: expected one of .*'rk4'.*'dopri5'.*, got 'rk5'",
    ),
    "no tolerance": (
        lambda: LatentODE(2, 1, tolerance=0.0),
        r"tolerance: expected a positive number, got 0\.0",
    ),
    "an adjoint of a fixed method": (
        lambda: LatentODE(2, 1, adjoint=True),
        "adjoint: expected one of torchdiffeq's methods, got 'rk4'",
    ),
    "a step size of zero for negatives": (
        lambda: EnergyPrior(MLPEnergy(2), 2, step_size=0.0),
        r"step_size: expected a positive number, got 0\.0",
    ),
    "a negative step size for a posterior": (
        lambda: LangevinGuide(LatentODE(2, 1), Series(T, X), step_size=-0.1),
        "step_size: expected a positive number, got -0.1",
    ),
    "a step size that is no number": (
        lambda: RefinedGuide(EncoderGuide(LatentODE(2, 1), Series(T, X)), step_size=torch.nan),
        "step_size: expected a positive number, got nan",
    ),
    "no negative chains": (
        lambda: EnergyPrior(MLPEnergy(2), 2, num_chains=0),
        "num_chains, steps: expected at least 1, got 0 and 5",
    ),
    "no posterior chains": (
        lambda: chains(Program.read(LatentODE(2, 1), Series(T, X)), Series(T, X), num_chains=0),
        "num_chains, draws, warmup, steps: expected at least 1, 1, 0 and 1, got 0",
    ),
    "no sequences to generate": (
        lambda: LatentODE(2, 1).generate(0, T),
        "n: expected at least 1, got 0",
    ),
    "neither series nor times": (
        lambda: LatentODE(2, 1)(),
        "series: expected a Series, or times and n; got neither",
    ),
}


@pytest.mark.parametrize("case", BUILD)
def test_bad_input_is_refused_when_it_comes(case: str) -> None:
    build, message = BUILD[case]
    with pytest.raises(ValueError, match=message):
        build()


def test_a_field_that_leads_nowhere_is_named() -> None:
    with pytest.raises(FloatingPointError, match=r"field: .*finite"):
        LangevinGuide(LatentODE(2, 1, field=Nowhere()), Series(T, X))


# Files


def snapshot(*modules: nn.Module) -> list[Tensor]:
    return [v.detach().clone() for m in modules for v in [*m.parameters(), *m.buffers()]]


def assert_unchanged(before: list[Tensor], *modules: nn.Module) -> None:
    after = snapshot(*modules)
    pairs = zip(before, after, strict=True)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign", "training"])
def test_a_damaged_or_foreign_file_is_no_model(tmp_path: Path, damage: str) -> None:
    path, series = tmp_path / "model.pt", rotations.swings(4)
    model = rotations.rotating(tolerance=1e-3)
    model.save(path)
    messages = {
        "missing": "path: there is no file",
        "truncated": "path: .*model.pt is truncated or damaged",
        "foreign": "path: .*model.pt is foreign: not a pyro_lebm file",
        "training": "path: .* is of another kind: expected 'model', got 'training'",
    }
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "foreign":
        torch.save(model.state_dict(), path)
    else:
        guide = LangevinGuide(model, series, steps=1)
        fit(model, guide, series, max_steps=1, checkpoint=path, progress=False)
    other = rotations.rotating(1.0, 1.0, 1.0)
    before = snapshot(other)
    with pytest.raises(CheckpointError, match=messages[damage]):
        other.load(path)
    assert_unchanged(before, other)


@pytest.mark.parametrize("damage", ["truncated", "foreign", "model", "sequences", "guide"])
def test_a_run_does_not_resume_from_the_wrong_file(tmp_path: Path, damage: str) -> None:
    path, series = tmp_path / "run.pt", rotations.swings(4)
    model = rotations.rotating(tolerance=1e-3)
    guide: Any = LangevinGuide(model, series, steps=1)
    fit(model, guide, series, max_steps=1, checkpoint=path, progress=False)
    message = f"{damage}"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "foreign":
        path.write_bytes(b"not a checkpoint")
    elif damage == "model":
        model = LatentODE(2, 1)
        guide, message = LangevinGuide(model, series), "checkpoint of another model"
    elif damage == "sequences":
        series = rotations.swings(5)
        guide, message = LangevinGuide(model, series, steps=1), "series was 'Series.N=4"
    else:
        guide, message = EncoderGuide(model, series), "checkpoint of another guide"
    before, content = snapshot(model, guide), path.read_bytes()
    with pytest.raises(CheckpointError, match=message):
        fit(model, guide, series, max_steps=9, checkpoint=path, resume=True, progress=False)
    assert_unchanged(before, model, guide)
    assert path.read_bytes() == content


# Runs that go wrong


class Failing(rotations.FirstCoordinate):
    """Its mean is NaN in some calls that carry gradients of parameters."""

    def __init__(self, failing: range) -> None:
        super().__init__(1.0, 0.0)
        self.failing, self.calls = failing, 0

    def forward(self, path: Tensor) -> Any:
        if torch.is_grad_enabled() and self.weight.requires_grad:
            self.calls += 1
            if self.calls in self.failing:
                path = path * torch.nan
        return super().forward(path)


def failing(steps: range) -> tuple[LatentODE, LangevinGuide, Series]:
    series = rotations.swings(8)
    emission, field = Failing(range(0)), rotations.Rotation(2.0)
    model = LatentODE(2, 1, field=field, emission=emission)
    guide = LangevinGuide(model, series, steps=2)
    emission.failing, emission.calls = steps, 0
    return model, guide, series


RUN: dict[str, Any] = {"progress": False, "snapshot_every": 1, "learning_rate": 0.01, "seed": 0}


@pytest.mark.filterwarnings("ignore:Encountered NaN:UserWarning")
def test_a_loss_that_is_not_finite_rolls_back_and_says_so() -> None:
    model, guide, series = failing(range(4, 6))
    with pytest.warns(RuntimeWarning, match=r"is nan; back to step \d with half the learning"):
        history = fit(model, guide, series, max_steps=6, final_rate=1.0, **RUN)
    assert history.column("step").tolist() == [1, 2, 3, 4, 5, 6]
    assert bool(torch.isfinite(history.column("loss")).all())
    assert history.column("rollbacks")[-1] == 2
    assert history.column("learning_rate")[-1] == pytest.approx(0.01 / 4)
    assert all(bool(torch.isfinite(v).all()) for v in snapshot(model))
    assert bool(torch.isfinite(guide.chains.position).all())


@pytest.mark.filterwarnings("ignore:Encountered NaN:UserWarning")
@pytest.mark.filterwarnings("ignore:step .* back to step:RuntimeWarning")
def test_a_run_beyond_help_fails_with_its_last_good_state() -> None:
    model, guide, series = failing(range(4, 1000))
    with pytest.raises(RuntimeError, match=r"training failed at step .*: .* is nan, after 2"):
        fit(model, guide, series, max_steps=6, max_rollbacks=2, **RUN)
    assert all(bool(torch.isfinite(v).all()) for v in snapshot(model))
    assert bool(torch.isfinite(guide.chains.position).all())


@pytest.mark.filterwarnings("ignore:step .* back to step:RuntimeWarning")
def test_an_energy_that_runs_away_rolls_back_with_its_own_rate() -> None:
    series = rotations.swings(8)
    prior = EnergyPrior(MLPEnergy(2, (16,)), 2, num_chains=32)
    model = LatentODE(2, 1, prior=prior)
    guide = LangevinGuide(model, series, steps=2)
    with pytest.raises(RuntimeError, match=r"the energy ran away: a gap of .* the energy's x 0.25"):
        fit(
            model,
            guide,
            series,
            max_steps=400,
            learning_rates={"prior.": 10.0},
            max_rollbacks=2,
            **RUN,
        )
    assert all(bool(torch.isfinite(v).all()) for v in snapshot(prior.energy))
    with torch.no_grad():
        positive, negative = (prior.energy(c.position) for c in (guide.chains, prior.chains))
    # measured one step of this rate after the state was found good
    assert abs(float(positive.mean() - negative.mean())) < 200
