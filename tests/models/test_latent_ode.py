"""LatentODE: its sites and trajectories, what hidden entries may not do, saving, back ends."""

from __future__ import annotations

import sys
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    ELBO,
    MCMC,
    NUTS,
    SVI,
    Predictive,
    Trace_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.infer.autoguide import AutoNormal
from pyro.optim import PyroOptim
from torch import Tensor, nn

import rotations
from pyro_lebm.energy import MLPEnergy
from pyro_lebm.models import BernoulliEmission, GaussianEmission, LatentODE, PoissonEmission
from pyro_lebm.prior import EnergyPrior
from pyro_lebm.series import Series
from pyro_lebm.trajectories.ode import choose_step, step_error

EMISSIONS = [GaussianEmission, BernoulliEmission, PoissonEmission]


def counts(n: int = 5, length: int = 4, observed: int = 1, *, shared: bool = True) -> Series:
    """Zeros and ones with hidden entries: fit for every emission."""
    times = torch.rand((length,) if shared else (n, length)).cumsum(-1)
    values = torch.randint(0, 2, (n, length, observed)).float()
    mask = torch.rand(n, length, observed) > 0.3
    mask[:, 0] = True
    return Series(times, torch.where(mask, values, torch.nan))


def scored(model: nn.Module, series: Series, z0: Tensor) -> Any:
    """The model's trace with z0 fixed."""
    fixed = poutine.condition(model, data={"z0": z0})
    trace = poutine.trace(fixed).get_trace(series)
    trace.compute_log_prob()
    return trace


# Sites


@pytest.mark.parametrize("prior", ["gaussian", "energy"])
@pytest.mark.parametrize("emission", EMISSIONS)
@pytest.mark.parametrize(("observed", "shared"), [(1, True), (3, False)])
def test_sites_plates_and_shapes(emission: Any, observed: int, shared: bool, prior: str) -> None:
    energy = EnergyPrior(MLPEnergy(3), 3, num_chains=8) if prior == "energy" else None
    model = LatentODE(3, observed, prior=energy, emission=emission(3, observed))
    series = counts(observed=observed, shared=shared)
    batch = series.batch([4, 1])
    trace = poutine.trace(model).get_trace(batch, times=torch.linspace(0, 3, 7))
    trace.compute_log_prob()
    sites = {n: s for n, s in trace.nodes.items() if s["type"] == "sample" and n != "sequences"}
    assert list(sites) == ["z0", "x", "x_new"]
    assert [s["is_observed"] for s in sites.values()] == [False, True, False]
    shapes = [tuple(s["value"].shape) for s in sites.values()]
    assert shapes == [(2, 3), (2, 4, observed), (2, 7, observed)]
    for site in sites.values():
        assert site["fn"].batch_shape == site["log_prob"].shape == (2,)
        (frame,) = site["cond_indep_stack"]
        assert (frame.name, frame.dim, frame.size, frame.full_size) == ("sequences", -1, 2, 5)
        assert site["scale"] == 5 / 2
    assert torch.equal(trace.nodes["sequences"]["value"], torch.tensor([4, 1]))


def test_the_whole_data_set_in_another_order_keeps_its_places() -> None:
    order = torch.tensor([2, 0, 1])
    trace = poutine.trace(LatentODE(2, 1)).get_trace(counts(3).batch(order))
    assert torch.equal(trace.nodes["sequences"]["value"], order)


def test_a_plate_of_particles_goes_through() -> None:
    model, series = rotations.rotating(), rotations.swings(3)
    z0 = torch.randn(4, 3, 2)
    with pyro.plate("particles", 4, dim=-2):
        many = scored(model, series, z0).nodes["x"]["log_prob"]
    each = torch.stack([scored(model, series, z).nodes["x"]["log_prob"] for z in z0])
    assert many.shape == (4, 3)
    assert torch.allclose(many, each, rtol=1e-5)


# What is observed


@pytest.mark.parametrize("emission", EMISSIONS)
@pytest.mark.parametrize("hidden", [torch.nan, torch.inf, -1e30, 7.0])
def test_hidden_values_never_matter(emission: Any, hidden: float) -> None:
    torch.manual_seed(1)
    model = LatentODE(2, 2, emission=emission(2, 2))
    series = counts(observed=2)
    other = Series(series.times, torch.where(series.mask, series.values, hidden), series.mask)
    z0 = torch.randn(5, 2)
    found = []
    for data in (series, other):
        model.zero_grad()
        leaf = z0.clone().requires_grad_(True)
        trace = scored(model, data, leaf)
        trace.log_prob_sum().backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert leaf.grad is not None and all(bool(torch.isfinite(g).all()) for g in grads)
        found.append([trace.nodes["x"]["log_prob"].detach(), leaf.grad, *grads])
    assert len(found[0]) > 4
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert bool(torch.isfinite(found[0][1]).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shared", [True, False])
def test_the_density_is_that_of_the_exact_trajectory(dtype: torch.dtype, shared: bool) -> None:
    model, series = rotations.rotating().to(dtype), rotations.swings(4).to(dtype=dtype)
    if not shared:
        times = series.times + 0.1 * torch.arange(4, dtype=dtype)[:, None]
        series = Series(times, series.values)
    z0 = torch.randn(4, 2, dtype=dtype)
    site = scored(model, series, z0).nodes["x"]
    frequency, weight, offset = rotations.TRUTH
    mean = rotations.design(series.times, frequency, weight) @ z0.unsqueeze(-1) + offset
    log_prob = dist.Normal(mean, rotations.SIGMA).log_prob(series.filled)
    exact = torch.where(series.mask, log_prob, 0.0).sum((-1, -2))
    assert site["log_prob"].dtype == dtype
    assert torch.allclose(site["log_prob"], exact, rtol=2e-4)


def test_sequences_with_times_of_their_own_do_not_meet() -> None:
    series = counts(4, 5, shared=False)
    model, z0 = LatentODE(2, 1, tolerance=1e-6), torch.randn(4, 2)
    together = scored(model, series, z0).nodes["x"]["log_prob"]
    alone = [scored(model, series[i], z0[i : i + 1]).nodes["x"]["log_prob"] for i in range(4)]
    assert torch.allclose(together, torch.cat(alone), rtol=1e-4)


def test_covariates_drive_the_field() -> None:
    class Integrator(nn.Module):
        def forward(self, t: Tensor, z: Tensor, u: Tensor) -> Tensor:
            return u.expand_as(z)

    emission = rotations.FirstCoordinate(1.0, 0.0)
    model = LatentODE(2, 1, field=Integrator(), emission=emission, covariates=1)
    times = torch.tensor([0.0, 0.7, 1.0, 2.5])
    u = torch.randn(3, 4, 1)
    z0 = torch.randn(3, 2)
    path = model.path(z0, times, u)
    # u is piecewise linear: the trapezoidal rule is exact, kinks within a step apart.
    area = torch.cumulative_trapezoid(u[..., 0], times, dim=-1)
    exact = z0[:, None] + torch.cat([torch.zeros(3, 1), area], -1)[..., None]
    assert torch.allclose(path, exact, atol=5e-3)
    series = Series(times, torch.zeros(3, 4, 1), covariates=u)
    model(series, times=times, covariates=u)
    with pytest.raises(ValueError, match="covariates: expected 1 of them, got 0"):
        model(series, times=times)
    with pytest.raises(ValueError, match="covariates: expected 0 of them, got 1"):
        LatentODE(2, 1)(series)
    assert model.generate(3, times, u).shape == (3, 4, 1)


# The solver


@pytest.mark.parametrize(("method", "adjoint"), [("bosh3", False), ("dopri5", True)])
def test_adaptive_solvers_by_name_agree_in_value_and_gradient(method: str, adjoint: bool) -> None:
    series, z0 = rotations.swings(3), torch.randn(3, 2)
    found = []
    settings: list[dict[str, Any]] = [{}, {"method": method, "adjoint": adjoint}]
    for kwargs in settings:
        model = rotations.rotating(**kwargs)
        value = scored(model, series, z0).nodes["x"]["log_prob"].sum()
        value.backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        found.append(torch.stack([value.detach(), *grads]))
    # torchdiffeq's tolerances are 1e-3; its solution differs by so much, relative to noise SIGMA.
    assert torch.allclose(found[1], found[0], rtol=2e-2, atol=0.02 * float(found[0].abs().max()))


def test_extrapolation_follows_the_field() -> None:
    model, z0 = rotations.rotating(), torch.randn(3, 2)
    model(rotations.swings(3))
    times = torch.linspace(0, 12, 30)
    exact = rotations.design(times, rotations.TRUTH[0], 1.0) @ z0.unsqueeze(-1)
    assert torch.allclose(model.path(z0, times)[..., :1], exact, atol=2e-3)


def test_a_step_is_chosen_once_and_anew_on_request() -> None:
    model, series = LatentODE(2, 1), counts()
    assert bool(model.step_size.isnan())
    model(series)
    first = float(model.step_size)
    with torch.no_grad():
        for p in model.field.parameters():
            p.mul_(30.0)
    model(series)
    assert float(model.step_size) == first
    model.refresh(series)
    assert float(model.step_size) < first


def test_a_step_is_kept_while_its_error_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    series = Series(torch.linspace(0, 6, 20), torch.zeros(3, 20, 1))
    model = rotations.rotating(tolerance=1e-3)
    frequency = model.field.frequency
    assert isinstance(frequency, Tensor)
    aims: list[float] = []

    def counted(*args: Any, **options: Any) -> float:
        aims.append(options["tolerance"])
        return choose_step(*args, **options)

    monkeypatch.setattr(sys.modules[LatentODE.__module__], "choose_step", counted)
    before = torch.get_rng_state()
    model.refresh(series)
    assert len(aims) == 1
    # the error of a step grows as the fourth or fifth power of the frequency
    for factor, kept in ((1.0, True), (0.93, True), (0.9, True), (1.6, False), (0.5, False)):
        with torch.no_grad():
            frequency.fill_(rotations.TRUTH[0] * factor)
        count, last = len(aims), float(model.step_size)
        model.refresh(series)
        assert (len(aims) == count) == kept and (float(model.step_size) == last) == kept
        z0 = torch.randn(32, 2, generator=torch.Generator().manual_seed(7))
        # draws other than those that it was chosen on may lie a little farther out
        assert step_error(model.field, z0, series.times, float(model.step_size), t0=0.0) < 1.5e-3
    assert set(aims) == {0.8e-3}
    assert torch.equal(before, torch.get_rng_state())


def test_the_longest_step_of_all_is_not_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    series, model = rotations.swings(3), rotations.rotating(0.01, tolerance=1e-3)
    model.refresh(series)
    monkeypatch.setattr(sys.modules[LatentODE.__module__], "choose_step", None)
    model.refresh(series)


def test_times_at_t0_alone_choose_no_step() -> None:
    model = rotations.rotating()
    assert model.generate(2, torch.zeros(1)).shape == (2, 1, 1)
    test_extrapolation_follows_the_field()
    z0 = torch.randn(2, 2)
    exact = rotations.design(torch.tensor([6.0]), rotations.TRUTH[0], 1.0) @ z0.unsqueeze(-1)
    assert torch.allclose(model.path(z0, torch.tensor([6.0]))[..., :1], exact, atol=2e-3)


def test_a_step_survives_rounding() -> None:
    for span in torch.linspace(4, 8, 20).tolist():  # the step's rounding differs with the span
        model = rotations.rotating(tolerance=1e-3)
        times = torch.tensor([0.0, span])
        model.refresh(Series(times, torch.zeros(1, 2, 1)))
        assert span / float(model.step_size) > 17  # more steps, finer rounding
        copy = rotations.rotating(tolerance=1e-3)
        copy.load_state_dict(model.state_dict())
        z0 = torch.randn(1, 2)
        assert torch.equal(model.path(z0, times), copy.path(z0, times))


# Generating


def test_generated_sequences_have_the_models_moments() -> None:
    frequency, weight, offset = rotations.TRUTH
    times = torch.tensor([0.0, 0.4, 3.0])
    x = rotations.rotating().generate(8000, times)[..., 0]
    angle = frequency * (times[:, None] - times)
    exact = weight**2 * angle.cos() + rotations.SIGMA**2 * torch.eye(3)
    # Five standard errors of 8000 draws: a false alarm in about 1e-5 of seeds.
    sd = (weight**2 + rotations.SIGMA**2) ** 0.5
    assert torch.allclose(x.mean(0), torch.tensor(offset), atol=5 * sd / 8000**0.5)
    assert torch.allclose(torch.cov(x.T), exact, atol=5 * sd**2 * (2 / 8000) ** 0.5)


# Pyro's own ways


def test_predictive_conditions_and_samples_new_times() -> None:
    model, series = rotations.rotating(), rotations.swings(3)
    times = torch.linspace(0, 5, 9)
    z0 = torch.randn(50, 3, 2)
    draws = Predictive(model, posterior_samples={"z0": z0}, parallel=True)(series, times=times)
    assert draws["x_new"].shape == (50, 3, 9, 1)
    frequency, weight, offset = rotations.TRUTH
    mean = rotations.design(times, frequency, weight) @ z0.unsqueeze(-1) + offset
    residual = (draws["x_new"] - mean) / rotations.SIGMA
    # 1350 standard normals: five standard errors.
    assert abs(residual.mean()) < 5 / 1350**0.5 and abs(residual.std() - 1) < 5 / 2700**0.5
    fresh = Predictive(model, num_samples=4)(times=times, n=6)
    assert fresh["z0"].shape == (4, 6, 2) and fresh["x_new"].shape == (4, 6, 9, 1)


@pytest.mark.filterwarnings("ignore::UserWarning")  # few draws
def test_nuts_finds_the_exact_posterior() -> None:
    model, series = rotations.rotating(tolerance=1e-3), rotations.swings(2)
    mcmc = MCMC(NUTS(model), num_samples=80, warmup_steps=40, disable_progbar=True)
    mcmc.run(series)
    exact = rotations.posterior(series)
    z0 = mcmc.get_samples()["z0"].double()
    # About 60 effective draws: more than four standard errors each.
    assert bool(((z0.mean(0) - exact.mean).abs() < 0.5 * exact.stddev).all())
    assert bool(((z0.std(0) / exact.stddev - 1).abs() < 0.36).all())


def test_an_autoguide_finds_the_exact_mean() -> None:
    model, series = rotations.rotating(tolerance=1e-3), rotations.swings(4)
    guide = AutoNormal(model, init_scale=0.2)
    rates = lambda name: {"lr": 0.1 if name.startswith("AutoNormal") else 0.0}  # noqa: E731
    svi = SVI(model, guide, PyroOptim(torch.optim.Adam, rates), Trace_ELBO())
    for _ in range(150):
        svi.step(series)
    exact = rotations.posterior(series)
    located = guide.median(series)["z0"].detach()
    # A Gaussian's mean-field approximation has its mean; Adam leaves some noise.
    assert bool(((located - exact.mean).abs() < 0.3).all())


@pytest.mark.parametrize(
    "elbo",
    [
        Trace_ELBO(),
        Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1),
        TraceMeanField_ELBO(),
        TraceGraph_ELBO(),
    ],
)
def test_an_energy_prior_trains_under_every_elbo(elbo: ELBO) -> None:
    energy = MLPEnergy(2, (8,))
    with torch.no_grad():
        energy.net[-1].weight.normal_()  # type: ignore[operator]
    model = LatentODE(2, 1, prior=EnergyPrior(energy, 2, num_chains=16))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def guide(series: Series) -> None:
        with pyro.plate("sequences", series.total, subsample=series.index):
            loc = pyro.param("loc", torch.zeros(5, 2), event_dim=1)
            pyro.sample("z0", dist.Normal(loc, 0.1).to_event(1))

    svi = SVI(model, guide, PyroOptim(torch.optim.Adam, {"lr": 1e-2}), elbo)
    assert svi.step(counts().batch([3, 0, 1])) == pytest.approx(svi.step(counts()), rel=10.0)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == set(before) - {"prior.energy.net.2.bias"}  # a constant changes no density
