"""One training on irregular sinusoids and all that is measured of it: a worker of the benchmark.

Kept apart from the command so that trainings run side by side as processes of one thread each.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_lebm.base import FullNormal
from pyro_lebm.energy import MLPEnergy
from pyro_lebm.inference import (
    EncoderGuide,
    GRUEncoder,
    History,
    LangevinGuide,
    RefinedGuide,
    fit,
    fit_prior,
    posterior_predict,
    to_arviz,
)
from pyro_lebm.inference.draws import Draws
from pyro_lebm.inference.export import write_netcdf
from pyro_lebm.inference.guides.guide import Guide
from pyro_lebm.inference.scores import coverage, crps, median_bandwidth, mmd, mse
from pyro_lebm.models import GaussianEmission, LatentODE, MLPField
from pyro_lebm.models.datasets import extrapolation, interpolation, irregular_sines
from pyro_lebm.prior import EnergyPrior
from pyro_lebm.series import Series

LATENT, WIDTH = 10, 100
TRAIN, TEST = 400, 100
FINE = 5e-3  # Langevin from scratch learns rough curves where the solver is coarse
DENSE = torch.linspace(0.0, 5.0, 201)  # for pictures, in seconds


@dataclass(frozen=True)
class Run:
    """What is trained, on what, for how long."""

    method: str
    task: str = "interpolation"
    seed: int = 0
    seconds: float = 200.0
    draws: int = 20
    tested: int = TEST
    generated: int = 1000
    export: bool = False  # posterior.nc, which takes minutes
    validation: bool = False  # score on sequences kept for choices, never on the test set


@dataclass(frozen=True)
class Data:
    """Training sequences, and for testing what is given, what is hidden and the truth."""

    train: Series
    given: Series
    hidden: Series
    truth: Tensor


def sines(run: Run) -> Data:
    """The data of a task: 400 training and 100 test sequences on one irregular grid."""
    # 100 more sequences for validation: choices never see the test set.
    whole = irregular_sines(TRAIN + 2 * TEST, seed=1000 + run.seed)
    first = TRAIN + TEST if run.validation else TRAIN
    test = whole[torch.arange(first, first + run.tested)]
    train = whole[torch.arange(TRAIN)]
    if run.task == "interpolation":
        train, _ = interpolation(train, 50, seed=run.seed)
        given, hidden = interpolation(test, 50, seed=run.seed + 1)
    else:
        given, hidden = extrapolation(test)
    return Data(train, given, hidden.without(given), test.values)


def energy_prior(base: int | nn.Module = LATENT, **options: Any) -> EnergyPrior:
    """The energy-based prior of all ODE-LEBM rows."""
    with torch.random.fork_rng():  # with or without it, a seed gives the generator the same start
        return EnergyPrior(MLPEnergy(LATENT, (WIDTH, WIDTH)), base, **options)


def latent_ode(
    prior: nn.Module | None = None, tolerance: float = 5e-2, **emission: Any
) -> LatentODE:
    """The one generator that all methods share, solved as finely as a method needs."""
    return LatentODE(
        LATENT,
        1,
        prior=prior,
        field=MLPField(LATENT, (WIDTH,)),
        emission=GaussianEmission(LATENT, 1, (WIDTH,), **emission),
        tolerance=tolerance,
    )


def encoder_guide(model: LatentODE, data: Data, run: Run) -> EncoderGuide:
    """An encoder that sees of a training sequence what it will see of a test one."""
    view = None if run.task == "interpolation" else _first_half
    encoder = GRUEncoder(1, WIDTH, features=2 * LATENT)
    return EncoderGuide(model, data.train, encoder, view=view)


def _first_half(series: Series) -> Series:
    return extrapolation(series)[0]


Trained = tuple[LatentODE, dict[str, Guide], dict[str, History]]
Fit = Callable[..., History]  # `fit`, or something with its arguments


def train_latent_ode(run: Run, data: Data, fit: Fit = fit) -> Trained:
    """Gaussian prior, ELBO, encoder: as published, with learned scale and KL warm-up."""
    model = latent_ode()
    guide = encoder_guide(model, data, run)
    history = fit(model, guide, data.train, kl_warmup=0.1, **common(run))
    refined = RefinedGuide(guide)
    return model, {"latent_ode": guide, "latent_ode_refined": refined}, {"history": history}


def train_langevin(run: Run, data: Data, fit: Fit = fit) -> Trained:
    """Energy prior, posterior by persistent Langevin chains, no encoder."""
    model = latent_ode(energy_prior(), tolerance=FINE)
    guide = LangevinGuide(model, data.train, hot_until=0.25)
    rates = {"prior.": 1e-3}
    options = {**common(run), **without_encoder(), "energy_from": 0.6}
    history = fit(model, guide, data.train, learning_rates=rates, **options)
    return model, {"ode_lebm_langevin": guide}, {"history": history}


def train_refined(run: Run, data: Data, fit: Fit = fit) -> Trained:
    """Energy prior; the encoder by the ELBO, then refined draws, last the energy alone."""
    prior = energy_prior(FullNormal(LATENT), num_chains=1024, refresh=10, steps=3)
    model = latent_ode(prior)
    guide = RefinedGuide(encoder_guide(model, data, run), refine_from=0.95)
    start = time.perf_counter()
    history = fit(
        model,
        guide,
        data.train,
        kl_warmup=0.1,
        energy_from=0.98,  # it learns quickly alone, below, and each step with it costs more
        learning_rates={"prior.": 1e-3},
        # At .02 the loss leaps after some 100 steps of refinement, and ever higher.
        **{**common(run), "max_seconds": 0.9 * run.seconds, "final_rate": 5e-4},
    )
    guide.train()  # the chains go on: four visits to forget the encoder, eight draws of each
    draws = torch.cat([guide.draw(data.train) for _ in range(12)][4:])
    guide.eval()
    left = max(run.seconds - (time.perf_counter() - start), 0.05 * run.seconds)
    energy = fit_prior(prior, draws, 4e-3, max_seconds=left, batch_size=400, final_rate=0.02)
    return model, {"ode_lebm_refined": guide}, {"history": history, "energy": energy}


def train_short_run(run: Run, data: Data) -> Trained:
    """The settings of the energy-prior papers (Pang et al. 2020): nothing persists, sigma .3."""
    prior = energy_prior(negatives="short_run", sampler="short_run", steps=60, step_size=0.4)
    model = latent_ode(prior, tolerance=FINE, scale=0.3, learn_scale=False)
    guide = LangevinGuide(
        model, data.train, steps=20, step_size=0.1, hot_until=0.0, adjusted=False, restart=True
    )
    rates = {"prior.": 2e-5}
    options = {**common(run), **without_encoder()}
    history = fit(model, guide, data.train, learning_rates=rates, **options)
    return model, {"ode_lebm_short_run": guide}, {"history": history}


def common(run: Run) -> dict[str, Any]:
    """Settings of `fit` that no method has to itself."""
    return {
        "max_seconds": run.seconds,
        "batch_size": 50,
        "learning_rate": 1e-2,
        "betas": (0.9, 0.95),
        "horizon_warmup": 0.4,
        "final_rate": 0.02,
        "seed": run.seed,
    }


def without_encoder() -> dict[str, Any]:
    """What Langevin from scratch does better with: larger batches, whole series at once."""
    return {"batch_size": 100, "horizon_warmup": 0.0}


TRAININGS: dict[str, Callable[[Run, Data], Trained]] = {
    "latent_ode": train_latent_ode,
    "ode_lebm_langevin": train_langevin,
    "ode_lebm_refined": train_refined,
    "ode_lebm_short_run": train_short_run,
}


# Measuring


def measure(run: Run, folder: Path) -> dict[str, dict[str, float]]:
    """Train, score every row that shares the training, and keep what pictures need."""
    data = sines(run)
    torch.manual_seed(run.seed)
    begin = time.perf_counter()
    model, guides, histories = TRAININGS[run.method](run, data)
    seconds = time.perf_counter() - begin
    shared = {
        "train_seconds": seconds,
        "iterations": len(histories["history"]),
        **generation(model, data, run, folder),
    }
    rows = {}
    for name, guide in guides.items():
        begin = time.perf_counter()
        draws = guide.posterior(data.given, draws=run.draws)
        seconds = time.perf_counter() - begin
        rows[name] = {**accuracy(model, draws, data, folder / name), **shared}
        rows[name]["inference_seconds"] = seconds
    for name, history in histories.items():
        history.frame.to_csv(folder / f"{run.method}_{name}.csv", index=False)
    model.save(folder / f"{run.method}_model.pt")
    if run.export:
        export(model, guides["ode_lebm_refined"], data, run, folder)
    return rows


def accuracy(model: LatentODE, draws: Draws, data: Data, path: Path) -> dict[str, float]:
    """Errors of the posterior mean, and how honest the spread is, on the test sequences."""
    means = posterior_predict(model, draws, data.given, mean=True, batch_size=8)
    values = posterior_predict(model, draws, data.given, batch_size=8)
    center = means.flatten(0, 1).mean(0)
    few = torch.arange(6)
    dense = posterior_predict(model, draws.select(few), data.given[few], times=DENSE)
    torch.save({"predictions": dense}, f"{path}_predictions.pt")
    hidden = data.hidden.mask
    return {
        "mse_all": mse(center, data.truth),
        "mse_observed": mse(center, data.truth, data.given.mask),
        "mse_unobserved": mse(center, data.truth, hidden),
        "crps": crps(values, data.truth, hidden),
        "coverage_50": coverage(values, data.truth, 0.5, hidden),
        "coverage_90": coverage(values, data.truth, 0.9, hidden),
    }


def generation(model: LatentODE, data: Data, run: Run, folder: Path) -> dict[str, float]:
    """Squared MMD of fresh unconditional sequences against fresh data; the energy's strength."""
    times = data.train.times
    real = irregular_sines(run.generated, seed=5000 + run.seed, times=times).values
    drawn = model.generate(run.generated, times)
    torch.save({"generated": drawn[:200].clone()}, folder / f"{run.method}_generated.pt")
    width = median_bandwidth(real)
    found = {"generation_mmd": mmd(drawn, real, width)}
    if isinstance(model.prior, EnergyPrior):
        found["generation_mmd_base"] = mmd(without_energy(model, run.generated, times), real, width)
        z = model.prior().sample((run.generated,)).requires_grad_(True)
        energy = model.prior.energy(z)
        (slope,) = torch.autograd.grad(energy.sum(), z)
        found["energy_sd"] = float(energy.detach().std())
        found["energy_grad"] = float(slope.norm(dim=-1).mean())
    return found


def without_energy(model: LatentODE, n: int, times: Tensor) -> Tensor:
    """Sequences from the prior's base alone: what the energy has to do better than."""
    z = model.prior.base().sample(torch.Size((n,)))
    program = poutine.trace(poutine.condition(model, data={"z0": z}))
    value = program.get_trace(times=times, n=n).nodes["x_new"]["value"]
    assert isinstance(value, Tensor)
    return value


def floor(run: Run) -> float:
    """Squared MMD of fresh data against other fresh data: what a perfect generator gets."""
    times = irregular_sines(1, seed=1000 + run.seed).times
    a, b = (
        irregular_sines(run.generated, seed=seed + run.seed, times=times).values
        for seed in (5000, 6000)
    )
    return mmd(b, a, median_bandwidth(a))


def export(model: LatentODE, guide: Guide, data: Data, run: Run, folder: Path) -> None:
    """posterior.nc: four independent populations for six test sequences, and forecasts."""
    few = data.given[torch.arange(6)]
    draws = guide.posterior(few, draws=2 * run.draws, runs=4)
    times = torch.linspace(0.0, 7.5, 76)
    found = to_arviz(draws, model=model, series=few, times=times, num_prior_draws=200)
    write_netcdf(found, folder / "posterior.nc")


def main() -> None:
    """Run one training given as JSON and write its rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="a Run as JSON")
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    run = Run(**json.loads(args.run))
    args.folder.mkdir(parents=True, exist_ok=True)
    rows = measure(run, args.folder)
    result = {"run": asdict(run), "rows": rows, "mmd_floor": floor(run)}
    beside = args.folder / f"{run.method}.json.part"
    beside.write_text(json.dumps(result, indent=2))
    beside.replace(args.folder / f"{run.method}.json")


if __name__ == "__main__":
    main()
