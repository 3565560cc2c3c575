"""Energies of one site given another, each element with a constant of its own."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

from pyro_lebm.conditional import ConditionalEnergyBased
from pyro_lebm.energy import MLPEnergy
from pyro_lebm.programs.program import Program
from untyped import optim


def number(value: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(value, dtype=torch.float64))


class Around(nn.Module):
    """N(weight c + bias, scale^2)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias, self.log_scale = number(0.7), number(0.2), number(-0.3)

    def forward(self, c: Tensor) -> Any:
        return dist.Normal(self.weight * c + self.bias, self.log_scale.exp()).to_event(1)


class Quadratic(nn.Module):
    """E = a z^2 / 2 + b z c + d z."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.d = number(0.5), number(0.4), number(-0.3)

    def forward(self, both: Tensor) -> Tensor:
        z, c = both.unbind(-1)
        return 0.5 * self.a * z**2 + self.b * z * c + self.d * z


def law(base: Around, energy: Quadratic, c: Tensor) -> Any:
    """The tilted normal of each context ``(n, 1)``, in closed form."""
    precision = (-2 * base.log_scale).exp()
    linear = (base.weight * c + base.bias) * precision - energy.b * c - energy.d
    total = precision + energy.a
    return dist.Normal(linear / total, total.rsqrt()).to_event(1)


class Exact(ConditionalEnergyBased):
    """Negatives at one standard deviation on either side: right in the first two moments."""

    calls = 0

    def expand(self, batch_shape: Any, _instance: Any = None) -> Exact:
        context = self.context.expand((*torch.Size(batch_shape), 1))
        return Exact(self.energy, self.base, context, learn=self.learn)

    def negatives(self) -> Tensor:
        Exact.calls += 1
        assert isinstance(self.base, Around) and isinstance(self.energy, Quadratic)
        exact = law(self.base, self.energy, self.context.detach())
        sign = 1 - 2 * (torch.arange(self.context.shape[-2]) % 2).double()
        points: Tensor = exact.mean + exact.base_dist.scale * sign[:, None]
        return points.detach()


def pairs(n: int) -> Tensor:
    """Contexts ``(2 n, 1)``, each of them twice in a row."""
    return torch.linspace(-1.0, 2.0, n, dtype=torch.float64).repeat_interleave(2)[:, None]


def test_gradients_are_those_of_the_normalised_density() -> None:
    base, energy, free = Around(), Quadratic(), pairs(4).requires_grad_(True)
    z = (torch.linspace(-2.0, 1.0, 8, dtype=torch.float64)[:, None] ** 3).requires_grad_(True)
    Exact.calls = 0
    weight = torch.linspace(0.0, 2.0, 4, dtype=torch.float64).repeat_interleave(2)
    found = (weight * Exact(energy, base, free).log_prob(z)).sum()
    expected = (weight * law(base, energy, free).log_prob(z)).sum()
    (at_z,) = torch.autograd.grad(found, z, retain_graph=True)
    assert Exact.calls == 0  # a gradient in the value draws none
    torch.testing.assert_close(at_z, torch.autograd.grad(expected, z, retain_graph=True)[0])
    leaves = [*base.parameters(), *energy.parameters()]
    ours = torch.autograd.grad(found, [free, *leaves])
    theirs = torch.autograd.grad(expected, [free, *leaves])
    assert Exact.calls == 1
    torch.testing.assert_close(ours[1:], theirs[1:], rtol=1e-9, atol=1e-9)
    # a context's own: of a pair together, as its two negatives are right together
    torch.testing.assert_close(ours[0].reshape(4, 2).sum(-1), theirs[0].reshape(4, 2).sum(-1))


def test_more_values_than_contexts_have_negatives_each() -> None:
    base, energy, c = Around(), Quadratic(), pairs(3)
    z = torch.linspace(-1.0, 1.0, 30, dtype=torch.float64).reshape(5, 6, 1)
    leaves = [*base.parameters(), *energy.parameters()]
    found = torch.autograd.grad(Exact(energy, base, c).log_prob(z).sum(), leaves)
    expected = torch.autograd.grad(law(base, energy, c).log_prob(z).sum(), leaves)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_draws_have_the_known_moments() -> None:
    """A false alarm in 1e-5: two moments at five standard errors, of 4,000 short runs."""
    torch.manual_seed(0)
    base, energy, n = Around(), Quadratic(), 4000
    c = torch.full((n, 1), 1.5, dtype=torch.float64)
    draws = ConditionalEnergyBased(energy, base, c, steps=60, step_size=0.5).sample()
    exact = law(base, energy, c[:1])
    scale = float(exact.base_dist.scale.detach())
    assert abs(float(draws.mean() - exact.mean.detach())) < 5 * scale / math.sqrt(n)
    assert abs(float(draws.std()) / scale - 1) < 5 / math.sqrt(2 * n)


def test_an_energy_held_fixed_has_no_gradient() -> None:
    base, energy, c = Around(), Quadratic(), pairs(3)
    Exact(energy, base, c, learn=False).log_prob(torch.zeros_like(c)).sum().backward()
    assert all(p.grad is None for p in energy.parameters())
    assert all(p.grad is not None for p in base.parameters())


class Unit(nn.Module):
    def forward(self, c: Tensor) -> Any:
        return dist.Normal(c, 1.0).to_event(1)


ENERGY = MLPEnergy(2)


def model(data: Tensor) -> None:
    with pyro.plate("rows", len(data)):
        top = pyro.sample("top", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        low = pyro.sample("low", ConditionalEnergyBased(ENERGY, Unit(), top, steps=2))
        pyro.sample("x", dist.Normal(low, 1.0).to_event(1), obs=data)


def guide(data: Tensor) -> None:
    loc = pyro.param("loc", torch.zeros(1))
    with pyro.plate("rows", len(data)):
        pyro.sample("top", dist.Normal(loc, 0.5).to_event(1))
        pyro.sample("low", dist.Normal(loc, 0.5).to_event(1))


def test_svi_takes_it_and_a_kernel_does_not() -> None:
    data = torch.ones(4, 1)
    SVI(model, guide, optim.Adam({"lr": 0.1}), Trace_ELBO()).step(data)
    assert float(pyro.param("loc").detach()) != 0
    program = Program.read(model, data)
    with pytest.raises(ValueError, match="'low': expected a density whose constant is the same"):
        program.log_density(program.draw)


def test_bad_settings_are_refused() -> None:
    c = torch.zeros(3, 1)
    with pytest.raises(ValueError, match="steps: expected at least 1, got 0"):
        ConditionalEnergyBased(ENERGY, Unit(), c, steps=0)
    with pytest.raises(ValueError, match="step_size"):
        ConditionalEnergyBased(ENERGY, Unit(), c, step_size=0.0)

    class Positive(nn.Module):
        def forward(self, c: Tensor) -> Any:
            return dist.LogNormal(c, 1.0).to_event(1)

    with pytest.raises(ValueError, match="base: expected an unconstrained support"):
        ConditionalEnergyBased(ENERGY, Positive(), c)


@pytest.mark.parametrize("shape", [(), (3, 1)])
def test_an_energy_is_one_number_per_element(shape: tuple[int, ...]) -> None:
    class Wrong(nn.Module):
        def forward(self, zc: Tensor) -> Tensor:
            return torch.zeros(shape)

    density = ConditionalEnergyBased(Wrong(), Unit(), torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"one number per element, shape \(3,\), got shape"):
        density.log_prob(torch.zeros(3, 1))
