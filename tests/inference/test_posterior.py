"""Posterior draws for new sequences: exact where that is known, with modes of the right weight."""

from __future__ import annotations

from typing import Any

import arviz
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import rotations
import two_modes
from guides_for_new import guides
from pyro_lebm.inference import (
    Draws,
    EncoderGuide,
    LangevinGuide,
    PointEstimate,
    RefinedGuide,
    anneal,
    best_draw,
    chains,
)
from pyro_lebm.prior import EnergyPrior
from pyro_lebm.programs.program import Program
from pyro_lebm.series import Series

# A Gaussian posterior


@pytest.mark.parametrize("name", ["langevin", "refined"])
def test_draws_have_the_exact_mean_covariance_and_evidence(name: str) -> None:
    train, new = rotations.swings(5), rotations.swings(3, length=9, seed=1)
    model = rotations.rotating(tolerance=1e-4)
    guide = guides(model, train, 2, 0.5, 4.0)[name]  # far wider than the prior
    draws = guide.posterior(new, draws=1500)
    exact = rotations.posterior(new)
    z = draws.flat("z0").double()
    assert draws.shape == (1, 1500, 3)
    # Over 10 seeds the means scatter as those of 700 independent draws or more: five errors.
    assert bool(((z.mean(0) - exact.mean).abs() < 5 * exact.stddev / 700**0.5).all())
    for n in range(3):
        scale = exact.stddev[n, :, None] * exact.stddev[n]
        error = (torch.cov(z[:, n].T) - exact.covariance_matrix[n]) / scale
        assert bool((error.abs() < 5 * (2 / 700) ** 0.5).all())
    # Over 10 seeds the logarithm scatters by .08 at most.
    found = draws.stats["log_evidence"][0, 0].double()
    assert torch.allclose(found, rotations.evidence(new), atol=0.35)


def test_a_populations_statistics() -> None:
    series, model = rotations.swings(5), rotations.rotating(tolerance=1e-3)
    program = Program.read(model, series)
    draws = anneal(program, series, draws=20, runs=3, batch_size=2)
    assert draws["z0"].shape == (3, 20, 5, 2)
    assert draws.method == "annealed SMC from the prior"
    assert {name: tuple(value.shape) for name, value in draws.stats.items()} == dict.fromkeys(
        ("log_evidence", "survivors", "acceptance_rate", "lp"), (3, 20, 5)
    )
    lp = program.rebind(series).log_density(draws.flat("z0")).reshape(3, 20, 5)
    assert torch.allclose(draws.stats["lp"], lp, rtol=1e-4)
    for name in ("survivors", "acceptance_rate"):
        assert draws.stats[name].min() > 0 and draws.stats[name].max() <= 1
    evidence = draws.stats["log_evidence"]
    assert torch.equal(evidence, evidence[:, :1].expand_as(evidence))
    assert len(evidence[:, 0, 0].unique()) == 3  # runs are populations of their own
    guide = EncoderGuide(model, series)
    assert guide.posterior(series, draws=7).shape == (1, 7, 5)
    assert guide.posterior(series).method == "encoder (amortised Gaussian)"
    refined = RefinedGuide(guide)
    for start in ("prior", "encoder"):
        found = refined.posterior(series, draws=4, start=start)
        assert found.method == f"annealed SMC from the {start}"
    found = refined.posterior(series, draws=4, runs=2)
    assert "prior" in found.method and "encoder" in found.method
    assert found.stats["from_encoder"].shape == (2, 4, 5)


def test_a_batch_of_sequences_does_not_change_their_posterior() -> None:
    series, model = rotations.swings(4), rotations.rotating(tolerance=1e-3)
    program = Program.read(model, series)
    exact = rotations.posterior(series)
    for batch_size in (1, 3):
        z = anneal(program, series, 800, batch_size=batch_size).flat("z0").mean(0).double()
        # 200 effective draws: five standard errors.
        assert bool(((z - exact.mean).abs() < 5 * exact.stddev / 200**0.5).all())


def test_a_seed_reproduces_and_training_goes_on_undisturbed() -> None:
    series, model = rotations.swings(4), rotations.rotating(tolerance=1e-3)
    guide = guides(model, series, 2, 0.0, 1.0)["refined"]
    guide.schedule(1.0)
    guide(series)
    before = guide.chains.training_state()
    found = []
    for _ in range(2):
        pyro.set_rng_seed(5)
        found.append(guide.posterior(series, draws=8)["z0"])
    with torch.no_grad():
        guide.posterior(series, draws=8)
    assert torch.equal(*found) and not found[0].requires_grad
    after = guide.chains.training_state()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_constrained_sites_come_back_on_their_supports() -> None:
    class Rates(pyro.nn.PyroModule):
        def forward(self, series: Series) -> None:
            with pyro.plate("sequences", series.total, subsample=series.index):
                rate = pyro.sample("rate", dist.Gamma(3.0, 2.0))
                share = pyro.sample("share", dist.Dirichlet(torch.ones(3)))
                x = dist.Poisson(rate[..., None, None]).expand((*rate.shape, 1, 1)).to_event(2)
                pyro.sample("x", x, obs=series.values)
                pyro.sample("k", dist.Normal(share[..., 0], 0.2), obs=0.4 + 0 * rate.detach())

    values = torch.tensor([0.0, 1.0, 4.0])[:, None, None]
    series = Series(torch.zeros(1), values)
    draws = LangevinGuide(Rates(), series).posterior(series, draws=1500)
    assert draws["rate"].shape == (1, 1500, 3) and draws["share"].shape == (1, 1500, 3, 3)
    assert torch.allclose(draws["share"].sum(-1), torch.ones(1, 1500, 3))
    exact = dist.Gamma(3.0 + values.flatten(), 2.0 + 1.0)
    # 500 effective draws: five standard errors. Without the transform's Jacobian the mean would be
    # off by 1 / sqrt(shape), at least .37 standard deviations.
    error = (draws.flat("rate").mean(0) - exact.mean).abs()
    assert bool((error < 5 * exact.stddev / 500**0.5).all())


@pytest.mark.parametrize("sampler", ["short_run", "persistent"])
def test_draws_start_at_the_prior_itself_whatever_its_sampler(sampler: str) -> None:
    class Wells(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            z = z[..., 0]
            return -torch.logaddexp(-8 * (z - 2) ** 2 + 2.2, -8 * (z + 2) ** 2) - 0.5 * z**2

    class Model(pyro.nn.PyroModule):
        def __init__(self) -> None:
            super().__init__()
            options: dict[str, Any] = {"sampler": sampler, "num_chains": 64, "steps": 5}
            self.prior = EnergyPrior(Wells(), 1, **options)
            self.prior.chains.visited.fill_(True)

        def forward(self, series: Series) -> None:
            with pyro.plate("sequences", series.total, subsample=series.index):
                z = pyro.sample("z0", self.prior())
                x = dist.Normal(0 * z, 1.0).to_event(1)
                pyro.sample("x", x, obs=series.values[:, 0])

    series = Series(torch.zeros(1), torch.zeros(3, 1, 1))
    z = LangevinGuide(Model(), series).posterior(series, draws=1000)["z0"][0, ..., 0]
    # nothing is learned from the data: weights 9 to 1; the populations share no ancestor twice
    assert abs(float((z > 0).double().mean()) - 9 / (1 + 9)) < 0.06


def test_the_guides_own_settings_hold_for_new_sequences() -> None:
    def model(series: Series, scale: float = 1.0) -> None:
        with pyro.plate("sequences", series.total, subsample=series.index):
            z = pyro.sample("z0", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, scale).to_event(1), obs=series.values[:, 0])

    series = Series(torch.zeros(1), torch.full((2, 1, 1), 3.0))
    guide = LangevinGuide(model, series, scale=0.1)
    for draws in (guide.posterior(series, draws=500), chains(guide.program, series, draws=50)):
        assert abs(float(draws["z0"].mean()) - 3.0 / 1.01) < 0.05  # 1.5 at the default scale


# Two modes


@pytest.mark.parametrize("energy", [False, True])
@pytest.mark.parametrize("name", ["langevin", "refined"])
def test_two_unequal_modes_get_their_weights_for_a_new_sequence(name: str, energy: bool) -> None:
    model, new = two_modes.Squares(energy), two_modes.squares()
    exact = two_modes.positive(new)
    assert bool(((exact > 0.6) & (exact < 0.85)).all())
    # The encoder is wrong, off centre, too wide: but it covers both modes.
    guide = guides(model, two_modes.squares(3), 1, 0.5, 2.5)[name]
    options = {"start": "encoder"} if name == "refined" else {}
    z = guide.posterior(new, draws=1200, **options)["z0"][0, ..., 0]
    found = (z > 0).double().mean(0)
    # Over 20 seeds the weights scatter by .03 and their mean by .012: five of these.
    assert torch.allclose(found, exact, atol=0.15)
    assert abs(found.mean() - exact.mean()) < 0.06
    assert bool((z.abs() > 0.3).double().mean() > 0.99)


def test_long_chains_tell_one_mode_from_two() -> None:
    found = {}
    series = two_modes.squares(2)
    series = Series(series.times, series.values + 2.0)  # too far apart to cross
    programs = {
        "two": Program.read(two_modes.Squares(), series),
        "one": Program.read(rotations.rotating(tolerance=1e-3), rotations.swings(2)),
    }
    for name, program in programs.items():
        draws = chains(program, *program.args, num_chains=8, draws=120, warmup=120, steps=2)
        n = draws.num_sequences
        assert draws.shape == (8, 120, n) and draws.stats["lp"].shape == (8, 120, n)
        rate = draws.stats["acceptance_rate"].mean()
        assert 0.35 < rate < 0.85
        step = draws.stats["step_size"]
        assert torch.equal(step, step[:, :1].expand_as(step))  # adapted, then held
        lp = program.log_density(draws.flat("z0")).reshape(draws.stats["lp"].shape)
        assert torch.allclose(draws.stats["lp"], lp, rtol=1e-4)
        rhat = arviz.rhat({"z0": draws["z0"].numpy()})["z0"]  # type: ignore[no-untyped-call]
        found[name] = rhat.values
    assert (found["two"] > 1.1).all()
    assert (found["one"] < 1.08).all()
    z = draws.flat("z0").double()
    exact = rotations.posterior(rotations.swings(2))
    # At least 200 of 960 draws effective: five standard errors.
    assert bool(((z.mean(0) - exact.mean).abs() < 5 * exact.stddev / 200**0.5).all())


# The best draw


def test_the_best_draw_is_a_point_estimate_and_no_posterior() -> None:
    series = rotations.swings(3)
    program = Program.read(rotations.rotating(tolerance=1e-3), series)
    draws = anneal(program, series, 300, runs=2)
    best = best_draw(draws)
    assert isinstance(best, PointEstimate) and not isinstance(best, Draws)
    assert best.method == "best of 600 draws" and "posterior" not in best.method
    lp = draws.stats["lp"].flatten(0, 1)
    assert torch.equal(best.log_joint, lp.amax(0))
    assert torch.allclose(program.log_density(best.values["z0"]), best.log_joint, rtol=1e-4)
    exact = rotations.posterior(series)
    assert bool(((best.values["z0"] - exact.mean).abs() < 0.6 * exact.stddev).all())
    with pytest.raises(ValueError, match=r"draws: expected 'lp' in stats, got \[\]"):
        best_draw(Draws(draws.samples))


# Bad arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 1}, "draws, runs, batch_size: expected at least 2, 1 and 1, got 1, 1 and 100"),
        ({"runs": 0}, "draws, runs, batch_size: .* got 64, 0 and 100"),
        ({"batch_size": 0}, "draws, runs, batch_size: .* got 64, 1 and 0"),
        ({"inflation": 0.0}, "inflation: expected a positive number, got 0.0"),
        ({"keep": 1.0}, "keep: expected a share between 0 and 1, got 1.0"),
    ],
)
def test_bad_options_of_annealing_are_refused(options: dict[str, Any], message: str) -> None:
    series = rotations.swings(2)
    with pytest.raises(ValueError, match=message):
        LangevinGuide(rotations.rotating(tolerance=1e-3), series).posterior(series, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_chains": 0}, "num_chains, draws, warmup, steps: .* got 0, 500, 500 and 1"),
        ({"draws": 0}, "got 4, 0, 500 and 1"),
        ({"warmup": -1}, "got 4, 500, -1 and 1"),
        ({"steps": 0}, "got 4, 500, 500 and 0"),
        ({"step_size": 0.0}, "step_size: expected a positive number, got 0.0"),
    ],
)
def test_bad_options_of_chains_are_refused(options: dict[str, Any], message: str) -> None:
    series = rotations.swings(2)
    with pytest.raises(ValueError, match=message):
        chains(Program.read(rotations.rotating(tolerance=1e-3), series), series, **options)


def test_a_posterior_of_coupled_sequences_is_refused() -> None:
    def model(series: Series) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("sequences", len(series)):
            pyro.sample("z0", dist.Normal(mu, 1.0))

    series = rotations.swings(3)
    for draw in (anneal, chains):
        with pytest.raises(ValueError, match=r"expected each latent site in one plate, .*'mu'"):
            draw(Program.read(model, series), series)
