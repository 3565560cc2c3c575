"""One training step of ODE-LEBM, ours and the obvious way: a part of ``trajectory.py``.

A step is K unadjusted Langevin steps of the posterior chains of a minibatch, five of 512 prior
chains, the parameters' gradient and an Adam step. Ours is ``SVI.step`` with a `LangevinGuide`, Pyro
included; the peer is the same mathematics in plain torch with torchdiffeq's dopri5 (1e-3 / 1e-4)
and autograd, no probabilistic programming at all.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pyro
import torch
import torchdiffeq
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn

from pyro_lebm import EnergyPrior, MLPEnergy, Series
from pyro_lebm.dynamics.langevin import LogDensity, evaluate, ula_step
from pyro_lebm.inference import LangevinGuide
from pyro_lebm.models import LatentODE

STEPS, CHAINS, PRIOR_STEPS, SIZE = 10, 512, 5, 0.02


def ours(model: LatentODE, series: Series) -> Callable[[], None]:
    """A step of Pyro's SVI on a model and our guide; the model gets a learned prior."""
    latent = model.latent
    prior = EnergyPrior(
        MLPEnergy(latent, (100, 100)), latent, num_chains=CHAINS, steps=PRIOR_STEPS, adjusted=False
    )
    model = copy.deepcopy(model)
    model.prior = prior
    model.to(series.values.device)
    guide = LangevinGuide(model, series, steps=STEPS, hot_until=0.0, adjusted=False, step_size=SIZE)
    pyro.clear_param_store()
    adam = PyroOptim(torch.optim.Adam, {"lr": 1e-5})
    svi = SVI(model, guide, adam, Trace_ELBO())
    return lambda: svi.step(series)


def obvious(
    field: nn.Sequential, mean: nn.Sequential, log_scale: Tensor, series: Series
) -> Callable[[], None]:
    """The same step in plain torch, dopri5 and autograd, on copies of the networks."""
    latent, device = field[-1].out_features, series.values.device
    assert isinstance(latent, int)
    field, mean = (copy.deepcopy(network).to(device) for network in (field, mean))
    energy = MLPEnergy(latent, (100, 100)).to(device)
    scale = nn.Parameter(log_scale.detach().clone().to(device))
    parameters = [*field.parameters(), *mean.parameters(), *energy.parameters(), scale]
    adam = torch.optim.Adam(parameters, lr=1e-5)
    posterior = torch.randn(len(series), latent, device=device)
    prior = torch.randn(CHAINS, latent, device=device)

    def log_prior(z: Tensor) -> Tensor:
        return -energy(z) - 0.5 * z.square().sum(-1)

    def log_joint(z: Tensor) -> Tensor:
        path = torchdiffeq.odeint(
            lambda t, z: field(z), z, series.times, rtol=1e-3, atol=1e-4, method="dopri5"
        ).movedim(0, 1)
        likelihood = torch.distributions.Normal(mean(path), scale.exp()).log_prob(series.values)
        return log_prior(z) + likelihood.sum((-1, -2))

    def run(target: LogDensity, z: Tensor, steps: int, size: float) -> Tensor:
        state = evaluate(target, z)
        for _ in range(steps):
            state = ula_step(target, state, size)
        return state.position

    def step() -> None:
        nonlocal posterior, prior
        posterior = run(log_joint, posterior, STEPS, SIZE)
        prior = run(log_prior, prior, PRIOR_STEPS, 0.4)
        loss = -log_joint(posterior).mean() - energy(prior).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()

    return step
