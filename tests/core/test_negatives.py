"""How often negatives are drawn: by an optimiser step once, by all else never."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import (
    HMC,
    MCMC,
    NUTS,
    SVI,
    TraceMeanField_ELBO,
)

from scenarios import (
    quadrature_draws,
)
from tilted import ELBOS, Tilted
from untyped import optim


def noisy_guide() -> None:
    loc = pyro.param("loc", torch.zeros(12, 1, dtype=torch.float64))
    with pyro.plate("points", 12):
        pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))


@pytest.mark.parametrize("elbo", ELBOS)
@pytest.mark.parametrize("observed", [True, False], ids=["observed", "latent"])
def test_svi_draws_once_a_step_and_evaluation_never(elbo: Any, observed: bool) -> None:
    model = Tilted(observed=observed)
    guide = (lambda: None) if observed else noisy_guide
    svi = SVI(model, guide, optim.Adam({"lr": 1e-3}), elbo())
    svi.evaluate_loss()
    assert model.count.calls == 0
    before = [p.detach().clone() for p in model.parameters()]
    svi.step()
    assert model.count.calls == 1
    assert all((a != b).all() for a, b in zip(before, model.parameters(), strict=True))


def test_the_mean_field_elbo_falls_back_to_draws() -> None:
    model = Tilted(observed=False)
    torch.manual_seed(0)
    found = TraceMeanField_ELBO().loss(model, noisy_guide)
    torch.manual_seed(0)
    q = dist.Normal(torch.zeros(12, 1).double(), 0.5).to_event(1)
    z = q.sample()
    with torch.no_grad():
        expected = q.log_prob(z).sum() - (model.base().log_prob(z) - model.energy(z)).sum()
    assert abs(found - float(expected)) < 1e-9


@pytest.mark.parametrize("kernel", [HMC, NUTS])
def test_pyros_mcmc_samples_the_density_and_draws_no_negatives(kernel: Any) -> None:
    model = Tilted(observed=False)
    model.register_buffer("unused", torch.zeros(()))

    def program() -> None:
        pyro.sample("z", model.density())

    steps: dict[str, Any] = {"num_steps": 3} if kernel is HMC else {"max_tree_depth": 2}
    mcmc = MCMC(kernel(program, **steps), num_samples=200, warmup_steps=50, disable_progbar=True)
    mcmc.run()
    assert model.count.calls == 0
    draws = mcmc.get_samples()["z"]
    exact = quadrature_draws(model.energy, model.base)
    # five standard errors at an effective 40 of 200 draws: fewer than either kernel gives
    assert abs(float(draws.mean() - exact.mean())) < 5 * float(exact.std()) / math.sqrt(40)
    assert abs(float(draws.std() / exact.std()) - 1) < 5 / math.sqrt(80)
    assert all(p.grad is None for p in model.parameters())
