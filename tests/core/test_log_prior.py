"""The latent sites of a program alone: their density, of live parameters, and draws given some."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from programs import MODELS
from pyro_lebm.programs.program import Program


class Seen(PyroModule):
    """z ~ N(loc, 1), w ~ N(z, scale), x ~ N(w, 1), in a plate; counts the runs that reach x."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.scale = nn.Parameter(torch.tensor(1.7, dtype=torch.float64))
        self.reached = 0

    def forward(self, x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(self.loc, 1.0))
            w = pyro.sample("w", dist.Normal(z, self.scale))
            self.reached += 1
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)


X = torch.linspace(-1.0, 2.0, 5, dtype=torch.float64)


@pytest.mark.parametrize("name", sorted({*MODELS} - {"masks_scales_factors"}))
def test_it_is_the_latent_part_of_the_joint(name: str) -> None:
    torch.manual_seed(0)
    program = Program.read(MODELS[name])
    z = torch.stack([program.draw, program.draw + 0.1])
    torch.testing.assert_close(program.log_prior(z).detach(), program.log_parts(z)[0].detach())


def test_masks_and_scales_of_the_program_are_left_out() -> None:
    torch.manual_seed(0)
    program = Program.read(MODELS["masks_scales_factors"])
    z = torch.stack([program.draw, program.draw + 0.1])
    at = program.unpack(z)
    laws = {
        "z": dist.Gamma(2.0, 1.0),
        "y": dist.Normal(at["z"], 1.0),
        "w": dist.LogNormal(0.0, 1.0),
    }
    expected = sum(law.log_prob(at[name]).flatten(1).sum(1) for name, law in laws.items())
    expected = expected + at["z"].log().sum(1) + at["w"].log().flatten(1).sum(1)  # of exp
    torch.testing.assert_close(program.log_prior(z), expected)


def test_gradients_reach_parameters_and_the_rest_does_not_run() -> None:
    model = Seen()
    program = Program.read(model, X)
    z = torch.randn(3, len(X), 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (loc, scale), reached = model.parameters(), model.reached
    pyro.clear_param_store()
    found = torch.autograd.grad(program.log_prior(z).sum(), [loc, scale])
    assert model.reached == reached
    assert not pyro.get_param_store().keys()
    of_w = dist.Normal(z[..., 0], scale).log_prob(z[..., 1])
    density = (dist.Normal(loc, 1.0).log_prob(z[..., 0]) + of_w).sum()
    torch.testing.assert_close(found, torch.autograd.grad(density, [loc, scale]))


def test_other_sites_are_drawn_given_some() -> None:
    """A false alarm in 1e-6: one mean at five standard errors, of 2,000 draws."""
    torch.manual_seed(0)
    program = Program.read(Seen(), X)
    given = torch.linspace(-9.0, 9.0, 2000, dtype=torch.float64)[:, None].expand(-1, len(X))
    draws = program.prior_draws(2000, {"z": given})
    torch.testing.assert_close(draws[..., 0], given)
    error = (draws[..., 1] - given).mean(0)
    assert (error.abs() < 5 * 1.7 / 2000**0.5).all()
