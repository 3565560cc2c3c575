"""One contract for all models of sequences: guides, kernels, Predictive, ArviZ, resumption."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, Predictive
from torch import Tensor

from pyro_lebm import EnergyPrior, MLPEnergy
from pyro_lebm.inference import (
    MALA,
    EncoderGuide,
    LangevinGuide,
    PathGuide,
    RefinedGuide,
    VectorizedMCMC,
    fit,
    log_score,
    posterior_predict,
    to_arviz,
)
from pyro_lebm.models import (
    DiffusionProcess,
    GaussianEmission,
    ImplicitEmission,
    LangevinFlow,
    LatentODE,
    RecurrentGenerator,
)
from pyro_lebm.series import Series

Build = Callable[..., Any]


def flow(**options: Any) -> Any:
    return LangevinFlow(4, 2, emission=GaussianEmission(8, 2, (8,)), **options)


MODELS: dict[str, tuple[Build, int]] = {  # with the size of the initial state
    "latent_ode": (lambda **o: LatentODE(3, 2, **o), 3),
    "implicit": (lambda **o: DiffusionProcess(3, 2, steps=2, hidden=(8,), **o), 3),
    "stochastic": (
        lambda **o: DiffusionProcess(3, 2, steps=2, stochasticity=1.0, hidden=(8,), **o),
        3,
    ),
    "langevin_flow": (flow, 8),
    "recurrent": (lambda **o: RecurrentGenerator(3, 2, noise=2, **o), 3),
}
STEPWISE = [name for name in MODELS if name != "latent_ode"]
GUIDES: dict[str, Build] = {
    "encoder": EncoderGuide,
    "langevin": lambda model, series: LangevinGuide(model, series, steps=2),
    "refined": lambda model, series: RefinedGuide(EncoderGuide(model, series), steps=1),
    "path": lambda model, series: PathGuide(model, series, 8),
    "path by diffusion": lambda model, series: PathGuide(model, series, 8, training="diffusion"),
}


def series(n: int = 6, length: int = 4) -> Series:
    """Irregular, with hidden entries."""
    g = torch.Generator().manual_seed(3)
    mask = torch.rand(n, length, 2, generator=g) > 0.2
    mask[:, 0] = True
    times = (0.1 + torch.rand(n, length, generator=g)).cumsum(-1)
    return Series(times, torch.randn(n, length, 2, generator=g), mask)


def build(name: str, *, energy: bool = False) -> Any:
    torch.manual_seed(0)
    make, size = MODELS[name]
    return make(prior=EnergyPrior(MLPEnergy(size), size, num_chains=8) if energy else None)


def pairs() -> list[tuple[str, str]]:
    """Every model with every guide that is for it."""
    both = [(model, guide) for model in MODELS for guide in GUIDES]
    return [
        (model, guide)
        for model, guide in both
        if (guide == "path by diffusion" and model == "stochastic")
        or (guide == "path" and model in STEPWISE)
        or not guide.startswith("path")
    ]


@pytest.mark.parametrize(("name", "kind"), pairs())
def test_every_guide_learns_every_model_with_an_energy(name: str, kind: str) -> None:
    data, model = series(), build(name, energy=True)
    guide = GUIDES[kind](model, data)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    history = fit(model, guide, data, max_steps=4, batch_size=3, progress=False, seed=0)
    assert bool(torch.isfinite(history.column("loss")).all())
    still = [n for n, p in model.named_parameters() if torch.equal(p, before[n])]
    assert [n for n in still if not n.endswith("net.4.bias")] == []  # a constant
    draws = guide.posterior(data, 4)
    assert draws["z0"].shape == (1, 4, 6, MODELS[name][1])
    assert posterior_predict(model, draws, data, mean=True).shape == (1, 4, 6, 4, 2)
    target = Series(data.times, data.values)
    assert bool(torch.isfinite(torch.tensor(log_score(model, draws, data, target))))


@pytest.mark.parametrize("name", MODELS)
def test_kernels_sample_the_initial_state(name: str) -> None:
    data, model = series(2), build(name, energy=True)
    if name in STEPWISE:  # of the first state alone, the steps after it given
        noise = torch.randn(2, 3, model.noise)
        chain = MCMC(MALA(poutine.condition(model, {"noise": noise})), 4, 4, disable_progbar=True)
        chain.run(data)
        assert chain.get_samples()["z0"].shape == (4, 2, MODELS[name][1])
    run = VectorizedMCMC(MALA(model), 5, 5, num_chains=4, progress=False)
    run.run(data)
    found = to_arviz(run, series=data)
    shape = (4, 5, 2, MODELS[name][1])
    assert found.posterior["z0"].shape == shape and bool(
        torch.isfinite(run.get_samples()["z0"]).all()
    )
    assert "lp" in found.sample_stats


@pytest.mark.parametrize("name", MODELS)
def test_predictive_draws_from_prior_and_posterior(name: str) -> None:
    data, model = series(3), build(name)
    times = data.times[0]
    fresh = Predictive(model, num_samples=5, parallel=True)(times=times, n=6)
    assert fresh["x_new"].reshape(5, 6, 4, 2).isfinite().all()
    assert len(fresh["x_new"].reshape(5, -1).unique(dim=0)) == 5
    values = {"z0": torch.randn(5, 3, MODELS[name][1])}
    if name in STEPWISE:
        values["noise"] = torch.randn(5, 3, 3, model.noise)
    drawn = Predictive(model, posterior_samples=values, parallel=True)(times=times, n=3)
    assert drawn["x_new"].shape == (5, 3, 4, 2)
    assert model.generate(2, times).shape == (2, 4, 2)


@pytest.mark.parametrize("name", MODELS)
def test_a_resumed_run_is_equal_to_an_uninterrupted_one(tmp_path: Path, name: str) -> None:
    def run(steps: int, **options: Any) -> dict[str, Tensor]:
        data, model = series(), build(name, energy=True)
        kind = "path" if name in STEPWISE else "encoder"
        guide = GUIDES[kind](model, data)
        if kind == "path":
            guide.dropout = 0.3
        fit(
            model,
            guide,
            data,
            max_steps=steps,
            batch_size=2,
            final_rate=1.0,
            progress=False,
            seed=1,
            checkpoint_seconds=None,
            **options,
        )
        return {**model.state_dict(), **{f"g.{k}": v for k, v in guide.state_dict().items()}}

    expected = run(5)
    run(3, checkpoint=tmp_path / "run.pt")
    pyro.set_rng_seed(9)
    found = run(5, checkpoint=tmp_path / "run.pt", resume=True)
    assert all(torch.equal(found[k].nan_to_num(), v.nan_to_num()) for k, v in expected.items())


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_is_the_same(tmp_path: Path, name: str) -> None:
    model, data = build(name), series()
    model(data)
    model.save(tmp_path / "model.pt")
    torch.manual_seed(7)
    make, _ = MODELS[name]
    other = make(prior=None).load(tmp_path / "model.pt")
    found = []
    for each in (model, other):
        torch.manual_seed(1)
        found.append(each.generate(2, data.times[0]))
    assert torch.equal(*found)


# What only some can do


@pytest.mark.parametrize("name", STEPWISE)
def test_a_beginning_has_other_noise(name: str) -> None:
    data, model = series(), build(name)
    guide = PathGuide(model, data, 8)
    with pytest.raises(ValueError, match="horizon_warmup: expected 0 for a model whose noise"):
        fit(model, guide, data, max_steps=2, horizon_warmup=0.5, progress=False)


def test_a_guide_is_for_the_settings_it_was_built_with() -> None:
    data, model = series(), build("stochastic")
    guides = [PathGuide(model, data, 8), PathGuide(model, data, 8, training="diffusion")]
    for name, value in (("stochasticity", 0.0), ("steps", 3)):
        before = getattr(model, name)
        setattr(model, name, value)
        for guide in guides:
            with pytest.raises(ValueError, match="model: expected 9 numbers a step, as when this"):
                guide.posterior(data, 2)
        setattr(model, name, before)
    with pytest.raises(ValueError, match="training: expected a model of stochasticity above 0"):
        PathGuide(build("implicit"), data, training="diffusion")
    with pytest.raises(TypeError, match="guide: expected an EncoderGuide, got PathGuide"):
        RefinedGuide(guides[0])
    with pytest.raises(TypeError, match="series: expected a Series, got Tensor"):
        PathGuide(model, data.values)


def test_an_estimated_density_is_for_elbos_alone() -> None:
    data = series()
    model = RecurrentGenerator(3, 2, emission=ImplicitEmission(3, 2, hidden=(8,)))
    guide = PathGuide(model, data, 8)
    fit(model, guide, data, max_steps=1, progress=False)
    draws = guide.posterior(data, 4)
    posterior_predict(model, draws, data)
    with pytest.raises(ValueError, match="model: expected a density of site 'x', got an estimate"):
        log_score(model, draws, data, Series(data.times, data.values))
    uses: list[Callable[[], Any]] = [
        lambda: LangevinGuide(model, data)(data),
        lambda: guide.annealed(data, 4),
        lambda: VectorizedMCMC(MALA(model), 2, 2, num_chains=2, progress=False).run(data),
    ]
    for use in uses:
        with pytest.raises(ValueError, match="site 'x': expected a density, got an estimate of"):
            use()
    with pytest.raises(ValueError, match="dropout: expected 0 for a model whose density of 'x'"):
        PathGuide(model, data, dropout=0.5)
