"""Potentials: the published form within a spring, its bounds, gradients whatever the potential."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_lebm.energy import MLPEnergy
from pyro_lebm.models import CoupledOscillators
from pyro_lebm.models.potentials import gradient

SIZES = [(12, 4, 3), (10, 2, 5), (4, 4, 3), (4, 2, 5), (5, 1, 1)]


def strong(latent: int, groups: int, kernel: int = 3, scale: float = 2.0) -> CoupledOscillators:
    potential = CoupledOscillators(latent, groups, kernel).double()
    with torch.no_grad():
        potential.weight.copy_(scale * torch.randn_like(potential.weight))
        potential.log_stiffness.fill_(-0.5)
        potential.log_reach.fill_(0.3)
    return potential


@pytest.mark.parametrize(("latent", "groups", "kernel"), SIZES)
def test_it_is_the_convolution_within_a_spring(latent: int, groups: int, kernel: int) -> None:
    potential = strong(latent, groups, kernel)
    z = torch.randn(6, latent).double()
    reach = math.exp(0.3)
    bent = (reach * torch.tanh(z / reach)).view(6, groups, -1)
    half = kernel // 2
    sites = torch.arange(-half, latent // groups + half) % (latent // groups)
    convolved = F.conv1d(bent[..., sites], potential.weight)
    exact = 0.5 * math.exp(-0.5) * z.square().sum(-1) + (convolved * bent).sum((-1, -2))
    assert torch.allclose(potential(z), exact)


def test_small_states_meet_the_published_form() -> None:
    potential, z = strong(12, 4), 1e-4 * torch.randn(5, 12).double()
    channels = z.view(5, 4, 3)
    convolved = F.conv1d(F.pad(channels, (1, 1), mode="circular"), potential.weight)
    published = (convolved * channels).sum((-1, -2))
    spring = 0.5 * math.exp(-0.5) * z.square().sum(-1)
    assert torch.allclose(potential(z), published + spring, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("latent", "groups", "kernel"), SIZES)
def test_its_gradient_is_autograds(latent: int, groups: int, kernel: int) -> None:
    potential = strong(latent, groups, kernel)
    z = torch.randn(3, 4, latent, dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(potential(z).sum(), z)
    assert torch.allclose(potential.gradient(z), exact)
    potential.gradient(z).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in potential.parameters())


@torch.no_grad()
def test_it_is_bounded_below_and_its_forces_are_no_steeper_than_a_spring() -> None:
    potential = strong(12, 4, scale=10.0)
    scales = torch.logspace(-2, 4, 500).double()[:, None]
    z = scales * torch.randn(500, 12).double()
    matrix = potential._matrix()
    assert float(potential(z).min()) >= -math.exp(0.6) * float(matrix.abs().sum())
    assert float(potential(z).min()) < 0  # the coupling alone has no bound
    far = potential.gradient(z[-1]) / z[-1]
    assert torch.allclose(far, torch.full_like(far, math.exp(-0.5)), rtol=1e-2)


def test_couplings_stronger_than_the_spring_make_wells() -> None:
    potential = CoupledOscillators(4).double()
    with torch.no_grad():
        potential.weight.zero_()
        potential.weight[range(4), range(4), 1] = -2.0
    z = 0.1 * torch.tensor([[1.0, 1, 1, 1], [-1, 1, -1, 1]]).double()
    for _ in range(2000):
        z = z - 0.05 * potential.gradient(z)
    assert bool((potential(z) < -0.1).all()) and z[0, 0] > 0.5 and z[1, 0] < -0.5
    assert torch.allclose(potential.gradient(z), torch.zeros_like(z), atol=1e-6)


# Gradients of any potential


class Quartic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, z: Tensor) -> Tensor:
        return self.scale * (z**4).sum(-1)


def test_a_potential_without_a_gradient_has_autograds() -> None:
    potential, z = Quartic(), torch.randn(3, 5, 2)
    exact = 4 * potential.scale.detach() * z**3
    assert torch.allclose(gradient(potential, z), exact)
    with torch.no_grad():
        quiet = gradient(potential, z)
    assert torch.allclose(quiet, exact) and not quiet.requires_grad
    mapped = torch.func.vmap(lambda each: gradient(potential, each))(z)
    assert torch.allclose(mapped, exact)


def test_training_goes_through_it() -> None:
    potential, z = Quartic(), torch.randn(3, 5, 2, requires_grad=True)
    gradient(potential, z).sum().backward()
    assert potential.scale.grad is not None and z.grad is not None
    assert torch.allclose(potential.scale.grad, (4 * z**3).sum())
    assert torch.allclose(z.grad, 12 * potential.scale * z**2)
    energy = MLPEnergy(2)
    gradient(energy, z).square().sum().backward()
    assert all(p.grad is not None for n, p in energy.named_parameters() if n != "net.4.bias")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent": 0}, "latent: expected a size of at least 1, got 0"),
        ({"groups": 0}, "groups: expected a size of at least 1, got 0"),
        ({"latent": 6}, "latent: expected a multiple of groups=4, got 6"),
        ({"kernel": 2}, "kernel: expected an odd size, got 2"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CoupledOscillators(**{"latent": 8} | options)
