"""Tilts: gradients, draws and constants of a hierarchy whose tilt is known in closed form."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from torch import Tensor

from hierarchies import ExactTilt, Hierarchy, Quadratic, exact, log_joint
from pyro_lebm.partition import log_z
from pyro_lebm.tilting.tilt import Tilt
from tilted import ELBOS
from untyped import optim, poutine

N = 12
VALUES = {
    "top": torch.linspace(-1.5, 1.0, N, dtype=torch.float64)[:, None],
    "low": torch.linspace(0.7, -1.1, N, dtype=torch.float64)[:, None] ** 3,
}
MASK = torch.arange(N) % 3 != 0
SOME = torch.arange(0, N, 4)
PLACES = ["outside", "own", "own_subsampled", "subsampled", "scale", "mask", "vectorised"]
COORDINATES = ["own", "noise"]


def parts() -> tuple[Hierarchy, Quadratic]:
    return Hierarchy(), Quadratic()


def trace(place: str, tilt: Tilt, values: dict[str, Tensor]) -> Any:
    """The program at values, in the place's plates."""
    around: list[Any] = {
        "outside": [pyro.plate("rows", N)],
        "subsampled": [pyro.plate("rows", N, subsample=SOME)],
        "scale": [pyro.plate("rows", N), poutine.scale(scale=0.3)],
        "mask": [pyro.plate("rows", N), poutine.mask(mask=MASK)],
        "many": [pyro.plate("rows", 4000)],
        "some": [pyro.plate("rows", 600)],
        "vectorised": [pyro.plate("particles", 2, dim=-2), pyro.plate("rows", N, dim=-1)],
    }.get(place, [])

    def model() -> None:
        with ExitStack() as stack:
            for context in around:
                stack.enter_context(context)
            tilt()

    return poutine.trace(poutine.condition(model, values)).get_trace()


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("place", PLACES)
def test_gradients_are_those_of_the_normalised_density(place: str, coordinates: str) -> None:
    program, energy = parts()
    values, weight = VALUES, torch.ones(N, dtype=torch.float64)
    if place == "own":
        program.rows = N
    elif place == "own_subsampled":
        program.rows, program.index = N, SOME
    if "subsampled" in place:
        values, weight = {k: v[SOME] for k, v in VALUES.items()}, torch.full((3,), 4.0).double()
    elif place == "scale":
        weight = 0.3 * weight
    elif place == "mask":
        weight = MASK.double()
    elif place == "vectorised":
        values, weight = (
            {k: torch.stack([v, -v]) for k, v in VALUES.items()},
            torch.ones(2, N).double(),
        )
    tilt = ExactTilt(program, energy, coordinates=coordinates)
    parameters = [*program.parameters(), *energy.parameters()]
    log_prob = trace(place, tilt, values).log_prob_sum()
    assert tilt.calls == 0
    found = torch.autograd.grad(log_prob, parameters)
    assert tilt.calls == 1
    expected = torch.autograd.grad((weight * log_joint(program, energy, values)).sum(), parameters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("elbo", ELBOS)
def test_svi_draws_negatives_once_a_step(elbo: Any, coordinates: str) -> None:
    tilt = ExactTilt(*parts(), coordinates=coordinates)

    def model() -> None:
        with pyro.plate("rows", N):
            tilt()

    def guide() -> None:
        loc = pyro.param("loc", torch.zeros(N, 1, dtype=torch.float64))
        with pyro.plate("rows", N):
            for name in ("top", "low"):
                pyro.sample(name, dist.Normal(loc, 0.5).to_event(1))

    svi = SVI(model, guide, optim.Adam({"lr": 1e-3}), elbo())
    svi.evaluate_loss()
    assert tilt.calls == 0
    before = [p.detach().clone() for p in tilt.parameters()]
    svi.step()
    assert tilt.calls == 1
    assert all((a != b).all() for a, b in zip(before, tilt.parameters(), strict=True))


def test_the_gradient_in_the_sites_is_exact_and_needs_no_negatives() -> None:
    program, energy = parts()
    tilt = ExactTilt(program, energy)
    values = {name: value.clone().requires_grad_(True) for name, value in VALUES.items()}
    found = trace("outside", tilt, values).log_prob_sum()
    expected = log_joint(program, energy, values).sum()
    for name, value in values.items():
        ours, theirs = (
            torch.autograd.grad(x, value, retain_graph=True)[0] for x in (found, expected)
        )
        torch.testing.assert_close(ours, theirs, msg=name)
    assert tilt.calls == 0


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_free_sites_are_drawn_together_from_the_tilted_density(coordinates: Any) -> None:
    """A false alarm in 1e-4: eight moments at five standard errors, draws taken for a third."""
    torch.manual_seed(0)
    program, energy = parts()
    tilt = Tilt(program, energy, coordinates=coordinates, num_chains=8)
    with torch.no_grad():
        nodes = trace("many", tilt, {}).nodes
    draws = torch.cat([nodes["top"]["value"], nodes["low"]["value"]], -1)
    known = exact(program, energy)
    check_moments(draws, known.mean.detach(), known.cov.detach())


def check_moments(draws: Tensor, mean: Tensor, cov: Tensor) -> None:
    n = len(draws) / 3
    sd = cov.diagonal().sqrt()
    assert ((draws.mean(0) - mean).abs() < 5 * sd / math.sqrt(n)).all()
    # of a normal: var of the sample covariance is (s_ii s_jj + s_ij^2) / n
    error = ((sd[:, None] * sd) ** 2 + cov**2).sqrt() / math.sqrt(n)
    assert ((draws.T.cov() - cov).abs() < 5 * error).all()


@pytest.mark.parametrize("known", ["top", "low"])
def test_others_are_drawn_given_sites_that_are_fixed(known: str) -> None:
    """A false alarm in 1e-5: two moments at five standard errors."""
    torch.manual_seed(0)
    program, energy = parts()
    tilt, n = Tilt(program, energy, num_chains=8), 600
    at = torch.full((n, 1), 1.3, dtype=torch.float64)
    nodes = trace("some", tilt, {known: at}).nodes
    i, j = (0, 1) if known == "top" else (1, 0)
    other = nodes["low" if known == "top" else "top"]["value"][:, 0]
    law = exact(program, energy)
    mean, cov = law.mean.detach(), law.cov.detach()
    expected = mean[j] + cov[i, j] / cov[i, i] * (1.3 - mean[i])
    variance = cov[j, j] - cov[i, j] ** 2 / cov[i, i]
    effective = float(n)
    if known == "low":  # drawn before anyone knew that `low` is fixed: from its own marginal
        expected, variance, effective = mean[j], cov[j, j], n / 3
    assert abs(float(other.mean() - expected)) < 5 * float((variance / effective).sqrt())
    assert abs(float(other.var() / variance) - 1) < 5 * math.sqrt(2 / effective)


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_log_z_is_bounded_from_both_sides(coordinates: str) -> None:
    torch.manual_seed(0)
    program, energy = parts()
    tilt = ExactTilt(program, energy, coordinates=coordinates)
    known = exact(program, energy)
    draws = known.draws(256)
    rows = torch.cat([draws["top"], draws["low"]], -1)
    if coordinates == "noise":
        at = program.weight * draws["top"] + program.bias
        rows = torch.cat([draws["top"], (draws["low"] - at) / program.log_scale.exp()], -1).detach()
    found = log_z(tilt, particles=32, rungs=30, draws=rows, exact=True)
    assert found.lower < known.log_z < found.upper
    constant = tilt.log_z
    assert constant is not None
    total = trace("outside", tilt, VALUES).log_prob_sum()
    expected = log_joint(program, energy, VALUES).sum() + N * (known.log_z - constant)
    torch.testing.assert_close(total, expected)
    with torch.no_grad():
        program.weight.add_(0.1)
    assert tilt.log_z is None


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_at_the_maximum_likelihood_the_moments_are_those_of_the_data(coordinates: Any) -> None:
    """Learned by chains: of top squared by the conditional's gradient alone.

    One step's negatives, a third of 500 draws, leave a moment an error of .08 deviations; averaged
    over the 25 last and smallest steps .1 is five of them and more: a false alarm in 1e-5. Without
    the conditionals' gradient the variance of top is off by .2.
    """
    torch.manual_seed(0)
    program, energy = parts()
    mean, cov = torch.tensor([0.4, -0.3]).double(), torch.tensor([[0.5, -0.3], [-0.3, 0.8]])
    cov = cov.double()
    tilt = Tilt(program, energy, coordinates=coordinates, num_chains=500)
    data = torch.distributions.MultivariateNormal(mean, cov).sample(torch.Size((4000,)))
    values = {"top": data[:, :1], "low": data[:, 1:]}
    optimiser = torch.optim.Adam([*program.parameters(), *energy.parameters()], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 250, 1e-3)
    for _ in range(250):
        optimiser.zero_grad()
        (-trace("many", tilt, values).log_prob_sum() / 4000).backward()
        optimiser.step()
        schedule.step()
    learned = exact(program, energy)
    assert ((learned.mean - data.mean(0)).abs() < 0.1).all()
    assert ((learned.cov - data.T.cov()).abs() < 0.1).all()
