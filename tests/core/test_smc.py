"""Annealed sequential Monte Carlo against weights and constants that are known.

Tolerances are five standard deviations of the estimate over independent runs, measured by the runs
themselves (many populations side by side) wherever there is no formula: a false alarm about once in
a million checks, were the seed free.
"""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor

from pyro_lebm.annealing.bridge import Path
from pyro_lebm.annealing.smc import Population, annealed_smc
from scenarios import CORRELATED, Mixture

LOG_2PI = math.log(2 * math.pi)


def normal(z: Tensor, mean: Tensor | float = 0.0, sd: Tensor | float = 1.0) -> Tensor:
    """Unnormalised log N(mean, sd^2 I)."""
    return -0.5 * ((z - mean) / sd).pow(2).sum(-1)


def to_mixture(target: Mixture, sd: float) -> Path:
    return lambda z: (normal(z, 0.0, sd), target.log_density(z))


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Of independent runs."""
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


def test_two_unequal_modes_get_their_weights() -> None:
    target, runs = Mixture(sd=0.3), 40  # the modes lie 13 standard deviations apart
    cloud = annealed_smc(to_mixture(target, 3.0), 3 * torch.randn(300, runs, 2))
    share = (cloud.position[..., 0] < 0).double().mean(0)
    mean, error = mean_and_error(share)
    assert error < 0.012
    assert abs(mean - target.weight) < 5 * error
    # within a mode
    left = cloud.position[cloud.position[..., 0] < 0]
    assert abs(float(left[:, 0].mean()) + 2) < 0.02
    assert (left.std(0) - target.sd).abs().max() < 0.02
    assert cloud.acceptance.shape == cloud.survivors.shape == cloud.log_evidence.shape == (runs,)


def test_problems_that_have_arrived_cost_no_more() -> None:
    far = torch.tensor([[0.0, 12.0, 0.1], [0.2, 0.3, 6.0]])  # problems (2, 3); two are slow
    asked: list[list[int]] = []
    evaluated = 0

    def path(mean: Tensor) -> Path:
        def ends(z: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal evaluated
            evaluated += z.shape[1:-1].numel()
            return normal(z), normal(z, mean.unsqueeze(-1), 0.5)

        return ends

    def narrow(problems: Tensor) -> Path:
        asked.append(problems.tolist())
        return path(far.flatten()[problems])

    start = torch.randn(400, 2, 3, 2)
    whole = annealed_smc(path(far), start)
    without, evaluated = evaluated, 0
    cloud = annealed_smc(path(far), start, narrow=narrow)
    assert asked == [[1, 5], [1]], asked
    assert evaluated < 0.5 * without
    assert cloud.temperatures > 5
    # the same populations up to the randomness of their moves; 100 effective particles, five errors
    for found in (whole, cloud):
        mean = found.position.mean(0)
        assert (mean - far.unsqueeze(-1)).abs().max() < 5 * 0.5 / math.sqrt(100)
        assert torch.allclose(found.log_evidence, torch.full((2, 3), math.log(0.25)), atol=1.0)
        assert torch.allclose(found.log_target, normal(found.position, far.unsqueeze(-1), 0.5))
        assert found.survivors[0, 1] < found.survivors[0, 0]


def test_evidence_is_unbiased_against_the_closed_form() -> None:
    runs = 60
    start_log_z = math.log(9.0) + LOG_2PI  # 2-d, standard deviation 3

    def path(z: Tensor) -> tuple[Tensor, Tensor]:
        return normal(z, 0.0, 3.0), CORRELATED.log_density(z)

    cloud = annealed_smc(path, 3 * torch.randn(300, runs, 2))
    ratio = (cloud.log_evidence - (CORRELATED.log_z - start_log_z)).exp()
    mean, error = mean_and_error(ratio)
    assert error < 0.02
    # adaptation to the cloud biases by the order of 1/particles
    assert abs(mean - 1) < 5 * error + 1 / 300
    position = cloud.position.flatten(0, 1)
    # particles of a cloud share ancestors: the error is that of the 60 runs' own averages
    for k in range(2):
        mean, error = mean_and_error(cloud.position[..., k].mean(0))
        assert abs(mean - float(CORRELATED.mean[k])) < 5 * error
    assert (torch.cov(position.T) - CORRELATED.cov).abs().max() < 0.1


def test_problems_side_by_side_give_what_each_gives_alone() -> None:
    """Same answers in distribution, at other scales, other evidence, other numbers of rungs."""
    mean = torch.tensor([[0.0], [5.0], [-3.0]])
    sd = torch.tensor([[1.0], [0.05], [2.0]])

    def path(z: Tensor) -> tuple[Tensor, Tensor]:
        return normal(z), normal(z, mean, sd)

    runs = 30
    cloud = annealed_smc(path, torch.randn(400, runs, 3, 1))
    assert cloud.position.shape == (400, runs, 3, 1)
    for k in range(3):
        alone = annealed_smc(
            lambda z, k=k: (normal(z), normal(z, mean[k], sd[k])),  # type: ignore[misc]
            torch.randn(400, runs, 1),
        )
        exact = math.log(float(sd[k]))
        for found in (cloud.log_evidence[:, k], alone.log_evidence):
            average, error = mean_and_error((found - exact).exp())
            assert abs(average - 1) < 5 * error + 1 / 400, k
        for found in (cloud.position[:, :, k, 0], alone.position[:, :, 0]):
            average, error = mean_and_error(found.mean(0))
            assert abs(average - float(mean[k])) < 5 * error, k
            assert abs(float(found.std()) / float(sd[k]) - 1) < 0.05, k
    # a start that is already the target keeps all of its particles at all but one resampling
    assert float(cloud.log_evidence[:, 0].abs().max()) < 1e-5


def test_a_hard_neighbour_does_not_disturb_an_easy_problem() -> None:
    """The easy one waits at its target: no weights, no resampling, no loss of ancestors."""

    def path(z: Tensor) -> tuple[Tensor, Tensor]:
        hard = torch.tensor([[0.0], [30.0]])
        return normal(z), normal(z, hard, torch.tensor([[1.0], [0.05]]))

    cloud = annealed_smc(path, torch.randn(200, 2, 1))
    assert cloud.temperatures > 5
    assert float(cloud.survivors[0]) == 1.0
    assert float(cloud.survivors[1]) < 0.5
    assert abs(float(cloud.position[:, 1].mean()) - 30) < 0.05
    assert bool((cloud.acceptance > 0.3).all())


def test_particles_without_density_die_out() -> None:
    """The target is a half normal: half of the start has no density at all there."""

    def path(z: Tensor) -> tuple[Tensor, Tensor]:
        inside = normal(z)
        return inside, torch.where(z.squeeze(-1) > 0, inside, torch.full_like(inside, -math.inf))

    runs = 40
    cloud = annealed_smc(path, torch.randn(400, runs, 1))
    assert (cloud.position > 0).all()
    mean, error = mean_and_error(cloud.log_evidence.exp())
    assert abs(mean - 0.5) < 5 * error
    mean, error = mean_and_error(cloud.position.mean((0, 2)))
    assert abs(mean - math.sqrt(2 / math.pi)) < 5 * error
    assert torch.isfinite(cloud.log_target).all()


@pytest.mark.parametrize("value", [math.nan, -math.inf, math.inf])
def test_a_target_without_any_density_ends_and_says_so(value: float) -> None:
    """One problem is hopeless; the other is not spoilt."""

    def path(z: Tensor) -> tuple[Tensor, Tensor]:
        target = normal(z, 1.0)
        target = torch.cat([target[:, :1], torch.full_like(target[:, 1:], value)], 1)
        return normal(z), target

    with pytest.warns(RuntimeWarning, match="not reached within max_temperatures"):
        cloud = annealed_smc(path, torch.randn(300, 2, 1), max_temperatures=30)
    assert torch.isfinite(cloud.position).all()
    assert cloud.log_evidence[1] == -math.inf
    assert cloud.survivors[1] == 1  # nobody is better than anybody
    assert abs(float(cloud.log_evidence[0])) < 0.3
    assert abs(float(cloud.position[:, 0].mean()) - 1) < 0.3


def test_too_few_temperatures_are_warned_about() -> None:
    def path(z: Tensor) -> tuple[Tensor, Tensor]:
        return normal(z), normal(z, 10.0, 0.1)

    with pytest.warns(RuntimeWarning, match="not reached within max_temperatures"):
        cloud = annealed_smc(path, torch.randn(100, 2), max_temperatures=2)
    assert cloud.temperatures == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert annealed_smc(path, torch.randn(100, 2)).temperatures > 2
        # reached by the last rung in its own time: nothing to warn about
        annealed_smc(lambda z: (normal(z), normal(z)), torch.randn(50, 1), max_temperatures=1)


def run(seed: int = 0, dtype: torch.dtype = torch.float32) -> Population:
    torch.manual_seed(seed)
    return annealed_smc(to_mixture(Mixture(), 3.0), 3 * torch.randn(64, 1, dtype=dtype))


def test_a_seed_repeats_a_run_and_dtypes_are_kept() -> None:
    assert torch.equal(run().position, run().position)
    assert not torch.equal(run(0).position, run(1).position)
    double = run(dtype=torch.float64)
    assert double.position.dtype == double.log_evidence.dtype == torch.float64


def test_one_problem_of_no_further_dimension() -> None:
    cloud = run()
    assert cloud.position.shape == (64, 1)
    assert cloud.log_target.shape == (64,)
    assert cloud.log_evidence.shape == cloud.survivors.shape == cloud.acceptance.shape == ()
    assert torch.allclose(cloud.log_target, Mixture().log_density(cloud.position))


def test_it_runs_under_no_grad_and_inference_mode_and_leaves_no_graph() -> None:
    weight = torch.nn.Parameter(torch.ones(()))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            start = torch.randn(64, 1)
            cloud = annealed_smc(lambda z: (normal(z), weight * normal(z, 1.0)), start)
        assert not cloud.position.requires_grad
        assert not cloud.log_evidence.requires_grad
        assert float(cloud.acceptance) > 0.3  # gradients were there
    assert weight.grad is None


@pytest.mark.parametrize("shape", [(5,), (1, 3), (0, 3)])
def test_fewer_than_two_particles_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="start: expected at least 2 particles"):
        annealed_smc(lambda z: (normal(z), normal(z)), torch.zeros(shape))


@pytest.mark.parametrize("keep", [0.0, 1.0, -0.5, math.nan])
def test_a_share_outside_zero_and_one_is_refused(keep: float) -> None:
    with pytest.raises(ValueError, match="keep: expected a share between 0 and 1, got"):
        annealed_smc(lambda z: (normal(z), normal(z)), torch.randn(4, 1), keep=keep)


def test_no_temperatures_are_refused() -> None:
    with pytest.raises(ValueError, match="max_temperatures: expected at least 1, got 0"):
        annealed_smc(lambda z: (normal(z), normal(z)), torch.randn(4, 1), max_temperatures=0)


def test_a_path_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"path: expected .*\(8, 3\), got .*\(3, 8\)"):
        annealed_smc(lambda z: (normal(z), normal(z).T), torch.randn(8, 3, 2))
