"""A model whose prior is a tilt, under every way of inference: its posterior is known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS, Predictive
from pyro.nn import PyroModule
from torch import Tensor

from hierarchies import Exact, Hierarchy, Quadratic, exact, number
from pyro_lebm import log_z
from pyro_lebm.inference import (
    MALA,
    BottomUpGuide,
    EncoderGuide,
    LangevinGuide,
    NumPyroMCMC,
    RefinedGuide,
    VectorizedMCMC,
    anneal,
    fit,
    log_evidence,
    strangeness,
    to_arviz,
)
from pyro_lebm.inference.training.warmup import LatentScale
from pyro_lebm.programs.program import Program
from pyro_lebm.series import Series
from pyro_lebm.tilting.energies import energies
from pyro_lebm.tilting.tilt import Tilt
from untyped import poutine

N, T = 5, 3


class Seen(PyroModule):
    """x_t ~ N(low, sd^2) of each sequence; (top, low) from the tilted hierarchy."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.prior = Tilt(Hierarchy(), Quadratic(), **{"num_chains": 64, **options})
        self.log_sd = number(-0.5)

    def forward(self, series: Series) -> None:
        with pyro.plate("sequences", series.total, subsample=series.index):
            low = self.prior()
            loc = low.unsqueeze(-1).expand(*low.shape[:-1], T, 1)
            x = dist.Normal(loc, self.log_sd.exp()).mask(series.mask).to_event(2)
            pyro.sample("x", x, obs=series.filled)

    @property
    def law(self) -> Exact:
        program, energy = self.prior.program, self.prior.energy.energy
        assert isinstance(program, Hierarchy) and isinstance(energy, Quadratic)
        return exact(program, energy)


def model_and_data() -> tuple[Seen, Series]:
    torch.manual_seed(0)
    model = Seen()
    noise = model.log_sd.exp().detach() * torch.randn(N, T, 1, dtype=torch.float64)
    values = model.law.draws(N)["low"][:, None] + noise
    return model, Series(torch.arange(float(T)).double(), values)


def posterior(model: Seen, series: Series) -> tuple[Tensor, Tensor]:
    """Means ``(N, 2)`` and the covariance of (top, low), in closed form."""
    law, weight = model.law, (-2 * model.log_sd).exp().detach()
    precision = torch.linalg.inv(law.cov).detach()
    linear = (precision @ law.mean.detach()).repeat(len(series), 1)
    linear[:, 1] += weight * series.values.sum((1, 2))
    precision[1, 1] += weight * T
    cov = torch.linalg.inv(precision)
    return linear @ cov, cov


def both(samples: dict[str, Any]) -> Tensor:
    """(top, low) of any number of draws, ``(draws, N, 2)``."""
    parts = [torch.as_tensor(samples[name]).reshape(-1, N, 1).double() for name in ("top", "low")]
    return torch.cat(parts, -1)


def mcmc(kind: str, model: Seen, series: Series) -> dict[str, Any]:
    run: Any
    if kind == "nuts":
        run = MCMC(NUTS(model), num_samples=200, warmup_steps=100, disable_progbar=True)
    elif kind == "mala":
        run = VectorizedMCMC(MALA(model), 200, 200, num_chains=32, progress=False)
    else:
        run = NumPyroMCMC(model, "nuts", 200, 200, num_chains=4)
    run.run(series)
    found: dict[str, Any] = run.get_samples()
    return found


def draws_by(kind: str, model: Seen, series: Series) -> Tensor:
    if kind == "annealed":
        return both(dict(anneal(Program.read(model, series), series, 512).samples))
    return both(mcmc(kind, model, series))


@pytest.mark.parametrize("kind", ["annealed", "nuts", "mala", "numpyro"])
def test_draws_have_the_known_moments(kind: str) -> None:
    """A false alarm in 1e-4: 4 N moments at five standard errors of an effective 60 draws."""
    if kind == "numpyro":
        pytest.importorskip("numpyro")
    model, series = model_and_data()
    found = draws_by(kind, model, series)
    mean, cov = posterior(model, series)
    sd = cov.diagonal().sqrt()
    assert ((found.mean(0) - mean).abs() < 5 * sd / math.sqrt(60)).all()
    assert ((found.std(0) / sd - 1).abs() < 5 / math.sqrt(2 * 60)).all()


def test_the_evidence_is_that_of_the_normalised_model() -> None:
    """Forward estimates of 128 particles, within a tenth of a nat of the closed form."""
    model, series = model_and_data()
    guide = LangevinGuide(model, series)
    with pytest.raises(ValueError, match="top, low"):
        log_evidence(guide, series)
    log_z(model.prior, rungs=40, particles=64, repeats=4)
    found = log_evidence(guide, series, rungs=30).estimate
    law, variance = model.law, (2 * model.log_sd).exp().detach()
    cov = law.cov.detach()[1, 1] + variance * torch.eye(T, dtype=torch.float64)
    normal = torch.distributions.MultivariateNormal(law.mean.detach()[1].expand(T), cov)
    assert (found - normal.log_prob(series.values[..., 0])).abs().max() < 0.1


@pytest.mark.parametrize("kind", ["langevin", "encoder", "refined", "bottom_up"])
@pytest.mark.parametrize("coordinates", ["own", "noise"])
def test_every_guide_trains_it(kind: str, coordinates: str) -> None:
    model, series = model_and_data()
    model = Seen(coordinates=coordinates)
    guide: Any = {
        "langevin": LangevinGuide,
        "encoder": EncoderGuide,
        "refined": lambda m, s: RefinedGuide(EncoderGuide(m, s)),
        "bottom_up": BottomUpGuide,
    }[kind](model, series)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    history = fit(model, guide, series, max_steps=4, progress=False, seed=0)
    assert len(history) == 4
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert guide.posterior(series, draws=4)["top"].shape == (1, 4, N, 1)


def test_an_energy_held_at_zero_draws_no_negatives() -> None:
    model, series = model_and_data()
    with torch.no_grad():
        for p in model.prior.energy.parameters():
            p.zero_()
    guide = EncoderGuide(model, series)
    fit(model, guide, series, max_steps=3, energy_from=1.0, progress=False)
    assert not bool(model.prior.chains.visited.any())
    program = model.prior.program
    assert isinstance(program, Hierarchy) and float(program.weight.detach()) != 0.7


def test_predictive_and_the_export_know_the_factor() -> None:
    model, series = model_and_data()
    found = Predictive(model, num_samples=3)(series)
    assert found["top"].shape == (3, N, 1)
    run = VectorizedMCMC(MALA(model), 5, 5, num_chains=4, progress=False)
    run.run(series)
    groups = to_arviz(run)
    assert {*groups.posterior.data_vars} == {"top", "low"}
    assert {*groups.log_likelihood.data_vars} == {"x_given_latents"}
    assert {*groups.observed_data.data_vars} == {"x"}


def test_energies_of_draws_are_a_score() -> None:
    model, series = model_and_data()
    guide = LangevinGuide(model, series)
    log_z(model.prior, rungs=20, particles=32, repeats=4)
    scores = strangeness(guide, series)
    assert "energy" in scores


def test_a_warm_up_scales_the_factor_with_its_sites() -> None:
    model, series = model_and_data()
    with LatentScale(0.5):
        nodes = poutine.trace(model).get_trace(series).nodes
    scales = {name: node["scale"] for name, node in nodes.items() if node["type"] == "sample"}
    assert {name: scales[name] for name in ("top", "low", "tilt", "x")} == {
        "top": 0.5,
        "low": 0.5,
        "tilt": 0.5,
        "x": 1.0,
    }


def test_a_tilted_guide_is_refused() -> None:
    model, series = model_and_data()

    class Guide(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.own = Tilt(Hierarchy(), Quadratic(), num_chains=4)

        def forward(self, series: Series) -> None:
            with pyro.plate("sequences", series.total, subsample=series.index):
                self.own()

    with pytest.raises(ValueError, match="normalised densities, got TiltFactor at site 'tilt'"):
        fit(model, Guide(), series, max_steps=1, progress=False)


@pytest.mark.parametrize("coordinates", ["own", "noise"])
def test_a_run_that_is_resumed_gives_the_same_numbers(coordinates: str, tmp_path: Path) -> None:
    _, series = model_and_data()

    def run(steps: int, **options: Any) -> Seen:
        torch.manual_seed(3)
        model = Seen(coordinates=coordinates, refresh=2, num_chains=8)
        guide = BottomUpGuide(model, series)
        fit(model, guide, series, max_steps=steps, progress=False, seed=0, **options)
        return model

    whole = run(6, final_rate=1.0)
    kept: dict[str, Any] = {"checkpoint": tmp_path / "run.pt", "resume": True, "final_rate": 1.0}
    run(3, **kept)
    resumed = run(6, **kept)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(whole.prior.chains.position, resumed.prior.chains.position)


class Beside(PyroModule):
    """Tilted sites of which some are fixed, another latent site, data."""

    def __init__(self, fixed: dict[str, Tensor]) -> None:
        super().__init__()
        self.prior = Tilt(Hierarchy(), Counting(), num_chains=16)
        self.fixed = fixed

    def forward(self, series: Series) -> None:
        with pyro.plate("sequences", series.total, subsample=series.index):
            low = poutine.condition(self.prior, self.fixed)()
            beside = pyro.sample("beside", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))
            mean = (low + beside)[..., None, :]
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(2), obs=series.values)


class Counting(torch.nn.Module):
    """As many as there are sites: of the tilt's two, whatever is beside them."""

    def forward(self, sites: dict[str, Tensor]) -> Tensor:
        first: Tensor = sum(torch.ones_like(value[..., 0]) for value in sites.values())  # type: ignore[assignment]
        return first


AT = torch.full((N, 1), 0.4, dtype=torch.float64)


@pytest.mark.parametrize("fixed", [{}, {"top": AT}])
def test_an_energy_is_told_of_its_own_sites_alone(fixed: dict[str, Tensor]) -> None:
    _, series = model_and_data()
    model = Beside(fixed)
    program = Program.read(model, series)
    z = torch.zeros(3, N, program.dim, dtype=torch.float64)
    found = energies(program, z)
    assert found is not None
    torch.testing.assert_close(found, torch.full((3, N), 2.0, dtype=torch.float64))


def test_evidence_wants_the_constant_of_a_tilt_whose_sites_are_all_fixed() -> None:
    _, series = model_and_data()
    model = Beside({"top": AT, "low": AT})
    with pytest.raises(ValueError, match="log Z is known, got none for tilt"):
        log_evidence(LangevinGuide(model, series), series)
