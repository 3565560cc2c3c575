"""Guides whose chains have a velocity: their draws, their training, runs taken up again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import scalars as known
from pyro_lebm import Series
from pyro_lebm.checkpoint import CheckpointError, read_state
from pyro_lebm.inference import EncoderGuide, LangevinGuide, RefinedGuide, fit
from scalars import Scalars, maximum_likelihood, scalars


def guide_of(kind: str, model: Scalars, series: Series, **options: Any) -> Any:
    options = {"dynamics": "underdamped", "step_size": 0.3, **options}
    if kind == "langevin":
        return LangevinGuide(model, series, hot_until=0.0, **options)
    return RefinedGuide(EncoderGuide(model, series), refine_from=0.0, **options)


@pytest.mark.parametrize("adjusted", [True, False])
@pytest.mark.parametrize("kind", ["langevin", "refined"])
def test_draws_have_the_exact_posterior(kind: str, adjusted: bool) -> None:
    torch.manual_seed(0)
    series, model = scalars(1000), Scalars(0.5, 1.5)
    mean, sd = known.posterior(series, 0.5, 1.5)
    guide = guide_of(kind, model, series, adjusted=adjusted, steps=6)
    for visit in range(40):
        guide.adapt = visit < 30
        guide(series)
    z = (guide.chains.position[:, 0] - mean) / sd
    # 1000 independent draws: five standard errors
    assert abs(float(z.mean())) < 5 / 1000**0.5
    assert abs(float(z.var()) - 1) < 5 * (2 / 1000) ** 0.5
    assert guide.chains.velocity is not None
    assert 0.7 < guide.statistics()["acceptance"] < 0.98


@pytest.mark.parametrize("adjusted", [True, False])
def test_training_by_underdamped_chains_finds_the_maximum_likelihood(adjusted: bool) -> None:
    series, model = scalars(), Scalars()
    guide = guide_of("langevin", model, series, adjusted=adjusted, steps=5)
    fit(model, guide, series, max_steps=400, learning_rate=0.03, progress=False, seed=0)
    # the chains' own noise about the maximum, at the last tenth of the learning rate
    assert torch.allclose(model.estimate, maximum_likelihood(series), atol=0.1)


def test_a_run_taken_up_again_goes_on_with_its_velocities(tmp_path: Path) -> None:
    series = scalars(20)

    def run(steps: int, file: str | None, resume: bool = False, **options: Any) -> Any:
        torch.manual_seed(0)
        model = Scalars()
        options = {"adjusted": False, "steps": 2, **options}
        guide = guide_of("langevin", model, series, **options)
        checkpoint = None if file is None else tmp_path / file
        fit(
            model,
            guide,
            series,
            max_steps=steps,
            batch_size=8,
            final_rate=1.0,
            checkpoint=checkpoint,
            resume=resume,
            progress=False,
            seed=0,
        )
        return model, guide.chains.training_state()

    whole, chains = run(12, None)
    run(5, "run.pt")
    again, resumed = run(12, "run.pt", resume=True)
    assert torch.equal(whole.estimate, again.estimate)
    assert set(chains) == set(resumed) and "velocity" in chains
    assert all(torch.equal(chains[n].nan_to_num(), resumed[n].nan_to_num()) for n in chains)
    run(5, "plain.pt", dynamics="overdamped")
    with pytest.raises(CheckpointError, match="chains' velocity: expected shape"):
        run(12, "plain.pt", resume=True)


def test_dynamics_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match=r"dynamics: expected one of .* got 'newton'"):
        guide_of("langevin", Scalars(), scalars(4), dynamics="newton")
    with pytest.raises(ValueError, match="friction: expected a positive number, got -1"):
        guide_of("refined", Scalars(), scalars(4), friction=-1.0)


def test_steps_that_vary_are_reported_bounded_and_taken_up_again(tmp_path: Path) -> None:
    series = scalars(40)

    class Interrupted(Scalars):
        calls = 0

        def forward(self, series: Series) -> None:
            type(self).calls += 1
            if self.calls == 40:
                raise KeyboardInterrupt
            super().forward(series)

    def run(model: Scalars, **files: Any) -> Any:
        torch.manual_seed(0)
        guide = guide_of("langevin", model, series, steps=(2, 12), step_size=0.02)
        options = {"max_steps": 15, "snapshot_every": 2, "progress": False, "seed": 0}
        history = fit(model, guide, series, **options, **files)
        return model, history.column("steps")

    whole, taken = run(Scalars())
    assert taken.min() >= 2 and 5 < taken.max() <= 12 and bool((taken == taken.round()).all())
    with pytest.raises(KeyboardInterrupt):
        run(Interrupted(), checkpoint=tmp_path / "run.pt")
    assert 2 <= read_state(tmp_path / "run.pt", kind="training")["current"]["step"] < 15
    again, resumed = run(Scalars(), checkpoint=tmp_path / "run.pt", resume=True)
    assert torch.equal(taken, resumed) and torch.equal(whole.estimate, again.estimate)


@pytest.mark.parametrize("steps", [(5, 2), "many", (1, 2, 3), 0])
def test_steps_that_mean_nothing_are_refused(steps: Any) -> None:
    for kind in ("langevin", "refined"):
        with pytest.raises(ValueError, match="steps: expected"):
            guide_of(kind, Scalars(), scalars(4), steps=steps)
    assert "steps" in guide_of("refined", Scalars(), scalars(4), steps="auto").statistics()
