"""What a program must not be, found out when it is read."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints

from pyro_lebm.distribution import EnergyBased
from pyro_lebm.energy import MLPEnergy
from pyro_lebm.prior import EnergyPrior
from pyro_lebm.programs.program import Program


def test_a_program_without_latent_sites_is_refused() -> None:
    def program() -> None:
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.tensor(1.0))

    with pytest.raises(ValueError, match="model: expected at least one latent sample site"):
        Program.read(program)


@pytest.mark.parametrize(
    "fn", [dist.Bernoulli(0.5), dist.Poisson(2.0), dist.Categorical(torch.ones(3))]
)
def test_a_discrete_latent_is_refused(fn: Any) -> None:
    def program() -> None:
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("k", fn)

    with pytest.raises(
        ValueError, match=f"site 'k': expected a continuous latent, got {type(fn).__name__}"
    ):
        Program.read(program)


@pytest.mark.parametrize("kind", ["site", "computed", "parameter", "truncated"])
def test_a_support_that_moves_is_refused(kind: str) -> None:
    def program() -> None:
        low = pyro.sample("low", dist.Normal(0.0, 1.0))
        bound = {
            "site": lambda: low,
            "computed": lambda: low.exp() - 9,
            "parameter": lambda: pyro.param("bound", torch.tensor(0.0)),
            "truncated": lambda: low,
        }[kind]()
        fn: Any = dist.Uniform(bound, 9.0)
        if kind == "truncated":
            fn = dist.Pareto(bound.exp(), torch.ones(2)).to_event(1)
        pyro.sample("high", fn)

    with pytest.raises(
        ValueError, match="site 'high': expected a support that depends on no other"
    ):
        Program.read(program)


@pytest.mark.parametrize("kind", ["base", "energy"])
def test_a_density_that_hangs_on_another_site_is_refused(kind: str) -> None:
    """Log Z would move with it, and no score could tell."""

    def program() -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        loc = 2 * a if kind == "base" else 0.0
        fn = EnergyBased(
            (lambda z: z * a) if kind == "energy" else (lambda z: z), dist.Normal(loc, 1.0)
        )
        pyro.sample("b", fn)

    part = "base: expected constants" if kind == "base" else "energy: expected an nn.Module"
    with pytest.raises(ValueError, match=part):
        Program.read(program)


def test_sites_that_come_and_go_are_refused() -> None:
    def program() -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        if a > 100:
            pyro.sample("b", dist.Normal(0.0, 1.0))

    read = Program.read(program)
    with pytest.raises(ValueError, match=r"model: expected the latent sites \['a'\], got 'b' too"):
        read.log_density(torch.tensor([101.0]))


class Holder:
    def __init__(self, prior: EnergyPrior) -> None:
        self.priors = [prior]

    def __call__(self) -> None:
        with pyro.plate("n", 3):
            pyro.sample("z", self.priors[0]())


@pytest.mark.parametrize("kind", ["closure", "partial", "hidden"])
def test_a_plain_function_may_use_a_learned_prior(kind: str) -> None:
    prior = EnergyPrior(MLPEnergy(2, hidden=(4,)), 2, num_chains=4)
    torch.nn.init.normal_(prior.energy.net[-1].weight)  # type: ignore[index,union-attr]

    def closure() -> None:
        with pyro.plate("n", 3):
            pyro.sample("z", prior())

    def given(which: EnergyPrior) -> None:
        with pyro.plate("n", 3):
            pyro.sample("z", which())

    fn: Any = {"closure": closure, "partial": partial(given, prior), "hidden": Holder(prior)}[kind]
    read = Program.read(fn)
    z = torch.randn(5, 3, 2, requires_grad=True)
    with torch.no_grad():
        expected = prior().log_prob(z)
    if kind == "hidden":  # no way to find its parameters, but a single chain needs none
        assert torch.allclose(read.log_density(z[0]), expected[0])
        return
    found = read.log_density(z)
    assert torch.allclose(found, expected)
    found.sum().backward()
    assert z.grad is not None and all(p.grad is None for p in prior.parameters())
    assert not read.log_density(z.detach()).requires_grad
    assert not prior.chains.visited.any()


def test_flat_densities_are_read_without_a_draw() -> None:
    def flat() -> None:
        with pyro.plate("rows", 3):
            scale = pyro.sample("scale", dist.ImproperUniform(constraints.positive, (), ()))
            support = constraints.ordered_vector
            cuts = pyro.sample("cuts", dist.ImproperUniform(support, (3,), (2,)).mask(True))
            pyro.sample("x", dist.Normal(cuts, scale[:, None]).to_event(1), obs=torch.ones(3, 2))

    program = Program.read(flat)
    assert program.draw.shape == (3, 3)
    scale, cuts = program.values["scale"], program.values["cuts"]
    assert bool((scale > 0).all()) and bool((cuts[:, 1] > cuts[:, 0]).all())
    z = torch.zeros(3, 3)  # scale 1, cuts 0 and 1; the Jacobians are 1
    exact = dist.Normal(torch.tensor([0.0, 1.0]), 1.0).log_prob(torch.ones(2)).sum()
    assert torch.allclose(program.log_density(z), exact.expand(3))


def test_a_draw_at_which_the_density_is_undefined_can_be_read() -> None:
    def overflows() -> None:
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal((1e30 * x).exp().sin(), 1.0), obs=torch.tensor(0.0))

    with pyro.validation_enabled(True):
        programs = [Program.read(overflows) for _ in range(8)]  # half of them at sin(inf)
    assert all(program.dim == 1 for program in programs)
