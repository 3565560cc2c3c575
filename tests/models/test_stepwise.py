"""What all models whose states go step by step have in common."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import PyroOptim
from torch import Tensor, nn

from pyro_lebm.checkpoint import CheckpointError
from pyro_lebm.energy import MLPEnergy
from pyro_lebm.models import (
    BernoulliEmission,
    GaussianEmission,
    LangevinFlow,
    MixedEmission,
    PoissonEmission,
    RecurrentGenerator,
    TransformerEmission,
)
from pyro_lebm.models.stepwise import StepwiseModel
from pyro_lebm.prior import EnergyPrior
from pyro_lebm.programs.potential import potential
from pyro_lebm.series import Series

STATE = 4


def flow(observed: int, **options: Any) -> StepwiseModel:
    return LangevinFlow(STATE // 2, observed, **{"step_size": 0.3} | options)


def recurrent(observed: int, **options: Any) -> StepwiseModel:
    return RecurrentGenerator(STATE, observed, noise=3, **options)


# Each is called with the number of features, and takes a prior, an emission and covariates; its
# states have the size STATE.
MEMBERS: dict[str, Callable[..., StepwiseModel]] = {"flow": flow, "recurrent": recurrent}
EMISSIONS: dict[str, Callable[[int], nn.Module]] = {
    "gaussian": lambda d: GaussianEmission(STATE, d),
    "bernoulli": lambda d: BernoulliEmission(STATE, d),
    "attentive": lambda d: TransformerEmission(PoissonEmission(STATE, d), STATE, width=16),
    "mixed": lambda d: MixedEmission(
        [PoissonEmission(STATE, d - 1), GaussianEmission(STATE, 1, scale=0.3)]
    ),
}
every_member = pytest.mark.parametrize("member", MEMBERS.values(), ids=MEMBERS)
every_emission = pytest.mark.parametrize("emission", EMISSIONS.values(), ids=EMISSIONS)


def counts(n: int = 5, length: int = 4, *, shared: bool = True, covariates: int = 0) -> Series:
    """Zeros and ones of two features with hidden entries: fit for every emission."""
    times = torch.rand((length,) if shared else (n, length)).cumsum(-1)
    values = torch.randint(0, 2, (n, length, 2)).float()
    mask = torch.rand(n, length, 2) > 0.3
    mask[:, 0] = True
    u = torch.randn(n, length, covariates) if covariates else None
    return Series(times, torch.where(mask, values, torch.nan), covariates=u)


def drawn(model: StepwiseModel, series: Series, *shape: int) -> dict[str, Tensor]:
    """Values for the latent sites."""
    steps = series.length - 1
    like = series.values
    z0 = torch.randn(*shape, len(series), model.state).to(like)
    noise = torch.randn(*shape, len(series), steps, model.noise).to(like)
    return {"z0": z0, "noise": noise} if steps else {"z0": z0}


def scored(model: nn.Module, series: Series, data: dict[str, Tensor]) -> Any:
    """The model's trace at these latents."""
    trace = poutine.trace(poutine.condition(model, data=data)).get_trace(series)
    trace.compute_log_prob()
    return trace


# Sites


@pytest.mark.parametrize("prior", ["gaussian", "energy"])
@pytest.mark.parametrize(("length", "shared"), [(4, True), (4, False), (1, True)])
@every_emission
@every_member
def test_sites_plates_and_shapes(
    member: Any, emission: Any, length: int, shared: bool, prior: str
) -> None:
    energy = EnergyPrior(MLPEnergy(STATE), STATE, num_chains=8) if prior == "energy" else None
    model = member(2, prior=energy, emission=emission(2))
    assert model.state == STATE
    batch = counts(length=length, shared=shared).batch([4, 1])
    trace = poutine.trace(model).get_trace(batch)
    trace.compute_log_prob()
    sites = {n: s for n, s in trace.nodes.items() if s["type"] == "sample" and n != "sequences"}
    shapes = {"z0": (2, STATE), "noise": (2, length - 1, model.noise), "x": (2, length, 2)}
    if length == 1:
        del shapes["noise"]
    assert {n: tuple(s["value"].shape) for n, s in sites.items()} == shapes
    assert [n for n, s in sites.items() if s["is_observed"]] == ["x"]
    for site in sites.values():
        assert site["fn"].batch_shape == site["log_prob"].shape == (2,)
        (frame,) = site["cond_indep_stack"]
        assert (frame.name, frame.dim, frame.size, frame.full_size) == ("sequences", -1, 2, 5)
        assert site["scale"] == 5 / 2
    assert trace.nodes["_RETURN"]["value"].shape == (2, length, STATE)


@every_emission
@every_member
def test_a_plate_of_particles_goes_through(member: Any, emission: Any) -> None:
    model, series = member(2, emission=emission(2)), counts(3, shared=False)
    data = drawn(model, series, 6)
    with pyro.plate("particles", 6, dim=-2):
        many = scored(model, series, data).nodes["x"]["log_prob"]
    each = [{n: value[i] for n, value in data.items()} for i in range(6)]
    alone = torch.stack([scored(model, series, one).nodes["x"]["log_prob"] for one in each])
    assert many.shape == (6, 3)
    assert torch.allclose(many, alone, rtol=1e-4)


# What is observed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shared", [True, False])
@every_emission
@every_member
def test_the_density_is_that_of_steps_one_by_one(
    member: Any, emission: Any, shared: bool, dtype: torch.dtype
) -> None:
    model = member(2, emission=emission(2), covariates=1).to(dtype)
    series = counts(shared=shared, covariates=1).to(dtype=dtype)
    data = drawn(model, series)
    assert series.covariates is not None
    for i in range(len(series)):
        times = series.times if shared else series.times[i]
        states = [data["z0"][i]]
        for k in range(1, series.length):
            gap, u = times[k : k + 1] - times[k - 1 : k], series.covariates[i, k]
            states.append(model.step(states[-1], gap, data["noise"][i, k - 1], u))
        each = model.emission(torch.stack(states)).log_prob(series.filled[i])
        exact = each[series.mask[i]].sum()
        nodes = scored(model, series, data).nodes
        found = nodes["x"]["log_prob"][i]
        assert found.dtype == dtype
        assert torch.allclose(found, exact, rtol=1e-4 if dtype == torch.float32 else 1e-10)
    normal = dist.Normal(0.0, 1.0).log_prob(data["noise"]).sum((-1, -2))
    assert torch.allclose(nodes["noise"]["log_prob"], normal)


@pytest.mark.parametrize("hidden", [torch.nan, torch.inf, -1e30, 7.0])
@every_emission
@every_member
def test_hidden_values_never_matter(member: Any, emission: Any, hidden: float) -> None:
    model, series = member(2, emission=emission(2)), counts()
    other = Series(series.times, torch.where(series.mask, series.values, hidden), series.mask)
    data = drawn(model, series)
    found = []
    for each in (series, other):
        model.zero_grad()
        leaves = {n: value.clone().requires_grad_(True) for n, value in data.items()}
        trace = scored(model, each, leaves)
        trace.log_prob_sum().backward()
        grads = [p.grad for p in [*leaves.values(), *model.parameters()]]
        assert all(g is None or bool(torch.isfinite(g).all()) for g in grads)
        kept = [g for g in grads if g is not None]
        found.append([trace.nodes["x"]["log_prob"].detach(), *kept])
    assert len(found[0]) > 4
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@every_member
def test_a_padded_tail_is_not_seen(member: Any) -> None:
    long = (torch.tensor([0.0, 0.4, 1.5, 1.7]), torch.ones(4, 2))
    short = (long[0][:2], long[1][:2])
    model = member(2, emission=EMISSIONS["gaussian"](2))
    padded = Series.from_list([short, long])
    data = {n: v.requires_grad_(True) for n, v in drawn(model, padded).items()}
    site = scored(model, padded, data).nodes["x"]
    alone = {"z0": data["z0"][:1], "noise": data["noise"][:1, :1]}
    exact = scored(model, Series.from_list([short]), alone).nodes["x"]["log_prob"]
    assert torch.allclose(site["log_prob"][:1], exact)
    site["log_prob"].sum().backward()
    grad = data["noise"].grad
    assert grad is not None and bool(torch.isfinite(grad).all())
    assert not grad[0, 1:].any() and bool(grad[0, 0].any())


@every_emission
@every_member
def test_sequences_do_not_meet(member: Any, emission: Any) -> None:
    series = counts(4, 5, shared=False)
    model = member(2, emission=emission(2))
    data = drawn(model, series)
    together = scored(model, series, data).nodes["x"]["log_prob"]
    parts = [{n: v[i : i + 1] for n, v in data.items()} for i in range(4)]
    alone = [scored(model, series[i], parts[i]).nodes["x"]["log_prob"] for i in range(4)]
    assert torch.allclose(together, torch.cat(alone), rtol=1e-4)


@every_member
def test_covariates_gaps_and_noise_drive_the_steps(member: Any) -> None:
    model, series = member(2, covariates=2), counts(length=6, covariates=2)
    data = drawn(model, series)
    gaps, u = series.times.diff(), series.covariates
    assert u is not None
    path = model.path(data["z0"], data["noise"], gaps, u)
    first = model.path(data["z0"], data["noise"], gaps, u + torch.eye(6)[0, :, None])
    assert torch.equal(path, first)  # the first state is the prior's
    at = torch.eye(6)[2, :, None]
    changes = [
        model.path(data["z0"], data["noise"], gaps, u + at),
        model.path(data["z0"], data["noise"] + torch.eye(5)[1, :, None], gaps, u),
        model.path(data["z0"], data["noise"], gaps + 0.2 * torch.eye(5)[1], u),
    ]
    for other in changes:
        assert torch.equal(path[:, :2], other[:, :2])
        assert bool((path[:, 2:] != other[:, 2:]).any(-1).all())
    with pytest.raises(ValueError, match="covariates: expected 2 of them, got 0"):
        model(times=series.times, n=5)
    with pytest.raises(ValueError, match="covariates: expected 0 of them, got 2"):
        member(2)(series)
    assert model.generate(5, series.times, u).shape == (5, 6, 2)


@every_emission
@every_member
def test_chains_mapped_and_one_by_one_agree(member: Any, emission: Any) -> None:
    model, series = member(2, emission=emission(2)).double(), counts(3).to(dtype=torch.float64)
    density = potential(partial(model, series), strategy="vmap")
    z = torch.randn(7, density.dim, dtype=torch.float64, requires_grad=True)
    mapped = density(z)
    (slope,) = torch.autograd.grad(mapped.sum(), z)
    one = torch.stack([density.single(point) for point in z])
    (exact,) = torch.autograd.grad(one.sum(), z)
    assert torch.allclose(mapped, one, rtol=1e-10) and torch.allclose(slope, exact, rtol=1e-8)


# Generating, fitting


@every_emission
@every_member
def test_generated_sequences(member: Any, emission: Any) -> None:
    model = member(2, emission=emission(2))
    x = model.generate(3, torch.tensor([0.0, 0.4, 3.0]))
    assert x.shape == (3, 3, 2) and bool(torch.isfinite(x).all())
    own = torch.rand(3, 5).cumsum(-1)
    assert model.double().generate(3, own.double()).dtype == torch.float64
    assert model.generate(2, torch.zeros(1)).shape == (2, 1, 2)
    fresh = Predictive(model, num_samples=4)(times=torch.arange(6.0), n=3)
    assert fresh["z0"].shape == (4, 3, STATE) and fresh["x_new"].shape == (4, 3, 6, 2)
    assert fresh["noise"].shape == (4, 3, 5, model.noise)


@pytest.mark.parametrize("elbo", [Trace_ELBO(), TraceMeanField_ELBO()])
@every_member
def test_an_energy_prior_and_every_weight_train(member: Any, elbo: Any) -> None:
    energy = MLPEnergy(STATE, (8,))
    with torch.no_grad():
        energy.net[-1].weight.normal_()  # type: ignore[operator]
    prior = EnergyPrior(energy, STATE, num_chains=16)
    emission = EMISSIONS["attentive"](2)
    model = member(2, prior=prior, emission=emission, covariates=1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    series = counts(length=6, covariates=1)
    guide = AutoNormal(poutine.block(model, hide_types=["param"]))
    svi = SVI(model, guide, PyroOptim(torch.optim.Adam, {"lr": 1e-2}), elbo)
    svi.step(series)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == set(before) - {"prior.energy.net.2.bias"}  # a constant changes no density


# Saving


@every_member
def test_a_saved_model_comes_back(member: Any, tmp_path: Path) -> None:
    model, other = member(2, covariates=1), member(2, covariates=1)
    series = counts(covariates=1)
    data = drawn(model, series)
    model.save(tmp_path / "model.pt")
    found = [scored(m, series, data).nodes["x"]["log_prob"] for m in (model, other)]
    assert not torch.equal(*found)
    again = scored(other.load(tmp_path / "model.pt"), series, data).nodes["x"]["log_prob"]
    assert torch.equal(again, found[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit": 2.0}, "dynamics: expected .*, got "),
        ({"covariates": 1}, "another model"),
        ({"emission": EMISSIONS["bernoulli"](2)}, "another model"),
    ],
)
@every_member
def test_another_model_is_refused(
    member: Any, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    emission = EMISSIONS["gaussian"](2)
    member(2, emission=emission).save(tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=message):
        member(2, **{"emission": emission} | options).load(tmp_path / "model.pt")


# Bad inputs


@every_member
def test_bad_sizes_and_priors_are_refused(member: Any) -> None:
    with pytest.raises(ValueError, match="observed: expected a size of at least 1, got 0"):
        member(0)
    with pytest.raises(ValueError, match="covariates: expected 0 or more, got -1"):
        member(2, covariates=-1)
    with pytest.raises(ValueError, match=r"prior: expected event shape \(4,\), got \(3,\)"):
        member(2, prior=EnergyPrior(MLPEnergy(3), 3, num_chains=8))
    for unit in (0.0, -1.0, torch.inf, torch.nan):
        with pytest.raises(ValueError, match=f"unit: expected a positive number, got {unit}"):
            member(2, unit=unit)


@every_member
def test_bad_calls_are_refused(member: Any) -> None:
    model, series = member(2), counts()
    with pytest.raises(ValueError, match="series: expected a Series, or times and n"):
        model(times=series.times)
    with pytest.raises(ValueError, match="series: expected no times, n or covariates beside it"):
        model(series, times=series.times)
    with pytest.raises(ValueError, match="times: expected times that do not decrease"):
        model(times=torch.tensor([1.0, 0.0]), n=2)
    with pytest.raises(ValueError, match="n: expected at least 1, got 0"):
        model.generate(0, series.times)
    with pytest.raises(ValueError, match="series: expected 2 features an observation, got 1"):
        model(Series(torch.arange(3.0), torch.zeros(2, 3, 1)))
    with pytest.raises(ValueError, match=r"series: expected torch.float32 as the model is"):
        model(series.to(dtype=torch.float64))
    wrong = member(2, emission=GaussianEmission(STATE, 3))
    with pytest.raises(ValueError, match="emission: expected 2 features"):
        wrong(series)
