"""An energy fitted to posterior draws alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hierarchies import ExactTilt, Hierarchy, Quadratic, exact
from pyro_lebm import EnergyPrior, FullNormal, LayerwiseEnergy, MLPEnergy, tilt
from pyro_lebm.inference import BottomUpGuide, fit, fit_prior
from pyro_lebm.models import HierarchicalGenerator, HierarchicalPrior
from pyro_lebm.models.datasets import image_series


def two_modes(n: int) -> Tensor:
    """Points around (-1.5, 0) and (1.5, 0), sd .3, with weights .2 and .8."""
    centre = torch.where(torch.rand(n, 1) < 0.8, 1.5, -1.5) * torch.tensor([1.0, 0.0])
    return centre + 0.3 * torch.randn(n, 2)


def fitted(refresh: int) -> tuple[EnergyPrior, Tensor]:
    torch.manual_seed(0)
    draws = two_modes(2000)
    prior = EnergyPrior(MLPEnergy(2, (32, 32)), base=2, num_chains=256, refresh=refresh)
    history = fit_prior(
        prior, draws, max_steps=300, batch_size=500, learning_rate=1e-2, progress=False, seed=0
    )
    assert history.loss_name == "negative unnormalised log density"
    return prior, draws


def test_masses_and_spread_of_two_modes_are_learned_from_draws() -> None:
    prior, draws = fitted(refresh=3)
    found = prior().sample((2000,))
    # Masses: two binomial samples of 2000 give a standard error of .013, annealing about as much
    # again; with .08 the false-alarm rate is below 1e-5.
    assert (found[:, 0] > 0).float().mean() == pytest.approx(
        float((draws[:, 0] > 0).float().mean()), abs=0.08
    )
    # The Gaussian base has sd 1: an energy that learned nothing gives 1 here.
    right = found[found[:, 0] > 0]
    assert float(right[:, 1].std()) == pytest.approx(0.3, abs=0.06)


def test_refreshed_chains_restart_from_annealed_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    prior = EnergyPrior(MLPEnergy(2), base=2, num_chains=8, refresh=2)
    calls = []

    def annealed(distribution: object, n: int, **_: Any) -> Tensor:
        calls.append(n)
        return torch.full((n, 2), 0.5)

    monkeypatch.setattr("pyro_lebm.learned.annealed_draws", annealed)
    prior.train()
    for _ in range(4):
        prior._new_negatives()
    assert calls == [8, 8]
    prior.eval()  # evaluation neither counts nor restarts
    prior._new_negatives()
    assert int(prior.visits) == 4


@pytest.mark.parametrize("shape", [(5,), (5, 3), (0, 2)])
def test_draws_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    prior = EnergyPrior(MLPEnergy(2), base=2, num_chains=8)
    with pytest.raises(ValueError, match=r"draws: expected shape \(n, 2\)"):
        fit_prior(prior, torch.zeros(shape), max_steps=1)


def test_a_negative_refresh_is_refused() -> None:
    with pytest.raises(ValueError, match="refresh: expected 0 or more"):
        EnergyPrior(MLPEnergy(2), base=2, refresh=-1)


def test_every_step_draws_its_own_negatives_though_nothing_moves() -> None:
    """Else a run that resumes, which holds no earlier negatives, would differ from then on."""
    prior = EnergyPrior(MLPEnergy(2), base=2, num_chains=8, steps=1)
    visits = []
    run = prior.chains.run

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        visits.append(1)
        return run(*args, **kwargs)

    prior.chains.run = counted  # type: ignore[method-assign]
    fit_prior(prior, torch.randn(20, 2), max_steps=3, learning_rate=1e-30, progress=False)
    assert len(visits) == 3


def test_draws_far_from_the_base_are_left_out() -> None:
    torch.manual_seed(0)
    draws = torch.cat([two_modes(98), torch.full((2, 2), 20.0)])
    prior = EnergyPrior(MLPEnergy(2), base=2, num_chains=16)
    with pytest.warns(UserWarning, match="2 of 100 draws are left out: they lie more than 30 nats"):
        history = fit_prior(prior, draws, max_steps=1, batch_size=100, progress=False)
    # log density of 98 draws, under the base alone as the energy is 0
    expected = -torch.distributions.Normal(0.0, 1.0).log_prob(draws[:98]).sum()
    assert history.last["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_a_base_that_matches_the_draws_reaches_them_wherever_they_lie() -> None:
    torch.manual_seed(0)
    draws = 50.0 + 20.0 * torch.randn(200, 3)
    prior = EnergyPrior(MLPEnergy(3), base=FullNormal(3), num_chains=16)
    fit_prior(prior, draws, max_steps=1, progress=False)  # a warning would be an error
    assert torch.allclose(prior.base().mean, draws.mean(0))
    assert torch.allclose(prior.base().covariance_matrix, draws.T.cov(), rtol=1e-4)


def test_far_draws_widen_no_base_that_matches_the_others() -> None:
    """Nor do the farthest hide those less far: with them, points at 40 are some sd away."""
    torch.manual_seed(0)
    bulk = torch.randn(300, 3)
    far = torch.tensor([[40.0, 0.0, 0.0], [0.0, 40.0, 0.0], [900.0, 900.0, 0.0]])
    prior = EnergyPrior(MLPEnergy(3), base=FullNormal(3), num_chains=16)
    with pytest.warns(UserWarning, match="3 of 303 draws are left out"):
        fit_prior(prior, torch.cat([bulk, far]), max_steps=1, progress=False)
    assert torch.allclose(prior.base().covariance_matrix, bulk.T.cov(), rtol=1e-4)


@pytest.mark.parametrize(
    ("depth", "message"),
    [(0.0, "depth: expected a positive number, got 0.0"), (1.0, "draws: expected some within 1.0")],
)
def test_a_depth_without_sense_is_refused(depth: float, message: str) -> None:
    prior = EnergyPrior(MLPEnergy(2), base=2, num_chains=16)
    with pytest.raises(ValueError, match=message):
        fit_prior(prior, torch.full((9, 2), 9.0), max_steps=1, depth=depth)


@pytest.mark.parametrize("coordinates", ["own", "noise"])
def test_of_a_tilt_the_energy_alone_is_learned(coordinates: Any) -> None:
    """At the maximum likelihood the moments that the energy weighs are those of the draws."""
    torch.manual_seed(0)
    program, energy = Hierarchy(), Quadratic()
    draws = exact(program, energy).draws(500)
    with torch.no_grad():
        for p in energy.parameters():
            p.zero_()
    tilt = ExactTilt(program, energy, coordinates=coordinates)
    before = [p.detach().clone() for p in program.parameters()]
    fit_prior(
        tilt, draws, max_steps=400, batch_size=500, learning_rate=3e-2, progress=False, seed=0
    )
    law, top, low = exact(program, energy), draws["top"][:, 0], draws["low"][:, 0]
    second = law.cov + law.mean[:, None] * law.mean
    found = torch.stack([*law.mean, second[1, 1], second[0, 1]]).detach()
    expected = torch.stack([top.mean(), low.mean(), (low**2).mean(), (top * low).mean()])
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-3)
    assert all(torch.equal(a, b) for a, b in zip(before, program.parameters(), strict=True))
    assert all(p.requires_grad for p in program.parameters())


def test_draws_of_a_tilt_are_needed_of_all_its_sites() -> None:
    tilt = ExactTilt(Hierarchy(), Quadratic())
    with pytest.raises(ValueError, match=r"draws: expected values of .* got none of \['low'\]"):
        fit_prior(tilt, {"top": torch.zeros(3, 1)}, max_steps=1)
    for other in (torch.zeros(4, 1), torch.zeros(3, 2)):
        with pytest.raises(ValueError, match="draws: expected as many of each site, of"):
            fit_prior(tilt, {"top": torch.zeros(3, 1), "low": other}, max_steps=1)
    with pytest.raises(ValueError, match=r"draws: expected shape \(n, 2\)"):
        fit_prior(tilt, torch.zeros(3, 4), max_steps=1)


def test_a_tilt_with_plates_of_its_own_is_refused() -> None:
    tilt = ExactTilt(Hierarchy(rows=4), Quadratic())
    with pytest.raises(ValueError, match=r"plates of its own, \['rows'\]"):
        fit_prior(tilt, torch.zeros(3, 2), max_steps=1)


@pytest.mark.parametrize("kind", ["energy prior", "tilt"])
def test_a_prior_stays_part_of_the_model_that_has_run(kind: str) -> None:
    torch.manual_seed(0)
    energy = LayerwiseEnergy({"z1": MLPEnergy(3), "z2": MLPEnergy(2)})
    latents: tuple[int, ...] = (3, 2)
    prior: Any = tilt(HierarchicalPrior((3, 2), (8,)), energy, num_chains=8)
    if kind == "energy prior":
        latents, prior = (3,), HierarchicalPrior((3,), top=EnergyPrior(MLPEnergy(3), 3))
    model = HierarchicalGenerator(latents, 4, prior=prior)
    series = image_series(torch.rand(6, 2, 2))
    guide = BottomUpGuide(model, series)
    fit(model, guide, series, max_steps=2, progress=False)
    learned: Any = model.prior.top if kind == "energy prior" else model.prior
    names = {name for name, _ in model.named_pyro_params()}
    draws = guide.posterior(series, draws=5)
    values = {name: draws[name].flatten(0, 2) for name in draws.sites}
    fit_prior(learned, values["z1"] if kind == "energy prior" else values, max_steps=2)
    assert {name for name, _ in model.named_pyro_params()} == names
    fit(model, guide, series, max_steps=2, progress=False)  # and goes on as one model
