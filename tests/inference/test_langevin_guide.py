"""LangevinGuide: draws of the exact posterior, which chains move when, what is refused."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule
from pyro.optim import PyroOptim
from torch import Tensor, nn

import rotations
from pyro_lebm.inference import LangevinGuide
from pyro_lebm.series import Series
from scalars import Scalars, scalars


def adam(rate: float) -> PyroOptim:
    return PyroOptim(torch.optim.Adam, {"lr": rate})


# The draws


def test_chains_have_the_exact_posterior_and_no_minibatch_scale() -> None:
    once, model = rotations.swings(2), rotations.rotating(tolerance=1e-4)
    series = Series(once.times, once.values.repeat(1000, 1, 1))  # chains apart, one posterior
    guide = LangevinGuide(model, series, steps=12, hot_until=0.0, step_size=0.4)
    for _ in range(5):
        guide(series.batch(torch.arange(1000, 2000)))
    z = guide.chains.position[1000:].reshape(500, 2, 2).double()
    p = rotations.posterior(once)
    # 500 independent draws: five standard errors, a false alarm in 1e-5 of seeds.
    assert bool(((z.mean(0) - p.mean).abs() < 5 * p.stddev / 500**0.5).all())
    for n in range(2):
        scale = p.stddev[n, :, None] * p.stddev[n]
        error = (torch.cov(z[:, n].T) - p.covariance_matrix[n]) / scale
        assert bool((error.abs() < 5 * (2 / 500) ** 0.5).all())


def test_only_the_minibatchs_chains_move_and_only_in_training() -> None:
    series, model = scalars(6), Scalars()
    guide = LangevinGuide(model, series, steps=2)
    guide(series)
    before = guide.chains.training_state()
    guide(series.batch([4, 1]))
    moved = (guide.chains.position != before["position"]).squeeze(-1)
    assert moved.tolist() == [False, True, False, False, True, False]
    before = guide.chains.training_state()
    guide.eval()
    trace = poutine.trace(guide).get_trace(series)
    assert bool((trace.nodes["z0"]["value"] != before["position"].squeeze(-1)).all())
    after = guide.chains.training_state()
    assert all(torch.equal(before[name].nan_to_num(), after[name].nan_to_num()) for name in before)
    assert not guide.state_dict()


@pytest.mark.parametrize("whole", [True, False])
def test_a_chain_belongs_to_its_sequence_in_any_order(whole: bool) -> None:
    values = 100.0 * torch.arange(6.0).reshape(6, 1, 1)
    series = Series(torch.zeros(1), values)
    model = Scalars(scale=150.0)
    guide = LangevinGuide(model, series, steps=40, hot_until=0.0, step_size=0.5)
    order = torch.randperm(6) if whole else torch.tensor([5, 2])
    trace = poutine.trace(guide).get_trace(series.batch(order))
    assert torch.allclose(trace.nodes["z0"]["value"], values.flatten()[order], atol=3.0)
    assert torch.allclose(guide.chains.position[order, 0], values.flatten()[order], atol=3.0)


def test_a_first_visit_starts_from_the_prior() -> None:
    series, model = scalars(200), Scalars(loc=50.0, scale=1e-4)
    guide = LangevinGuide(model, series, steps=1, hot_until=0.0, step_size=1e-5)
    guide(series.batch(torch.arange(100)))
    assert torch.allclose(guide.chains.position[:100], torch.tensor(50.0), atol=0.01)
    assert not guide.chains.position[100:].any()
    with torch.no_grad():
        model.loc.fill_(-50.0)
    guide(series)
    assert bool((guide.chains.position[:100] > 40).all())
    assert bool((guide.chains.position[100:] < -40).all())
    guide.restart = True
    guide(series)
    assert bool((guide.chains.position < -40).all())


def test_hot_adjusted_and_unadjusted_steps() -> None:
    series, model = scalars(100), Scalars()
    guide = LangevinGuide(model, series, steps=1, hot_until=0.3, strength=0.5, step_size=0.9)
    for progress, hot in ((0.0, True), (0.29, True), (0.3, False), (1.0, False)):
        guide.schedule(progress)
        assert guide.hot == hot
    assert LangevinGuide(model, series).hot is False  # under plain SVI: adjusted throughout
    guide.schedule(0.0)
    guide(series)
    assert bool(guide.chains.acceptance.isnan())  # nothing was accepted or rejected
    guide.schedule(1.0)
    before = guide.chains.position.clone()
    guide(series)
    rejected = (guide.chains.position == before).float().mean()
    assert 0.05 < rejected < 0.9 and 0 < guide.statistics()["acceptance"] < 1
    guide.adjusted = False
    before = guide.chains.position.clone()
    guide(series)
    assert bool((guide.chains.position != before).all())


def test_a_program_may_subsample_by_itself() -> None:
    x = 100.0 * torch.arange(10.0)

    def model(x: Tensor) -> None:
        with pyro.plate("n", 10, subsample_size=4) as index:
            z = pyro.sample("z", dist.Normal(0.0, 1e3))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[index])

    guide = LangevinGuide(model, x, steps=40, hot_until=0.0, step_size=0.5)
    for _ in range(12):
        trace = poutine.trace(guide).get_trace(x)
        replayed: Any = poutine.trace(poutine.replay(model, trace)).get_trace(x).nodes
        index = replayed["n"]["value"]
        assert len(index) == 4 and torch.allclose(replayed["z"]["value"], x[index], atol=6.0)
    seen = guide.chains.visited
    assert seen.sum() > 6
    assert torch.allclose(guide.chains.position[seen, 0], x[seen], atol=6.0)


def test_a_draw_is_where_the_chains_stand() -> None:
    def model(x: Tensor, total: int = 5, index: Tensor | None = None) -> None:
        with pyro.plate("n", total, subsample=index):
            rate = pyro.sample("rate", dist.Gamma(2.0, 2.0))
            pyro.sample("x", dist.Exponential(rate), obs=x)

    guide = LangevinGuide(model, torch.ones(5))
    index = torch.tensor([3, 0])
    z = guide.draw(torch.ones(2), 5, index)
    assert z.shape == (2, 1) and not z.requires_grad
    assert torch.allclose(z, guide.chains.position[index], atol=1e-4)


# Structures of programs


class School(PyroModule):
    """mu ~ N(0, 1), z_n ~ N(mu, 1), x_n ~ N(z_n, 1)."""

    def forward(self, x: Tensor, total: int | None = None, index: Tensor | None = None) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("n", total or len(x), subsample=index):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class Level(PyroModule):
    """The latent site comes before the plate of the data."""

    def forward(self, x: Tensor, total: int | None = None, index: Tensor | None = None) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("n", total or len(x), subsample=index):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


@pytest.mark.parametrize("restart", [False, True])
def test_a_global_site_makes_one_element_of_all(restart: bool) -> None:
    x, model = torch.tensor([3.0, 4.0, 5.0]), School()
    guide = LangevinGuide(model, x, hot_until=0.0, step_size=0.5, steps=5, restart=restart)
    assert guide.chains.position.shape == (1, 4)
    assert guide.chains.step_size.shape == (1,)
    draws = []
    for step in range(300):
        before = guide.chains.position.clone()
        trace = poutine.trace(guide).get_trace(x)
        assert trace.nodes["mu"]["value"].shape == () and trace.nodes["z"]["value"].shape == (3,)
        poutine.trace(poutine.replay(model, trace)).get_trace(x).compute_log_prob()
        moved = (guide.chains.position != before).flatten()
        assert bool(moved.all() or not moved.any())  # accepted or rejected as one
        if step >= 20:
            draws.append(guide.chains.position[0, 0].clone())
    if not restart:  # mu given x: precision 1 + 3/2; 100 effective draws at least, five errors
        assert torch.stack(draws).mean() == pytest.approx(6.0 / 2.5, abs=5 * 0.063)


@pytest.mark.parametrize("model", [School(), Level()])
def test_a_minibatch_of_coupled_elements_is_refused(model: nn.Module) -> None:
    x = torch.arange(6.0)
    guide = LangevinGuide(model, x)
    guide(x)
    before = guide.chains.training_state()
    with pytest.raises(ValueError, match=r"model: expected no minibatch in plates \['n'\]: a late"):
        guide(x[:2], 6, torch.tensor([0, 1]))
    assert torch.equal(guide.chains.position, before["position"])


def test_several_constrained_sites_in_nested_plates() -> None:
    # Copies in plate "a": chains apart, one posterior for each three columns.
    x = torch.tensor([[0.5, 2.0, 4.0], [1.0, 1.5, 0.2]]).repeat(1, 300)

    def model(x: Tensor) -> None:
        with pyro.plate("a", 900, dim=-1), pyro.plate("b", 2, dim=-2):
            rate = pyro.sample("rate", dist.Gamma(2.0, 2.0))
            weight = pyro.sample("weight", dist.Dirichlet(torch.ones(3)))
            pyro.sample("x", dist.Exponential(rate), obs=x)
            pyro.sample("k", dist.Normal(weight[..., 0], 0.1), obs=x * 0 + 0.5)

    guide = LangevinGuide(model, x, hot_until=0.0, steps=10, step_size=0.5)
    assert guide.chains.position.shape == (2, 900, 3)
    for _ in range(8):
        trace = poutine.trace(guide).get_trace(x)
    rate, weight = trace.nodes["rate"]["value"], trace.nodes["weight"]["value"]
    assert rate.shape == (2, 900) and bool((rate > 0).all())
    assert weight.shape == (2, 900, 3) and torch.allclose(weight.sum(-1), torch.ones(2, 900))
    exact = dist.Gamma(3.0, 2.0 + x)
    residual = ((rate - exact.mean) / exact.stddev).reshape(2, 300, 3)
    # 300 independent draws of each of six posteriors: five standard errors. Without the transform's
    # Jacobian the mean would be off by .58 standard deviations.
    assert bool((residual.mean(1).abs() < 5 / 300**0.5).all())
    # A Dirichlet(1, 1, 1)'s first weight near .5: its density falls as 1 - w.
    w = torch.linspace(0, 1, 1001)
    mass = (1 - w) * torch.exp(-0.5 * ((w - 0.5) / 0.1) ** 2)
    assert weight[..., 0].mean() == pytest.approx(float((mass * w).sum() / mass.sum()), abs=0.012)


def test_a_plate_of_particles_is_refused() -> None:
    series, model = scalars(4), Scalars()
    guide = LangevinGuide(model, series)
    many = Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1)
    with pytest.raises(ValueError, match=r"expected no plate around a sampling guide, got \['num"):
        SVI(model, guide, adam(0.1), many).step(series)
    SVI(model, guide, adam(0.1), Trace_ELBO(num_particles=2)).step(series)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"step_size": 0.0}, "step_size: expected a positive number, got 0.0"),
        ({"step_size": -1.0}, "step_size: expected a positive number, got -1.0"),
        ({"hot_until": 1.5}, "hot_until: expected a share between 0 and 1, got 1.5"),
        ({"strength": 0.0}, "strength: expected a positive number, got 0.0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LangevinGuide(Scalars(), scalars(4), **options)


def test_programs_without_continuous_latents_are_refused() -> None:
    def discrete() -> None:
        pyro.sample("k", dist.Bernoulli(0.5))

    with pytest.raises(ValueError, match="site 'k': expected a continuous latent, got Bernoulli"):
        LangevinGuide(discrete)
    with pytest.raises(ValueError, match="model: expected at least one latent sample site"):
        LangevinGuide(lambda: None)
