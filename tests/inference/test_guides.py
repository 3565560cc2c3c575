"""Encoder and refined guides: exact where they can be, shapes, structures, statistics."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import ELBO, SVI, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule
from pyro.optim import PyroOptim
from torch import Tensor, nn

import rotations
import scalars as known
from pyro_lebm.inference import EncoderGuide, LangevinGuide, ODERNNEncoder, RefinedGuide
from pyro_lebm.models import LatentODE
from pyro_lebm.series import Series
from scalars import Scalars, scalars

VECTORISED = {"vectorize_particles": True, "max_plate_nesting": 1}


class Linear(nn.Module):
    """mean = a x + b and one spread for all: enough for the exact posterior of `Scalars`."""

    def __init__(self, slope: float = 0.0, raw: float = 0.5) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))
        self.offset = nn.Parameter(torch.tensor(0.0))
        self.raw = nn.Parameter(torch.tensor(raw))

    def forward(self, series: Series) -> Tensor:
        loc = self.offset + self.slope * series.filled[:, 0, 0]
        return torch.stack([loc, self.raw.expand_as(loc)], -1)


class Logarithms(Scalars):
    """`Scalars` with exp(z) for the latent site."""

    def forward(self, series: Series) -> None:
        with pyro.plate("sequences", series.total, subsample=series.index):
            z = pyro.sample("z0", dist.LogNormal(self.loc, self.log_scale.exp()))
            x = dist.Normal(z.log()[..., None, None], known.SIGMA).to_event(2)
            pyro.sample("x", x, obs=series.filled)


def train(model: nn.Module, guide: nn.Module, series: Series, elbo: ELBO, steps: int) -> None:
    """Train the guide and hold the model."""

    def rates(name: str) -> dict[str, float]:
        return {"lr": 0.05 if "encoder" in name else 0.0}

    svi = SVI(model, guide, PyroOptim(torch.optim.Adam, rates), elbo)
    for _ in range(steps):
        svi.step(next(series.minibatches(100)))


def assert_exact(guide: EncoderGuide, series: Series) -> None:
    """The encoder's Gaussian is the posterior: root mean square of the means' error, and spread."""
    q = guide.encode(series)
    mean, sd = known.posterior(series, 0.5, 1.5)
    # The gradient's noise vanishes at the optimum; Adam's last steps leave .04 and .035 at most in
    # 18 runs of other seeds and rates.
    assert (q.loc[:, 0] - mean).square().mean().sqrt() < 0.08
    assert torch.allclose(q.scale, torch.tensor(sd), atol=0.06)


# The encoder


@pytest.mark.parametrize(
    ("model", "elbo"),
    [
        (Scalars, Trace_ELBO()),
        (Scalars, Trace_ELBO(num_particles=4, **VECTORISED)),
        (Scalars, TraceMeanField_ELBO()),
        (Logarithms, Trace_ELBO()),
    ],
)
def test_the_elbo_trains_an_encoder_to_the_exact_posterior(model: Any, elbo: ELBO) -> None:
    series, program = scalars(), model(0.5, 1.5)
    guide = EncoderGuide(program, series, Linear())
    train(program, guide, series, elbo, 200)
    assert_exact(guide, series)
    assert guide.loss_name == "negative ELBO" and guide.statistics() == {}


def test_a_refined_guides_encoder_goes_on_learning_its_own_elbo() -> None:
    series, model = scalars(), Scalars(0.5, 1.5)
    encoder = EncoderGuide(model, series, Linear())
    guide = RefinedGuide(encoder, steps=1, refine_from=0.0, step_size=0.5)
    train(model, guide, series, Trace_ELBO(), 200)
    assert_exact(encoder, series)


def test_the_encoders_loss_teaches_the_model_nothing() -> None:
    series, model = scalars(20), Scalars(0.5, 1.5)
    # An encoder far off, and no steps worth the name: the model sees the encoder's draws only.
    guide = RefinedGuide(
        EncoderGuide(model, series, Linear(raw=30.0)), steps=1, refine_from=0.0, step_size=1e-9
    )
    svi = SVI(model, guide, PyroOptim(torch.optim.Adam, {"lr": 0.0}), Trace_ELBO())
    svi.loss_and_grads(model, guide, series)
    found = model.loc.grad
    assert found is not None and guide.guide.encoder.raw.grad != 0
    z = guide.chains.position[:, 0]
    assert z.std() > 10  # where the encoder put them
    assert torch.allclose(found, -((z - 0.5) / 1.5**2).sum(), rtol=1e-4)


def test_vectorised_particles_are_different_draws() -> None:
    series = scalars(3)
    guide = EncoderGuide(Scalars(), series)
    with pyro.plate("particles", 5, dim=-2):
        z = poutine.trace(guide).get_trace(series).nodes["z0"]["value"]
    assert z.shape == (5, 3) and len(z.unique()) == 15


def test_an_encoder_of_the_wrong_size_is_refused() -> None:
    series, model = rotations.swings(3), rotations.rotating()
    guide = EncoderGuide(model, series, ODERNNEncoder(1, features=3))
    with pytest.raises(ValueError, match=r"encoder: expected shape \(3, 4\), got \(3, 3\)"):
        guide(series)
    with pytest.raises(ValueError, match=r"encoder: expected shape \(3, 4\), got \(3, 3\)"):
        guide.posterior(series)
    with pytest.raises(TypeError, match=r"draws take no options, got \['moves'\]"):
        EncoderGuide(model, series).posterior(series, moves=3)


def test_an_encoder_needs_one_plate_around_all_latent_sites() -> None:
    def model(series: Series) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("sequences", len(series)):
            pyro.sample("z", dist.Normal(mu, 1.0))

    with pytest.raises(ValueError, match=r"latent sites in one plate, .*got common plates \(\)"):
        EncoderGuide(model, scalars(3))


def test_each_site_gets_its_own_part_of_the_encoders_output() -> None:
    class Fixed(nn.Module):
        def forward(self, series: Series) -> Tensor:
            loc = 10.0 * torch.arange(len(series))[:, None] + torch.arange(6.0)
            return torch.cat([loc, torch.full_like(loc, -50.0)], -1)

    def model(series: Series) -> None:
        with pyro.plate("sequences", series.total, subsample=series.index, dim=-1):
            u = pyro.sample("u", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with pyro.plate("parts", 3, dim=-2):
                pyro.sample("v", dist.LogNormal(u[..., 0], 1.0))
            pyro.sample("w", dist.Normal(0.0, 1.0))

    series = scalars(4)
    guide = EncoderGuide(model, series, Fixed())
    trace = poutine.trace(guide).get_trace(series)
    u, v, w = (trace.nodes[name]["value"] for name in "uvw")
    tens = 10.0 * torch.arange(4)
    assert torch.allclose(u, tens[:, None] + torch.arange(2.0), atol=0.01)
    assert torch.allclose(v.log(), tens + torch.arange(2.0, 5.0)[:, None], atol=0.01)
    assert torch.allclose(w, tens + 5, atol=0.01)
    poutine.trace(poutine.replay(model, trace)).get_trace(series).compute_log_prob()
    # Draws are laid out by sequence: they have no place for the plate of parts.
    with pytest.raises(ValueError, match=r"in one plate, .*, got site 'v' in plates \('seq"):
        guide.posterior(series, draws=2)


def test_a_view_hides_from_the_encoder_in_training_alone() -> None:
    class Counting(nn.Module):
        seen = 0

        def forward(self, series: Series) -> Tensor:
            self.seen = int(series.mask.sum())
            return series.filled.new_zeros(len(series), 4)

    series = rotations.swings(3, hidden=0.0)
    encoder = Counting()
    guide = EncoderGuide(rotations.rotating(), series, encoder, view=lambda s: s.hide(keep=2))
    refined = RefinedGuide(guide, refine_from=0.0, steps=1)
    for program, options in ((guide, {}), (refined, {"start": "encoder"})):
        program(series)
        assert encoder.seen == 6
        program.posterior(series, draws=2, **options)
        assert encoder.seen == 18


def test_the_default_encoder_counts_time_from_the_models_t0() -> None:
    series = rotations.swings(3)
    late = Series(series.times + 2000.0, series.values)
    found = []
    for data, t0 in ((series, 0.0), (late, 2000.0)):
        torch.manual_seed(0)
        guide = EncoderGuide(LatentODE(2, 1, t0=t0), data)
        found.append(guide.encode(data).loc)
    assert torch.allclose(found[0], found[1], atol=1e-3)


# Refinement


def test_refinement_begins_when_the_schedule_says() -> None:
    series, model = scalars(5), Scalars()
    guide = RefinedGuide(EncoderGuide(model, series), refine_from=0.5, steps=1)
    assert guide.refining  # nobody schedules it: plain SVI refines throughout
    for progress, refining in ((0.0, False), (0.49, False), (0.5, True), (1.0, True)):
        guide.schedule(progress)
        trace = poutine.trace(guide).get_trace(series)
        assert ("encoder_loss" in trace.nodes) == refining
        assert isinstance(trace.nodes["z0"]["fn"], dist.Delta) == refining
        assert set(guide.statistics()) == ({"acceptance", "step_size"} if refining else set())
    many = Trace_ELBO(num_particles=2, **VECTORISED)
    svi = SVI(model, guide, PyroOptim(torch.optim.Adam, {"lr": 0.1}), many)
    with pytest.raises(ValueError, match="expected no plate around a sampling guide"):
        svi.step(series)
    guide.schedule(0.0)
    svi.step(series)


def test_refinement_moves_draws_to_the_posterior_and_keeps_step_sizes_by_sequence() -> None:
    series, model = scalars(400), Scalars(0.5, 1.5)
    mean, sd = known.posterior(series, 0.5, 1.5)
    encoder = EncoderGuide(model, series, Linear(slope=0.3, raw=2.0))
    guide = RefinedGuide(encoder, steps=8, refine_from=0.0, step_size=0.7)
    batch = series.batch(torch.arange(300))
    draws: list[Tensor] = []
    for _ in range(5):
        trace = poutine.trace(guide).get_trace(batch)
        draws.append((trace.nodes["z0"]["value"] - mean[:300]) / sd)
    assert not guide.chains.visited[300:].any() and bool(guide.chains.visited[:300].all())
    assert len(guide.chains.step_size[:300].unique()) > 100
    refined = torch.stack(draws[1:])
    q = encoder.encode(batch)
    off = ((q.loc[:, 0] - mean[:300]) / sd).square().mean().sqrt()
    # 1200 standard normals up to 8 steps' memory of a start 1.5 to 4 deviations off.
    assert off > 1.5 and q.scale.mean() / sd > 1.4
    assert abs(refined.mean()) < 0.15 and abs(refined.std() - 1) < 0.15
    before = guide.chains.training_state()
    guide.eval()
    guide(series)
    after = guide.chains.training_state()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any("chains" in name for name in guide.state_dict())


def test_a_stored_draw_gives_way_to_the_encoders_by_a_metropolis_step() -> None:
    series, model = scalars(400), Scalars(0.5, 1.5)
    mean, sd = known.posterior(series, 0.5, 1.5)
    # No Langevin steps worth the name: the encoder alone, off and too wide, must get it right.
    encoder = EncoderGuide(model, series, Linear(slope=0.3, raw=2.0))
    guide = RefinedGuide(encoder, steps=1, refine_from=0.0, step_size=1e-9)
    batch = series.batch(torch.arange(300))
    for _ in range(60):
        guide(batch)
    stored = guide.chains.position.clone()
    guide(batch)
    moved = (guide.chains.position - stored).abs()[:300, 0] > 1e-3
    assert 0.05 < moved.double().mean() < 0.95
    z = (guide.chains.position[:300, 0] - mean[:300]) / sd
    # 300 independent chains: five standard errors
    assert abs(z.mean()) < 5 / 300**0.5 and abs(z.var() - 1) < 5 * (2 / 300) ** 0.5
    guide(series)  # the rest start at the encoder's draws
    assert bool(guide.chains.visited.all())


@pytest.mark.parametrize("elbo", [Trace_ELBO(), TraceMeanField_ELBO(), TraceGraph_ELBO()])
@pytest.mark.parametrize("guide", ["langevin", "encoder", "refined"])
def test_every_guide_trains_under_every_elbo(elbo: ELBO, guide: str) -> None:
    series, model = rotations.swings(6), rotations.rotating(tolerance=1e-3)
    encoder = EncoderGuide(model, series)
    guides: dict[str, PyroModule] = {
        "langevin": LangevinGuide(model, series, steps=1),
        "encoder": encoder,
        "refined": RefinedGuide(encoder, steps=1, refine_from=0.0),
    }
    program = guides[guide]
    parameters = {**dict(model.named_parameters()), **dict(program.named_parameters())}
    before = {name: p.detach().clone() for name, p in parameters.items()}
    svi = SVI(model, program, PyroOptim(torch.optim.Adam, {"lr": 0.01}), elbo)
    svi.step(series.batch([0, 3]))
    assert not [name for name, p in parameters.items() if torch.equal(p, before[name])]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"step_size": 0.0}, "step_size: expected a positive number, got 0.0"),
        ({"refine_from": -0.5}, "refine_from: expected a share between 0 and 1, got -0.5"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    guide = EncoderGuide(Scalars(), scalars(4))
    with pytest.raises(ValueError, match=message):
        RefinedGuide(guide, **options)
    with pytest.raises(ValueError, match=r"start: expected 'both', .* or 'prior', got 'noise'"):
        RefinedGuide(guide).posterior(scalars(4), start="noise")
