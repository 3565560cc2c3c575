"""Log ratios of constants from both sides, against constants that are known.

Means of weights are held to 1 within five standard errors of their own; the bounds' confidence to
its binomial error over hundreds of problems: a false alarm about once in a million checks.
"""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_lebm import StandardNormal
from pyro_lebm.annealing.ais import log_ratio
from pyro_lebm.annealing.ratio import LogRatio
from scenarios import Mixture, Quartic, quadrature_draws, quadrature_log_z


def normal(z: Tensor, mean: Tensor | float = 0.0, sd: Tensor | float = 1.0) -> Tensor:
    """Unnormalised log N(mean, sd^2 I)."""
    return -0.5 * ((z - mean) / sd).pow(2).sum(-1)


def assert_mean_one(log_weight: Tensor, log_z: float) -> None:
    weight = (log_weight.flatten() - log_z).double().exp()
    error = float(weight.std()) / math.sqrt(len(weight))
    assert error < 0.05
    assert abs(float(weight.mean()) - 1) < 5 * error


POOR = pytest.mark.filterwarnings("ignore:log_ratio. the weights rest on")


@POOR
@pytest.mark.parametrize(("rungs", "moves"), [(1, 1), (2, 3), (5, 1)])
def test_weights_of_both_ways_are_unbiased_however_few_the_rungs(rungs: int, moves: int) -> None:
    def path(z: Tensor) -> tuple[Tensor, Tensor]:
        return normal(z), normal(z, 0.7, 0.6)

    n, z = 40_000, torch.randn(40_000, 2)
    found = log_ratio(
        path, z, 0.7 + 0.6 * torch.randn(n, 2), pilot=torch.randn(64, 2), rungs=rungs, moves=moves
    )
    log_z = 2 * math.log(0.6)
    assert_mean_one(found.forward, log_z)
    # the way down from a narrow density to a wide one has weights of infinite variance in one rung
    if rungs > 1:
        assert_mean_one(found.backward, -log_z)


def test_an_asymmetric_energy_lies_between_its_bounds() -> None:
    energy, base = Quartic(stiff=1.5, slope=2.0), StandardNormal(1).double()
    draws = quadrature_draws(energy, base, 4096)

    @torch.enable_grad()
    def path(z: Tensor) -> tuple[Tensor, Tensor]:
        log_base = base().log_prob(z)
        return log_base, log_base - energy(z)

    start, pilot = (torch.randn(n, 1, dtype=torch.float64) for n in (4096, 64))
    order = torch.randperm(len(draws))
    found = log_ratio(path, start, draws[order], pilot=pilot, exact=True, rungs=50)
    truth = float(quadrature_log_z(energy, base).detach())
    assert found.lower < truth < found.upper
    assert 0 <= found.gap < 0.02


def tilt(dim: int) -> tuple[Tensor, Tensor, float]:
    """Precision and mean of N(0, I) tilted by the energy (z A z)/2 - b z, and log Z."""
    generator = torch.Generator().manual_seed(1)
    half = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    precision = torch.eye(dim, dtype=torch.float64) + half @ half.T / dim * 4
    b = torch.randn(dim, generator=generator, dtype=torch.float64)
    mean = torch.linalg.solve(precision, b)
    return precision, mean, float(0.5 * b @ mean - 0.5 * torch.logdet(precision))


def test_a_gaussian_tilt_in_twenty_dimensions() -> None:
    precision, mean, log_z = tilt(20)

    def path(z: Tensor) -> tuple[Tensor, Tensor]:
        r = z - mean
        target = -0.5 * torch.einsum("...i,ij,...j->...", r, precision, r)
        return normal(z), target + 0.5 * mean @ precision @ mean

    factor = torch.linalg.cholesky(torch.linalg.inv(precision))
    start, other, pilot = (torch.randn(n, 20, dtype=torch.float64) for n in (512, 512, 128))
    target = mean + other @ factor.T
    found = log_ratio(path, start, target, pilot=pilot, exact=True, rungs=200)
    assert found.lower < log_z < found.upper
    assert found.gap < 0.1
    with pytest.warns(RuntimeWarning, match="take more rungs"):
        rough = log_ratio(path, start, target, pilot=pilot, exact=True, rungs=5)
    assert rough.gap > 1


@POOR
def test_bounds_hold_as_often_as_they_say() -> None:
    problems, level = 400, 0.9
    mean = torch.linspace(0.0, 3.0, problems).unsqueeze(-1)
    sd = torch.linspace(1.3, 0.3, problems)
    found = log_ratio(
        lambda z: (normal(z), normal(z, mean, sd.unsqueeze(-1))),
        torch.randn(16 * 8, problems, 1),
        mean + sd.unsqueeze(-1) * torch.randn(16 * 8, problems, 1),
        pilot=torch.randn(64, problems, 1),
        exact=True,
        rungs=12,
        level=level,
    )
    truth = sd.log()
    assert found.estimate.shape == found.gap.shape == found.effective.shape == (problems,)
    inside = ((found.lower < truth) & (truth < found.upper)).double().mean()
    assert inside > level - 5 * math.sqrt(level * (1 - level) / problems)
    # and the two sides bracket it in the mean, without the width of an interval
    assert (found.forward.logsumexp(1) - math.log(16)).mean() < truth.mean()


@POOR
def test_where_one_end_has_no_density_its_weights_are_zero() -> None:
    def half(z: Tensor) -> Tensor:
        return torch.where(z[..., 0] > 0, normal(z), -torch.inf)

    n = 4000
    options: dict[str, Any] = {"rungs": 4, "exact": True, "level": 1 - 1e-6}
    z, pilot = torch.randn(n, 1), torch.randn(64, 1)
    wider = log_ratio(lambda z: (half(z), normal(z)), z.abs(), z, pilot=pilot.abs(), **options)
    # backward weights are 0 for the half that the start never sees, and Z0 / Z1 in the mean
    weight = wider.backward.exp()
    assert abs(float((weight == 0).double().mean()) - 0.5) < 5 * 0.5 / math.sqrt(n)
    assert float(wider.reverse) == pytest.approx(math.log(2), abs=5 / math.sqrt(n))
    assert bool((wider.forward == 0).all()) and wider.upper > math.log(2)
    narrower = log_ratio(lambda z: (normal(z), half(z)), z, z.abs(), pilot=pilot, **options)
    assert_mean_one(narrower.forward, -math.log(2))
    assert narrower.lower < -math.log(2) and bool(narrower.gap.isfinite())


@POOR
def test_one_exact_draw_bounds_by_markov_s_inequality() -> None:
    problems, level = 400, 0.8
    found = log_ratio(
        lambda z: (normal(z), normal(z, 2.0, 0.5)),
        torch.randn(16, problems, 1),
        2.0 + 0.5 * torch.randn(1, problems, 1),
        pilot=torch.randn(64, problems, 1),
        exact=True,
        repeats=4,
        rungs=3,
        level=level,
    )
    assert found.backward.shape == (1, 16, problems)
    assert torch.allclose(found.upper, found.reverse + math.log(10), atol=1e-5)
    missed = (found.upper < math.log(0.5)).double().mean()
    assert 0 < missed < 0.1 + 5 * math.sqrt(0.1 * 0.9 / problems)
    weight = found.backward.double().exp().mean((0, 1))  # one independent mean a problem
    assert abs(float(weight.mean()) - 2) < 5 * float(weight.std()) / math.sqrt(problems) < 1


def test_a_missed_mode_leaves_a_small_gap_beside_a_wrong_value() -> None:
    target = Mixture(weight=0.1, left=0.0, right=40.0, sd=0.5)  # forward runs find the left one

    def path(z: Tensor) -> tuple[Tensor, Tensor]:
        return normal(z), target.log_density(z)

    start, pilot = torch.randn(512, 1), torch.randn(64, 1)
    log_z = -0.5 * math.log(2 * math.pi)  # of the start's constant, left out
    one_mode = 0.5 * torch.randn(512, 1)  # a chain that never left
    missed = log_ratio(path, start, one_mode, pilot=pilot, rungs=40)
    assert missed.gap.abs() < 0.05
    assert abs(float(missed.estimate) - (log_z + math.log(0.1))) < 0.05
    with pytest.raises(ValueError, match="upper: expected exact draws"):
        _ = missed.upper
    assert "no bound" in str(missed)
    both = target.sample(512, 1)
    shown = log_ratio(path, start, both, pilot=pilot, rungs=40, exact=True)
    assert shown.gap > 2
    assert shown.lower < log_z < shown.upper


def test_a_handful_of_particles_of_which_one_has_all_the_weight_is_told() -> None:
    def path(z: Tensor) -> tuple[Tensor, Tensor]:
        return normal(z), normal(z, 40.0, 0.2)

    z, pilot = torch.randn(16, 1), torch.randn(16, 1)
    with pytest.warns(RuntimeWarning, match="rest on 6.* of the particles, 1.0 of them; take more"):
        found = log_ratio(path, z, 40 + 0.2 * z, pilot=pilot, rungs=2)
    assert found.gap > 100
    log_ratio(lambda z: (normal(z), normal(z, 0.2)), z, z + 0.2, pilot=pilot, repeats=2)


def test_it_says_what_it_is() -> None:
    one = LogRatio(torch.zeros(4, 8), torch.zeros(4, 8), exact=True)
    assert str(one) == "between 0.000 and 0.000 at 95%; gap 0.000 nats, effective particles 100%"
    many = LogRatio(torch.zeros(4, 8, 2), torch.ones(4, 8, 2), exact=False)
    assert "0.000 (mean) forward, -1.000 (mean) in reverse" in str(many)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repeats": 1}, "repeats, rungs, moves: expected at least 2, 1 and 1, got 1, 200 and 1"),
        ({"rungs": 0}, "got 8, 0 and 1"),
        ({"moves": 0}, "got 8, 200 and 0"),
        ({"level": 1.0}, "level: expected a number in (0, 1), got 1.0"),
        ({"start": torch.zeros(4, 1)}, "start: expected at least 8 draws of shape"),
        ({"target": torch.zeros(8, 2)}, "target: expected at least 1 draws of shape"),
        ({"target": torch.zeros(0, 1)}, "target: expected at least 1 draws of shape"),
        (
            {"target": torch.full((8, 1), torch.nan)},
            "target: expected finite draws, got NaN or inf",
        ),
        ({"pilot": torch.zeros(1, 1)}, "pilot: expected at least 2 draws of shape"),
        ({"pilot": torch.zeros(8, 2)}, "pilot: expected at least 2 draws of shape"),
        ({"pilot": torch.full((8, 1), torch.inf)}, "pilot: expected finite draws, got NaN or inf"),
        (
            {"target": torch.zeros(8, 1).double()},
            "target: expected torch.float32 on cpu as start is, got torch.float64 on cpu",
        ),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    draws = {"start": torch.zeros(8, 1), "target": torch.zeros(8, 1), "pilot": torch.randn(8, 1)}
    with pytest.raises(ValueError, match=re.escape(message)):
        log_ratio(lambda z: (normal(z),) * 2, **(draws | options))
