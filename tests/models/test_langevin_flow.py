"""LangevinFlow: its steps, the density that they leave as it is, the published update's bias."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pyro_lebm.checkpoint import CheckpointError
from pyro_lebm.energy import MLPEnergy
from pyro_lebm.models import LangevinFlow

UPDATES = ("ornstein-uhlenbeck", "published")


class Bowl(nn.Module):
    """U = |z|^2 / 2."""

    def forward(self, z: Tensor) -> Tensor:
        return 0.5 * (z * z).sum(-1)

    def gradient(self, z: Tensor) -> Tensor:
        return z


class TwoWells(nn.Module):
    """U = (z^2 - 1)^2."""

    def forward(self, z: Tensor) -> Tensor:
        return ((z * z - 1) ** 2).sum(-1)

    def gradient(self, z: Tensor) -> Tensor:
        return 4 * z * (z * z - 1)


class Flat(nn.Module):
    """U = 0, without a gradient of its own."""

    def forward(self, z: Tensor) -> Tensor:
        return 0 * z.sum(-1)


def flow(potential: nn.Module, latent: int = 1, **options: Any) -> LangevinFlow:
    """In float64, h the gap itself."""
    return LangevinFlow(latent, 2, potential=potential, **{"step_size": 1.0} | options).double()


def double(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


# A step


@pytest.mark.parametrize("update", UPDATES)
def test_a_step_is_the_written_one(update: str) -> None:
    model = flow(MLPEnergy(3), 3, friction=0.4, update=update, covariates=2, step_size=0.6, unit=2)
    state, noise, u = torch.randn(5, 6), torch.randn(5, 3), torch.randn(5, 2)
    gap = torch.rand(5, 1) + 0.1
    state, noise, u, gap = (x.double() for x in (state, noise, u, gap))
    z, v, h = state[:, :3], state[:, 3:], 0.3 * gap
    at = (z if update == "published" else z + h * v).requires_grad_(True)
    (slope,) = torch.autograd.grad(model.potential(at).sum(), at)
    assert isinstance(model.flow.drive, nn.Linear)
    kicked = v - h * (slope - u @ model.flow.drive.weight.T)
    if update == "published":
        after = 0.6 * kicked + math.sqrt(0.8) * noise
    else:
        decay = torch.exp(-0.4 * h)
        after = decay * kicked + torch.sqrt(1 - decay**2) * noise
    found = model.step(state, gap, noise, u)
    assert torch.allclose(found, torch.cat([z + h * v, after], -1), atol=1e-6)  # of float32 logs


@pytest.mark.parametrize("update", UPDATES)
def test_a_gap_of_nothing_moves_nothing(update: str) -> None:
    model = flow(TwoWells(), friction=0.5, learn_friction=True, update=update)
    state = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(3, 1, dtype=torch.float64, requires_grad=True)
    after = model.step(state, double(0.0, 1e-30, 0.5)[:, None], noise)
    assert torch.equal(after[0], state[0]) and torch.allclose(after[1], state[1], atol=1e-6) == (
        update != "published"
    )
    after.sum().backward()
    free = model.flow.free_friction.grad
    assert state.grad is not None and noise.grad is not None and free is not None
    assert all(bool(torch.isfinite(g).all()) for g in (state.grad, noise.grad, free))
    assert torch.equal(state.grad[0], torch.ones(2).double()) and noise.grad[0] == 0


def test_velocities_forget_as_time_passes_however_it_is_cut() -> None:
    model, state, none = flow(Flat(), friction=0.7), double(0.0, 1.0), double(0.0)
    gaps = double(0.1, 0.9, 0.5)
    for gap in gaps:
        state = model.step(state, gap[None], none)
    decay = torch.exp(-0.7 * gaps.sum())
    assert torch.allclose(state[1], decay, atol=1e-6)
    # the variance of the noise is that of one long gap, too
    variance = torch.zeros((), dtype=torch.float64)
    for gap in gaps:
        shaken = model.step(double(0.0, 0.0), gap[None], double(1.0))[1]
        variance = torch.exp(-1.4 * gap) * variance + shaken**2
    assert torch.allclose(variance, 1 - decay**2, atol=1e-6)


def test_more_substeps_come_to_the_path_without_noise() -> None:
    # hardly any friction: a harmonic oscillator, whose state at time t is known
    exact = double(math.cos(1.0), -math.sin(1.0))
    errors = []
    for substeps in (50, 100):
        model = flow(Bowl(), friction=1e-12, substeps=substeps)
        after = model.step(double(1.0, 0.0), double(1.0), double(0.0))
        errors.append(float((after - exact).norm()))
    assert errors[1] < 0.01 and errors[0] / errors[1] == pytest.approx(2, rel=0.05)


# The density that steps leave as it is


def moments(state: Tensor) -> Tensor:
    z, v = state[..., 0], state[..., 1]
    return torch.stack([z**2, z**4, v**2, z * v, (z * v) ** 2, v**4], -1)


def drift(model: LangevinFlow, h: float) -> Tensor:
    """By how much a unit of time's steps change moments of exp(-U(z) - v^2 / 2), by quadrature."""
    z = torch.linspace(-4, 4, 401, dtype=torch.float64)
    mass = torch.exp(-model.potential(z[:, None]))
    node, weight = (torch.from_numpy(x) for x in np.polynomial.hermite_e.hermegauss(12))
    grid = torch.cartesian_prod(z, node, node)
    weights = (mass[:, None, None] * weight[:, None] * weight).flatten()
    after = model.step(grid[:, :2], double(h), grid[:, 2:])
    change = moments(after) - moments(grid[:, :2])
    return (change * weights[:, None]).sum(0) / weights.sum() / h


def halved(errors: Iterable[Tensor]) -> None:
    """Each error is half the one before, near enough."""
    sizes = [float(error.abs().max()) for error in errors]
    ratios = [a / b for a, b in pairwise(sizes)]
    assert sizes[-1] > 0 and ratios[-1] == pytest.approx(2, rel=0.05)
    assert all(ratio > 1.7 for ratio in ratios)


@pytest.mark.parametrize("potential", [Bowl(), TwoWells()])
def test_steps_leave_the_boltzmann_density_as_they_shrink(potential: nn.Module) -> None:
    model = flow(potential, friction=0.5)
    halved(drift(model, h) for h in (0.05, 0.025, 0.0125))
    published = flow(potential, friction=0.5, update="published")
    assert all(float(drift(published, h)[2]) > 0.2 / h for h in (0.05, 0.025))


def test_a_long_gap_leaves_it_as_substeps_shrink() -> None:
    """So the noise may act once over the gap."""
    halved(drift(flow(TwoWells(), friction=0.5, substeps=n), 0.5) for n in (128, 256, 512))


def stationary(model: LangevinFlow, h: float) -> Tensor:
    """The covariance of [z, v] in the end, under a quadratic potential: a linear recursion's."""
    across = model.step(torch.eye(2).double(), double(h), torch.zeros(2, 1).double()).T
    noise = model.step(torch.zeros(2).double(), double(h), double(1.0))[:, None]
    equation = torch.eye(4).double() - torch.kron(across, across)
    found: Tensor = torch.linalg.solve(equation, (noise @ noise.T).flatten())
    return found.view(2, 2)


@pytest.mark.parametrize("friction", [0.25, 0.5])
def test_the_published_update_is_too_hot_however_small_the_step(friction: float) -> None:
    exact = flow(Bowl(), friction=friction)
    halved(stationary(exact, h) - torch.eye(2) for h in (0.01, 0.005, 0.0025))
    published = flow(Bowl(), friction=friction, update="published")
    hot = torch.diag(double(1 / (1 - friction), 1 / (1 - friction / 2)))
    found = [stationary(published, h) - hot for h in (0.01, 0.005, 0.0025)]
    assert float(found[-1].abs().max()) < 0.01
    halved(found)
    assert hot[0, 0] == (2.0 if friction == 0.5 else pytest.approx(4 / 3))


def test_chains_stay_in_two_wells_as_they_should() -> None:
    z = torch.linspace(-4, 4, 4001, dtype=torch.float64)
    mass = torch.exp(-TwoWells()(z[:, None]))
    mass = mass / mass.sum()
    n = 10_000
    start = z[mass.multinomial(n, replacement=True)][:, None]
    start = torch.cat([start, torch.randn(n, 1).double()], -1)
    exact = torch.stack([(mass * z**2).sum(), (mass * z**4).sum(), double(1.0)[0]])
    errors = []
    for h, steps in ((0.3, 14), (0.025, 160)):
        model, state = flow(TwoWells(), friction=1.0), start
        with torch.no_grad():
            for _ in range(steps):
                state = model.step(state, double(h), torch.randn(n, 1).double())
        found = moments(state)[:, :3]
        errors.append(((found.mean(0) - exact) / (found.std(0) / math.sqrt(n))).abs())
        assert not torch.allclose(state, start, atol=0.1)
    # Four and a half standard errors of independent chains, a false alarm in 5e4 runs: the bias of
    # the small step, a twelfth of the large one's, takes up to one more.
    assert float(errors[0].max()) > 10 and bool((errors[1] < 5.5).all())


# Friction


@pytest.mark.parametrize("update", UPDATES)
def test_friction_is_learned_if_asked(update: str) -> None:
    for learn in (True, False):
        model = flow(Bowl(), friction=0.3, learn_friction=learn, update=update)
        model.requires_grad_(True)
        assert model.friction.item() == pytest.approx(0.3, rel=1e-6)
        assert ("flow.free_friction" in dict(model.named_parameters())) == learn
        assert "flow.free_friction" in model.state_dict()
        assert model.friction.requires_grad == learn
    with torch.no_grad():
        model.flow.free_friction.fill_(20.0)
        assert float(model.friction) == pytest.approx(1.0 if update == "published" else math.e**20)


@pytest.mark.parametrize(
    "other",
    [
        {"update": "published"},
        {"friction": 0.6},
        {"learn_friction": True},
        {"step_size": 0.2},
        {"substeps": 2},
        {"unit": 3.0},
    ],
)
def test_equal_weights_of_another_dynamics_are_refused(
    other: dict[str, Any], tmp_path: Path
) -> None:
    LangevinFlow(2, 1, friction=0.5).save(tmp_path / "model.pt")
    LangevinFlow(2, 1, friction=0.5).load(tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"dynamics: expected .* in .* for a gap of 1, got "):
        LangevinFlow(2, 1, **{"friction": 0.5} | other).load(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent": 0}, "latent: expected a size of at least 1, got 0"),
        ({"substeps": 0}, "substeps: expected a size of at least 1, got 0"),
        ({"friction": 0.0}, r"friction: expected a positive number, got 0\.0"),
        ({"friction": math.nan}, "friction: expected a positive number, got nan"),
        ({"step_size": -0.1}, r"step_size: expected a positive number, got -0\.1"),
        ({"update": "euler"}, r"update: expected one of .*'published'\), got 'euler'"),
        (
            {"update": "published", "friction": 1.0},
            r"friction: expected less than 1 for the published update, got 1\.0",
        ),
        (
            {"potential": nn.Linear(2, 1)},
            r"potential: expected one number per position, shape \(3, 2\) for \(3, 2, 2\), got "
            r"shape \(3, 2, 1\)",
        ),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LangevinFlow(**{"latent": 2, "observed": 1} | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent": 2.0}, "latent: expected a whole number, got 2.0"),
        ({"substeps": 1.5}, "substeps: expected a whole number, got 1.5"),
        ({"covariates": 1.5}, "covariates: expected a whole number, got 1.5"),
        ({"friction": "a"}, "friction: expected a number, got 'a'"),
        ({"step_size": None}, "step_size: expected a number, got None"),
        ({"unit": "a"}, "unit: expected a number, got 'a'"),
    ],
)
def test_what_is_no_number_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        LangevinFlow(**{"latent": 2, "observed": 1} | options)


@pytest.mark.parametrize(("latent", "groups"), [(12, 4), (6, 2), (5, 1)])
def test_the_default_potential_fits_any_size(latent: int, groups: int) -> None:
    model = LangevinFlow(latent, 2)
    assert model.potential.weight.shape == (groups, groups, 3)
    assert model.generate(2, torch.rand(5).cumsum(0)).shape == (2, 5, 2)
