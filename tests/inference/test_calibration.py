"""Calibration: right posteriors pass, wrong ones do not, and its own alarm is as rare as stated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_lebm import EnergyPrior, MLPEnergy, Series
from pyro_lebm.inference import (
    Calibration,
    Draws,
    EncoderGuide,
    GRUEncoder,
    LangevinGuide,
    RefinedGuide,
    calibrate,
    plots,
)
from pyro_lebm.models import GaussianEmission, LatentODE, MLPField

ITEMS = 500


def items() -> None:
    with pyro.plate("items", ITEMS):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=torch.zeros(ITEMS))


def posterior(shift: float = 0.0, factor: float = 1.0) -> Callable[..., dict[str, Tensor]]:
    """Of `items`, moved by so many standard deviations and shrunk."""
    sd = (1 / (1 + 1 / 0.25)) ** 0.5

    def inference(data: dict[str, Tensor]) -> dict[str, Tensor]:
        mean = data["x"] * sd**2 / 0.25
        return {"z": dist.Normal(mean + shift * sd, factor * sd).sample((2, 100))}

    return inference


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_exact_posterior_passes_and_wrong_ones_do_not(seed: int) -> None:
    pyro.set_rng_seed(seed)
    right, narrow, wide, off = (
        calibrate(items, posterior(*how), progress=False).failed()
        for how in ((0.0, 1.0), (0.0, 0.8), (0.0, 1.3), (0.3, 1.0))
    )
    assert right == []  # once in a hundred, each seed
    assert all("z" in failed for failed in (narrow, wide, off))


def test_false_alarms_are_as_rare_as_stated() -> None:
    generator = torch.Generator().manual_seed(0)
    trials = 2000
    ranks = torch.randint(0, 64, (trials, 3, 200), generator=generator)
    alarms = sum(
        bool(Calibration(dict(zip("abc", trial, strict=True)), draws=63).failed(level=0.05))
        for trial in ranks
    )
    # of three independent quantities 1 - (1 - .05/3)^3 = .0492; the sd of a share is .0048
    assert abs(alarms / trials - 0.0492) < 4 * 0.0048


def test_replications_come_one_by_one_where_elements_are_not_independent() -> None:
    def single() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        w = pyro.sample("w", dist.LogNormal(0.0, 1.0))
        pyro.deterministic("both", z + w)
        with pyro.plate("rows", 3):
            pyro.sample("x", dist.Normal(z + w.log(), 1.0), obs=torch.zeros(3))

    def inference(data: dict[str, Tensor], lost: bool = False) -> dict[str, Tensor]:
        total = dist.Normal(2 * data["x"].sum() / 7, (2 / 7) ** 0.5).sample((1, 50))  # of z + log w
        gap = dist.Normal(0.0, 2**0.5).sample((1, 50))
        return {"z": (total + gap) / 2, "w": ((total - gap) / 2).exp()} | ({"w": 0} if lost else {})

    pyro.set_rng_seed(3)
    found = calibrate(single, inference, replications=60, draws=31, progress=False)
    assert found.replications == 60 and set(found.ranks) == {"z", "w", "log joint"}
    assert found.failed() == []
    assert all(int(r.min()) >= 0 and int(r.max()) <= 31 for r in found.ranks.values())


# A small latent ODE with an energy: a bent prior, a nonlinear path, ten irregular points.


def latent_ode() -> tuple[LatentODE, Series]:
    torch.manual_seed(4)
    prior = EnergyPrior(MLPEnergy(2, (16, 16)), base=2, num_chains=16)
    field, emission = MLPField(2, (8,)), GaussianEmission(2, 1, (8,), scale=0.3)
    model = LatentODE(2, 1, prior=prior, field=field, emission=emission, tolerance=1e-2)
    with torch.no_grad():
        for p in [*prior.energy.parameters(), *model.emission.parameters()]:
            if p.ndim == 2:
                p.mul_(2.5)
    times = torch.rand(10).cumsum(0) / 3
    return model, Series(times, torch.zeros(ITEMS, 10, 1), torch.rand(ITEMS, 10, 1) < 0.6)


def of_guide(guide: Any, series: Series, factor: float = 1.0, **options: Any) -> Callable[..., Any]:
    def inference(data: dict[str, Tensor]) -> Draws:
        seen = Series(series.times, data["x"], series.mask)
        draws = guide.posterior(seen, draws=128, **options)
        z = draws["z0"]
        return Draws({"z0": z.mean(1, keepdim=True) + factor * (z - z.mean(1, keepdim=True))})

    return inference


def guides(model: LatentODE, series: Series) -> dict[str, Any]:
    encoder = EncoderGuide(model, series, GRUEncoder(1, 8, features=4))
    return {
        "langevin": LangevinGuide(model, series),
        "refined": RefinedGuide(encoder),
        "encoder": encoder,
    }


@pytest.mark.parametrize("name", ["langevin", "refined"])
def test_guides_draw_from_the_posterior_of_new_sequences(name: str) -> None:
    model, series = latent_ode()
    guide = guides(model, series)[name]
    pyro.set_rng_seed(5)
    found = calibrate(model, of_guide(guide, series), series, progress=False)
    assert found.replications == ITEMS and set(found.ranks) == {"z0[0]", "z0[1]", "log joint"}
    assert found.failed() == []  # once in a hundred
    shrunk = calibrate(model, of_guide(guide, series, factor=0.8), series, progress=False)
    assert "log joint" in shrunk.failed()


def test_an_encoder_is_shown_as_it_is() -> None:
    model, series = latent_ode()
    pyro.set_rng_seed(6)
    found = calibrate(
        model, of_guide(guides(model, series)["encoder"], series), series, progress=False
    )
    assert found.failed()  # it was never trained
    figure = plots.plot_calibration({"encoder": found})
    assert "out: " in figure.axes[0].get_title(loc="left")


def with_factor() -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.factor("tilt", z)


@pytest.mark.parametrize(
    ("model", "inference", "options", "message"),
    [
        (items, posterior(), {"replications": 3}, "replications, draws: expected at least 20"),
        (items, posterior(), {"draws": 500}, "effective sample size of at least 500"),
        (items, lambda data: {}, {}, r"inference: expected draws of \['z'\] too"),
        (with_factor, posterior(), {}, "draws its own data, got the factor 'tilt'"),
    ],
)
def test_bad_inputs(model: Any, inference: Any, options: dict[str, Any], message: str) -> None:
    pyro.set_rng_seed(7)
    with pytest.raises(ValueError, match=message):
        calibrate(model, inference, progress=False, **options)
