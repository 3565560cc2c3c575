"""New sequences from two starts, the prior and the encoder: no mode lost, none too far away."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import PyroOptim

import rotations
import two_modes
from guides_for_new import Constant, guides
from pyro_lebm.inference import EncoderGuide, RefinedGuide, log_evidence
from pyro_lebm.programs.program import Program
from pyro_lebm.series import Series


def test_an_encoder_in_one_mode_does_not_lose_the_other() -> None:
    model, new = two_modes.Squares(), two_modes.squares()
    guide = guides(model, new, 1, -1.2, 0.5)["refined"]  # where an ELBO may well have put it
    exact = two_modes.positive(new)
    from_encoder = guide.posterior(new, draws=400, start="encoder", inflation=1.5)
    both = guide.posterior(new, draws=1200, inflation=1.5)
    missed = (from_encoder["z0"][0, ..., 0] > 0).double().mean(0)
    assert bool((missed < 0.3).all())
    found = (both["z0"][0, ..., 0] > 0).double().mean(0)
    assert torch.allclose(found, exact, atol=0.15)
    assert not both.stats["from_encoder"].any()


def test_where_few_particles_fall_short_many_keep_the_weights() -> None:
    """Two equal modes in six dimensions, an encoder sharp in one of them, twenty draws."""

    def model(series: Series) -> None:
        with pyro.plate("sequences", series.total, subsample=series.index):
            z = pyro.sample("z0", dist.Normal(torch.zeros(6), 1.0).to_event(1))
            x = torch.cat([z[..., :1].abs(), z[..., 1:]], -1)
            pyro.sample("x", dist.Normal(x, 0.05).to_event(1), obs=series.values[:, 0])

    n = 150
    x = torch.eye(6)[0].repeat(n, 1, 1)
    series = Series(torch.zeros(1), x)
    encoder = Constant(6, 0.0, -1.0)
    encoder.features[0] = 1.0
    guide = RefinedGuide(EncoderGuide(model, series, encoder))
    found = {}
    for particles in (20, 512):
        draws = guide.posterior(series, draws=20, particles=particles)
        share = (draws["z0"][0, ..., 0] < 0).double().mean(0)
        found[particles] = float(share.mean()), float(draws.stats["from_encoder"].mean())
    # A population may sit in one mode altogether: the error of the mean of 150 such is .04.
    assert abs(found[512][0] - 0.5) < 4 * 0.04
    assert found[20][0] < found[512][0]
    assert found[20][1] > 0.2 and found[512][1] < 0.1


@pytest.mark.parametrize("energy", [False, True])
def test_a_prior_too_far_away_gives_way_to_the_encoder(energy: bool) -> None:
    model, near = two_modes.Squares(energy), two_modes.squares()
    # one sequence at z = 5, in a single jump out of the prior's reach; the others in it
    values = torch.where(torch.arange(6)[:, None, None] == 2, 25.0, near.values)
    new = Series(near.times, values)
    guide = guides(model, new, 1, 5.0, 0.0)["refined"]
    with pytest.warns(RuntimeWarning, match="max_temperatures"):
        draws = guide.posterior(new, draws=800, max_temperatures=1, final_moves=20)
    assert draws.stats["from_encoder"][0, 0].tolist() == [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    assert bool(((draws["z0"][0, :, 2, 0] - 5.0).abs() < 0.2).all())
    lp = guide.program.rebind(new).log_density(draws["z0"])
    assert torch.allclose(draws.stats["lp"], lp, rtol=1e-4)


def test_the_evidence_of_what_lies_far_from_the_prior_takes_the_guide_s_encoder() -> None:
    model, near = two_modes.Squares(), two_modes.squares()
    new = Series(near.times, torch.full_like(near.values[:2], 25.0))  # z is 5 or -5
    alone = guides(model, new, 1, 5.0, 0.0)
    out_of_reach = {"max_temperatures": 1, "final_moves": 20, "particles": 32}
    exact = two_modes.evidence(new, two_modes.SHIFT)
    for name in ("refined", "encoder"):
        guide = alone["refined"] if name == "refined" else alone["refined"].guide
        with pytest.warns(RuntimeWarning, match="max_temperatures"):
            found = log_evidence(guide, new, **out_of_reach)
        # of the mode at 5, which has all but a twentieth of the mass
        assert torch.allclose(found.estimate.double(), exact, atol=0.3)
        assert torch.allclose(found.reverse.double(), exact, atol=0.3)
    with pytest.warns(RuntimeWarning):
        lost = log_evidence(alone["langevin"], new, **out_of_reach)
    assert bool((lost.gap.abs() > 1).any() or (lost.estimate < exact - 1).any())


@pytest.mark.parametrize("energy", [False, True])
@pytest.mark.parametrize("start", ["prior", "encoder"])
def test_the_evidence_is_that_of_the_normalised_prior(start: str, energy: bool) -> None:
    model, new = two_modes.Squares(energy, shift=1.5), two_modes.squares()  # log Z = 1.125
    guide = guides(model, new, 1, 0.5, 2.5)["refined"]
    draws = guide.posterior(new, draws=1500, start=start)
    exact = two_modes.evidence(new, shift=1.5)
    # Over 10 seeds the logarithm scatters by .12 at most: five of these.
    assert torch.allclose(draws.stats["log_evidence"][0, 0].double(), exact, atol=0.6)


def test_a_negative_margin_is_refused() -> None:
    guide = guides(two_modes.Squares(), two_modes.squares(2), 1, 0.0, 1.0)["refined"]
    with pytest.raises(ValueError, match=r"margin: expected 0 or more nats, got -1\.0"):
        guide.posterior(two_modes.squares(2), margin=-1.0)


@pytest.mark.parametrize("adjoint", [False, True])
def test_an_adaptive_solver_takes_every_guide_and_scheme(adjoint: bool) -> None:
    """torchdiffeq's solvers cannot be mapped over draws: they run one by one, to the same end."""
    series = rotations.swings(2)
    model = rotations.rotating(method="dopri5", adjoint=adjoint)
    guide = RefinedGuide(EncoderGuide(model, series), steps=1)
    SVI(model, guide, PyroOptim(torch.optim.Adam, {"lr": 0.0}), Trace_ELBO()).step(series)
    guide(series)  # a second visit compares two positions
    program = guide.program.rebind(series)
    z = torch.randn(3, 2, 2)
    fixed = Program.read(rotations.rotating(), series).rebind(series)
    assert torch.allclose(program.log_density(z), fixed.log_density(z), rtol=1e-3)
    draws = guide.posterior(series, draws=4, particles=4, moves=1)
    assert draws.shape == (1, 4, 2)
