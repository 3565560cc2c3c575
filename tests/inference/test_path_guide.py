"""The guide of stepwise models: exact where that is known, what it may see, what it refuses."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.distributions import kl_divergence

import linear_gaussian as known
from pyro_lebm.inference import EncoderGuide, PathEncoder, PathGuide, fit, posterior_predict
from pyro_lebm.models import GaussianEmission, LatentODE
from pyro_lebm.models.stepwise import StepwiseModel
from pyro_lebm.series import Series

RATIOS = torch.tensor([0.1, 1.0, 10.0])


class Leaky(StepwiseModel):  # type: ignore[misc]
    """A state that leaks, driven by noise that grows with the gap."""

    def __init__(self, **options: Any) -> None:
        super().__init__(2, 1, 2, prior=None, emission=GaussianEmission(2, 1), **options)
        self.kept = nn.Parameter(torch.tensor(0.9))
        self.steps = 0

    def step(self, z: Tensor, gap: Tensor, noise: Tensor, u: Tensor | None = None) -> Tensor:
        self.steps += 1
        moved = self.kept * z + gap * noise
        return moved if u is None else moved + u


def walks(n: int = 5, length: int = 6, *, shared: bool = False, hidden: int = 0) -> Series:
    """Values with some entries hidden, and the last ``hidden`` of each sequence."""
    times = torch.rand((length,) if shared else (n, length)).cumsum(-1)
    mask = torch.rand(n, length, 1) > 0.3
    mask[:, 0], mask[:, length - hidden :] = True, False
    return Series(times, torch.where(mask, torch.randn(n, length, 1), torch.nan))


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
    drawn = poutine.trace(guide).get_trace(series)
    values = {name: drawn.nodes[name]["value"] for name in ("z0", "noise")}
    known_path = model.path(values["z0"], values["noise"], series.times.diff(dim=-1))
    again = model.path(values["z0"].clone(), values["noise"], series.times.diff(dim=-1))
    assert torch.equal(known_path, again)


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
    assert guide.offered(series).given.mask.sum() == 20
    fit(model, guide, series, max_steps=1, progress=False)
    assert torch.equal(model.scored.mask, series.mask)


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
        with pytest.raises(ValueError, match="times: expected those of series, as each step"):
            posterior_predict(model, draws, series, times)


# Bad input


class Broken(nn.Module):
    features = 3

    def forward(self, series: Series) -> Tensor:
        return torch.zeros(len(series), 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, "dropout: expected a share from 0 to below 1, got 1.0"),
        ({"dropout": 0.1, "view": lambda s: s}, "dropout, view: expected one of the two"),
        ({"training": "adversarial"}, "training: expected 'samples' or 'diffusion', got 'advers"),
        ({"training": "diffusion"}, "model: expected ['bridge', 'retrace'], which Leaky does not"),
        ({"unit": 0.0}, "unit: expected a positive number, got 0.0"),
        ({"hidden": 0}, "hidden: expected at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        PathGuide(Leaky(), walks(), **options)


def test_other_models_and_series_are_refused() -> None:
    series = walks(shared=True)
    with pytest.raises(ValueError, match=re.escape("model: expected ['noise', 'step'], which")):
        PathGuide(LatentODE(2, 1), series)
    guide = PathGuide(Leaky(), series)
    with pytest.raises(ValueError, match="series: expected 1 observed features and 0 covariates"):
        guide.encode(Series(series.times, torch.zeros(5, 6, 2)))
    with pytest.raises(
        ValueError, match=re.escape("encoder: expected shape (5, 6, 3), got (5, 3)")
    ):
        PathGuide(Leaky(), series, encoder=Broken()).encode(series)
    with pytest.raises(TypeError, match="posterior: a guide's own draws take no options"):
        guide.posterior(series, steps=3)


def test_an_encoder_of_the_whole_noise_serves_too() -> None:
    series, model = walks(), Leaky()
    guide = EncoderGuide(model, series)
    fit(model, guide, series, max_steps=1, progress=False)
    assert guide.posterior(series, draws=2)["noise"].shape == (1, 2, 5, 5, 2)
