"""The guide of stepwise models: exact where that is known, what it may see, what it refuses."""

from __future__ import annotations

from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.distributions import kl_divergence

import linear_gaussian as known
from leaky import Leaky, walks
from pyro_lebm.inference import PathEncoder, PathGuide, fit, posterior_predict
from pyro_lebm.models import (
    DiffusionProcess,
    GaussianEmission,
    LangevinFlow,
    RecurrentGenerator,
)
from pyro_lebm.series import Series

RATIOS = torch.tensor([0.1, 1.0, 10.0])


def still() -> PyroOptim:
    """An optimiser that moves nothing."""
    return PyroOptim(torch.optim.Adam, {"lr": 0.0})


# Exactness


@pytest.mark.parametrize("look_ahead", [False, True])
def test_the_elbo_reaches_the_best_of_its_family(look_ahead: bool) -> None:
    torch.manual_seed(0)
    series, model = known.sequences(3000, RATIOS), known.LinearGaussian()
    guide = PathGuide(model, series, 32, look_ahead=look_ahead)
    fit(
        model,
        guide,
        series,
        max_steps=600,
        batch_size=300,
        learning_rate=0.02,
        final_rate=0.01,
        betas=(0.9, 0.99),
        progress=False,
        seed=0,
    )
    test = known.sequences(2000, RATIOS, seed=1)
    with torch.no_grad():
        elbo = torch.stack([bound(model, guide, test) for _ in range(4)]).mean(0)
    gap = ((known.evidence(test) - elbo) / known.STEPS).reshape(3, -1)
    exact = [known.exact_bound(r) for r in RATIOS.tolist()]
    best = exact if look_ahead else [known.filter_bound(r) for r in RATIOS.tolist()]
    wanted = (torch.tensor(exact) - torch.tensor(best)) / known.STEPS
    # The standard errors are below .003 nat a step.
    assert torch.allclose(gap.mean(1).float(), wanted, atol=0.02)
    error = gap.std(1) / gap.shape[1] ** 0.5
    assert bool((gap.mean(1) > -4 * error).all())  # below the evidence; 3 in 10^5 by chance
    if not look_ahead:  # the bounds differ by more than the tolerance, so that they can be told
        assert bool((gap.mean(1)[1:] > 0.02).all())


def bound(model: Any, guide: PathGuide, series: Series) -> Tensor:
    """The ELBO of each sequence, its divergences in closed form."""
    drawn = poutine.trace(guide).get_trace(series)
    trace = poutine.trace(poutine.replay(model, drawn)).get_trace(series)
    trace.compute_log_prob()
    apart = [
        kl_divergence(drawn.nodes[name]["fn"], trace.nodes[name]["fn"]) for name in ("z0", "noise")
    ]
    found: Tensor = trace.nodes["x"]["log_prob"] - sum(apart)
    return found


def test_the_divergence_is_that_of_the_densities() -> None:
    torch.manual_seed(0)
    series, model = walks(2), Leaky()
    guide = PathGuide(model, series)
    nn.init.normal_(guide.last.weight, std=0.3)
    apart, ratio = [], []
    for _ in range(2000):
        with torch.no_grad():
            drawn = poutine.trace(guide).get_trace(series).nodes["noise"]
        q, e = drawn["fn"], drawn["value"]
        prior = -0.5 * (e * e + torch.log(torch.tensor(2 * torch.pi))).sum((-1, -2))
        apart.append(q.divergence())
        ratio.append(q.log_prob(e) - prior)
    assert torch.allclose(q.log_prob(e.clone()), q.log_prob(e), rtol=1e-4)
    difference = torch.stack(apart) - torch.stack(ratio)
    error = difference.std(0) / len(apart) ** 0.5
    assert bool((difference.mean(0).abs() < 4.5 * error).all())  # 1 in 70,000 by chance
    assert bool((torch.stack(apart).mean(0) > 10 * error).all())


def test_a_plain_elbo_has_the_same_gradient() -> None:
    torch.manual_seed(0)
    series, found = walks(3), []
    model = Leaky()
    guide = PathGuide(model, series)
    for elbo in (Trace_ELBO(300, vectorize_particles=True, max_plate_nesting=1), PathGuide.elbo()):
        model.zero_grad()
        guide.zero_grad()
        repeats = 1 if elbo.num_particles > 1 else 300
        for _ in range(repeats):
            SVI(model, guide, PyroOptim(torch.optim.Adam, {"lr": 0.0}), elbo).loss_and_grads(
                model, guide, series
            )
        assert model.kept.grad is not None
        found.append(float(model.kept.grad) / repeats)
    # one draw's gradient varies by some 4; the estimates are of 300 draws each
    assert found[0] == pytest.approx(found[1], abs=4.5 * 4 * (2 / 300) ** 0.5)


# What it may see


@pytest.mark.parametrize(("history", "look_ahead"), [(h, a) for h in (0, 1) for a in (0, 1)])
def test_features_hang_on_no_more_than_they_may(history: bool, look_ahead: bool) -> None:
    series = Series(torch.arange(5.0), torch.randn(1, 5, 1))
    encoder = PathEncoder(1, 4, history=history, look_ahead=look_ahead)

    def features(values: Tensor) -> Tensor:
        found: Tensor = encoder(Series(series.times, values))[0, 2]
        return found

    slopes = torch.func.jacrev(features)(series.values)[:, 0, :, 0].abs().sum(0)
    assert bool(slopes[2] > 0)
    assert bool((slopes[:2] > 0).all()) == bool(history) == bool((slopes[:2] > 0).any())
    assert bool((slopes[3:] > 0).all()) == bool(look_ahead) == bool((slopes[3:] > 0).any())


def noise_of(guide: Any, series: Series) -> Any:
    """The guide's distribution of the noise."""
    nodes: dict[str, Any] = dict(poutine.trace(guide).get_trace(series).nodes)
    return nodes["noise"]["fn"]


def test_a_hidden_end_is_left_to_the_prior() -> None:
    torch.manual_seed(0)
    series = walks(4, 6, hidden=2)
    short = Series(series.times[:, :4], series.values[:, :4], series.mask[:, :4])
    guide = PathGuide(Leaky(), series)
    nn.init.normal_(guide.last.weight)
    q, p = (
        noise_of(poutine.condition(guide, {"z0": torch.ones(4, 2)}), data)
        for data in (series, short)
    )
    e = torch.randn(4, 5, 2)
    free = torch.distributions.Normal(0.0, 1.0).log_prob(e[:, 3:]).sum((-1, -2))
    assert torch.allclose(q.log_prob(e), p.log_prob(e[:, :3]) + free, rtol=1e-5)


@pytest.mark.parametrize("hidden", [torch.nan, 1e30])
def test_hidden_values_never_matter(hidden: float) -> None:
    torch.manual_seed(0)
    series = walks()
    other = Series(series.times, torch.where(series.mask, series.values, hidden), series.mask)
    guide = PathGuide(Leaky(), series)
    assert torch.equal(guide.encode(series).loc, guide.encode(other).loc)


@pytest.mark.parametrize(("history", "parts"), [(True, 2), (False, 1)])
def test_without_history_alone_a_guide_is_markovian(history: bool, parts: int) -> None:
    guide = PathGuide(Leaky(), walks(), 8, history=history)
    assert guide.encoder.features == 8 * parts and (guide.encoder.future is not None) == history


# Training


def test_a_path_is_walked_once_in_a_step_of_training() -> None:
    torch.manual_seed(0)
    series, model = walks(length=6), Leaky()
    guide = PathGuide(model, series)
    svi = SVI(model, guide, still(), guide.elbo())
    model.steps = 0
    svi.loss_and_grads(model, guide, series)
    assert model.steps == 5 and model.kept.grad is not None


@pytest.mark.parametrize("changed", ["weights", "buffers", "times", "noise"])
def test_a_path_is_walked_anew_where_anything_has_changed(changed: str) -> None:
    torch.manual_seed(0)
    series, model = walks(length=6), Leaky()
    if changed == "buffers":  # such as a friction that is not learned
        model = LangevinFlow(2, 1, emission=GaussianEmission(4, 1))
    drawn = poutine.trace(PathGuide(model, series)).get_trace(series)
    values = {name: drawn.nodes[name]["value"] for name in ("z0", "noise")}
    if changed == "weights":
        with torch.no_grad():
            model.kept.mul_(0.5)
    if changed == "buffers":
        model.flow.free_friction.add_(1.0)
    if changed == "times":
        series = Series(2 * series.times, series.values, series.mask)
    if changed == "noise":
        values["noise"] = values["noise"] + 1
    gaps = series.times.diff(dim=-1)
    for _ in range(2):
        found = poutine.condition(model, values)(series)
        assert torch.equal(found, model.path(*values.values(), gaps))
    del drawn
    assert not torch.equal(found, model.path(*values.values(), 2 * gaps))


def test_plain_svi_trains_the_steps_too() -> None:
    torch.manual_seed(0)
    series = walks()
    for model in (Leaky(), DiffusionProcess(2, 1, hidden=(8,)), RecurrentGenerator(2, 1)):
        pyro.clear_param_store()
        guide = PathGuide(model, series)
        both = {n: p for m in (model, guide) for n, p in m.named_parameters()}
        before = {name: p.detach().clone() for name, p in both.items()}
        svi = SVI(model, guide, PyroOptim(torch.optim.Adam, {"lr": 0.01}), guide.elbo())
        for _ in range(2):
            svi.step(series)
        assert [name for name, p in both.items() if torch.equal(p, before[name])] == []
        assert all(p.grad is None or not bool(p.grad.any()) for p in both.values())


class Watched(Leaky):
    """Notes what it is scored on."""

    def forward(self, series: Series | None = None, **kwargs: Any) -> Tensor:
        if series is not None and self.training:
            self.scored = series
        found: Tensor = super().forward(series, **kwargs)
        return found


def test_dropped_entries_alone_are_scored_and_count_for_all() -> None:
    torch.manual_seed(0)
    series, model = walks(200), Watched()
    guide = PathGuide(model, series, dropout=0.25)
    given, scored, weight = guide.offered(series)
    assert torch.equal(given.mask | scored.mask, series.mask)
    assert not bool((given.mask & scored.mask).any())
    # 840 entries or so: five standard errors are .075
    share = float(scored.mask.sum() / series.mask.sum())
    assert share == pytest.approx(0.25, abs=0.075) and weight == 4.0
    history = fit(model, guide, series, max_steps=2, batch_size=200, progress=False, seed=0)
    assert 0 < int(model.scored.mask.sum()) < 0.4 * int(series.mask.sum())
    plain = PathGuide(model, series)
    whole = fit(model, plain, series, max_steps=2, batch_size=200, progress=False, seed=0)
    # the likelihood of a quarter counts four times; unweighted it would be a quarter
    assert history.last["loss"] == pytest.approx(whole.last["loss"], rel=0.35)


def test_a_view_is_for_the_encoder_alone() -> None:
    series, model = walks(20), Watched()
    guide = PathGuide(model, series, view=lambda batch: batch.hide(1))
    told: list[Series] = []
    guide.encoder.register_forward_pre_hook(lambda _, args: told.append(args[0]))
    fit(model, guide, series, max_steps=1, progress=False)
    assert torch.equal(model.scored.mask, series.mask)
    assert all(int(x.mask.sum()) == 20 for x in told) and len(told) > 1
    guide.posterior(series, draws=2)
    assert torch.equal(told[-1].mask, series.mask)
    with pytest.raises(ValueError, match="view: expected the same times, with entries hidden"):
        PathGuide(model, series, view=lambda batch: batch.cut(0.5))(series)


# Shapes


@pytest.mark.parametrize(("length", "shared"), [(1, False), (4, True), (4, False)])
def test_draws_and_predictions(length: int, shared: bool) -> None:
    series, model = walks(3, length, shared=shared), Leaky()
    guide = PathGuide(model, series)
    draws = guide.posterior(series, draws=7)
    shapes = {name: tuple(value.shape) for name, value in draws.samples.items()}
    noise = {} if length == 1 else {"noise": (1, 7, 3, length - 1, 2)}
    assert shapes == {"z0": (1, 7, 3, 2)} | noise
    assert posterior_predict(model, draws, series).shape == (1, 7, 3, length, 1)
    if length > 1:
        fit(model, guide, series, max_steps=1, progress=False)


def test_draws_belong_to_their_times() -> None:
    series, model = walks(3, 4), Leaky()
    draws = PathGuide(model, series).posterior(series, draws=2)
    posterior_predict(model, draws, series, series.times)
    for times in (series.times + torch.tensor([0, 0, 0, 1.0]), series.times[:, :3]):
        with pytest.raises(ValueError, match="times: expected the times that the draws are of"):
            posterior_predict(model, draws, series, times)
