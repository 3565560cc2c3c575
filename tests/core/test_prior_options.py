"""Where a prior's negatives and draws come from, by name, and what log Z it keeps."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch

from learned import Model, Quadratic, bent, step_of
from pyro_lebm.base import FullNormal
from pyro_lebm.distribution import EnergyBased
from pyro_lebm.partition import log_z
from pyro_lebm.prior import EnergyPrior
from pyro_lebm.programs.potential import potential
from scenarios import LearnedNormal, Quartic, quadrature_draws, quadrature_log_z


@pytest.mark.parametrize("adjusted", [True, False])
@pytest.mark.parametrize("negatives", ["persistent", "short_run", "annealed"])
def test_every_kind_of_negatives_gives_the_gradient(negatives: Any, adjusted: bool) -> None:
    """Of a tilt towards N(-1, 1): E_p[z] = -1 for slope 1, whatever draws it (to its own bias)."""
    energy = Quadratic(1)
    with torch.no_grad():
        energy.b.fill_(1.0)
    # small unadjusted steps, enough of them to forget their start, hardly biased
    prior = EnergyPrior(
        energy,
        1,
        negatives=negatives,
        adjusted=adjusted,
        num_chains=2000,
        steps=80,
        step_size=0.3,
    )
    points = torch.full((10, 1), -0.5)
    prior().log_prob(points).mean().backward()
    assert energy.b.grad is not None and energy.a.grad is not None
    # d log p / db = E_p[z] - z, d log p / da = (E_p[z^2] - z^2) / 2; five standard errors of 2000
    # draws (doubled for a population's common ancestors) and the bias of unadjusted steps
    slack = 2 if negatives == "annealed" else 1
    bias = 0.5 * 0.3**2 / 4 if not adjusted else 0.0
    assert abs(float(energy.b.grad) - (-1 + 0.5)) < slack * 5 / math.sqrt(2000)
    spread = 0.5 * math.sqrt(2 + 4)  # sd of z^2 / 2 under N(-1, 1)
    error = abs(float(energy.a.grad) - 0.5 * (2 - 0.25))
    assert error < slack * 5 * spread / math.sqrt(2000) + 1.2 * bias
    stayed = not prior.chains.visited.any()
    assert stayed == (negatives != "persistent")
    assert {"energy_positive", "energy_negative"} <= set(prior.statistics())


@pytest.mark.parametrize("adjusted", [True, False])
@pytest.mark.parametrize("sampler", ["annealed", "persistent", "short_run"])
def test_every_sampler_samples(sampler: Any, adjusted: bool) -> None:
    energy = Quadratic(2)
    with torch.no_grad():
        energy.b.add_(torch.tensor([1.0, -2.0]))
    prior = EnergyPrior(
        energy, 2, sampler=sampler, adjusted=adjusted, num_chains=1000, steps=60, step_size=0.3
    )
    if sampler == "persistent":
        prior().log_prob(torch.zeros(2)).backward()  # one visit of 60 steps
    z = prior().expand([500]).sample(torch.Size((2,)))
    assert z.shape == (2, 500, 2)
    flat = z.flatten(0, 1)
    # five standard errors of 1000 draws, doubled as draws of a population share ancestors
    assert (flat.mean(0) - torch.tensor([-1.0, 2.0])).abs().max() < 2 * 5 / math.sqrt(1000)
    assert len(flat.unique(dim=0)) > 900  # distinct chains as long as there are enough
    assert prior().sample(torch.Size((2500,))).shape == (2500, 2)
    assert prior().sample().shape == (2,)


def test_short_runs_are_the_papers_sixty_steps() -> None:
    prior = EnergyPrior(bent(), 2, negatives="short_run")
    assert (prior.steps, prior.step_size, prior.adjusted) == (60, 0.4, False)
    torch.manual_seed(0)
    found = prior.short_run(7)
    torch.manual_seed(0)
    z = torch.randn(7, 2)
    for _ in range(60):
        at = z.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(prior.energy(at).sum(), at)
        z = z - 0.5 * 0.4**2 * (slope + z) + 0.4 * torch.randn(7, 2)
    assert torch.allclose(found, z, atol=1e-4)


# log Z


def test_log_z_is_estimated_kept_and_forgotten() -> None:
    torch.set_default_dtype(torch.float64)
    energy, base = Quartic(), LearnedNormal()
    prior = EnergyPrior(energy, base, num_chains=4)
    exact = float(quadrature_log_z(energy, base).detach())
    assert prior.log_z is None
    point = torch.zeros(1)
    unnormalised = prior().log_prob(point)
    draws = quadrature_draws(energy, base, 2048)
    told = log_z(prior, draws=draws, exact=True, level=1 - 1e-6)
    found = float(told.estimate)
    assert told.lower < exact < told.upper
    assert told.gap < 0.05
    assert prior.log_z is not None and not prior.log_z.requires_grad
    assert torch.allclose(prior().log_prob(point), unnormalised - found)
    # a potential is a score too
    log_p = -potential(Model(prior, None)).single(torch.zeros(20))
    assert torch.allclose(log_p, 20 * prior().log_prob(point))
    for p in (energy.slope, base.log_scale):
        log_z(prior, particles=16, repeats=2, rungs=20)
        p.data += 1e-9  # behind the back of torch's version counter
        assert prior.log_z is None
        assert prior().log_z is None
    log_z(prior, particles=16, repeats=2, rungs=20)
    step_of(Model(prior, torch.zeros(3, 1)), "ClippedAdam").step()
    assert prior.log_z is None


def test_log_z_is_forgotten_when_a_buffer_of_the_density_changes() -> None:
    energy = bent()
    energy.register_buffer("shift", torch.zeros(2))
    base = FullNormal(2)
    prior = EnergyPrior(energy, base, num_chains=4)
    prior.log_z = 1.0
    prior.chains.run(lambda z: -z.square().sum(-1), 1)  # chains are no part of the density
    assert prior.log_z == 1.0
    base.match(torch.randn(10, 2))
    assert prior.log_z is None
    prior.log_z = 1.0
    energy.shift += 1.0
    assert prior.log_z is None


@pytest.mark.parametrize("event", [(), (2, 3)], ids=["a number", "a matrix"])
def test_log_z_of_events_that_are_no_vectors(event: tuple[int, ...]) -> None:
    base = dist.Normal(torch.zeros(event), 1.0).to_event(len(event))
    to_ones = EnergyBased(lambda z: -z.reshape(*z.shape[: z.ndim - len(event)], -1).sum(-1), base)
    truth = 0.5 * math.prod(event)
    found = log_z(to_ones, rungs=40)
    # five standard errors, of weights of which so many are effective
    error = 5 / math.sqrt(float(found.effective_number))
    assert abs(float(found.estimate) - truth) < error < 0.25
    assert abs(float(found.reverse) - truth) < error
    exact = 1 + torch.randn(64, *event)
    assert log_z(to_ones, rungs=40, draws=exact, exact=True, level=1 - 1e-6).upper > truth


def test_a_log_z_that_rests_on_one_particle_is_not_kept() -> None:
    prior = EnergyPrior(Quartic(stiff=5.0, slope=30.0).float(), 3, num_chains=4)
    with pytest.warns(RuntimeWarning, match="a prior keeps no log Z of such weights"):
        log_z(prior, particles=2, repeats=8, rungs=1)
    assert prior.log_z is None
    prior.log_z = 1.5
    with pytest.warns(RuntimeWarning, match="a prior keeps no log Z of such weights"):
        log_z(prior, particles=2, repeats=8, rungs=1)
    assert prior.log_z == 1.5


def test_log_z_does_not_change_the_gradient() -> None:
    prior = EnergyPrior(bent(), 2, num_chains=64)
    points, gradients = torch.randn(5, 2), []
    for _ in range(2):
        prior.zero_grad()
        prior().log_prob(points).sum().backward()
        gradients.append([p.grad.clone() for p in prior.parameters() if p.grad is not None])
        log_z(prior, particles=16, repeats=2, rungs=20)
    assert len(gradients[0]) == 4
    assert all(torch.allclose(a, b) for a, b in zip(*gradients, strict=True))


def test_chains_that_never_moved_are_no_draws_of_the_prior() -> None:
    energy = Quadratic(1)
    with torch.no_grad():
        energy.b.fill_(3.0)  # N(-3, 1); the chains still stand at the base, as in a loaded model
    prior = EnergyPrior(energy, 1, sampler="persistent", num_chains=500)
    assert abs(float(prior().sample((500,)).mean()) + 3) < 5 * 2 / math.sqrt(500)
