"""ODE-LEBM trained the obvious way: a part of ``time_to_error.py``.

Plain torch: torchdiffeq's dopri5 (rtol 1e-3, atol 1e-4) with autograd, `torch.nn.Sequential`
networks, Adam, no probabilistic programming. The mathematics and every setting are those of `fit`
with a `LangevinGuide`: a chain a sequence, hot Langevin steps first and adjusted ones later,
persistent chains of the prior, the same minibatches, rates and schedules.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator, Mapping

import torch
import torchdiffeq
from torch import Tensor, nn
from tqdm import tqdm
from trajectory import sequential

from pyro_lebm import EnergyPrior, Series
from pyro_lebm.dynamics.chains import Chains
from pyro_lebm.inference import History, LangevinGuide
from pyro_lebm.models import LatentODE
from pyro_lebm.models.emissions import SCALE_FLOOR


def fit_plainly(
    model: LatentODE,
    guide: LangevinGuide,
    series: Series,
    *,
    max_seconds: float,
    batch_size: int,
    learning_rate: float,
    learning_rates: Mapping[str, float],
    betas: tuple[float, float],
    final_rate: float,
    energy_from: float,
    horizon_warmup: float,
    seed: int,
) -> History:
    """As `pyro_lebm.inference.fit`, of whose arguments it takes those that are used here.

    The weights trained are the model's own, and the guide says how many Langevin steps there are,
    and which; neither computes anything.
    """
    assert horizon_warmup == 0 and not guide.restart and guide.adjusted
    torch.manual_seed(seed)
    density = Density(model)
    prior = model.prior
    assert isinstance(prior, EnergyPrior) and prior.negatives == "persistent" and prior.adjusted
    energy = {"params": list(prior.energy.parameters()), "rate": learning_rates["prior."]}
    rest = {"params": density.parameters, "rate": learning_rate}
    adam = torch.optim.Adam([rest, energy], lr=learning_rate, betas=betas)
    size = (series.total, model.latent)
    posterior = Chains(torch.randn(size), step_size=float(guide.chains.step_size[0]))
    negatives = Chains(torch.randn(prior.num_chains, model.latent), step_size=prior.step_size)
    history, batches = History(guide.loss_name), minibatches(series, batch_size)
    begin = time.perf_counter()
    with tqdm(unit="step") as bar:
        while (progress := (time.perf_counter() - begin) / max_seconds) < 1:
            guide.schedule(progress)
            posterior.moving = guide.chains.moving
            batch = next(batches)
            z = posterior.run(
                functools.partial(density.log_joint, series=batch),
                guide.steps,
                index=(batch.index,),
                hot=guide.strength if guide.hot else None,
            )
            loss = -density.log_likelihood(z, batch).mean()
            if progress >= energy_from:
                drawn = negatives.run(density.log_prior, prior.steps)
                loss = loss + prior.energy(z).mean() - prior.energy(drawn).mean()
            adam.zero_grad()
            loss.backward()
            factor = final_rate + (1 - final_rate) * (1 + math.cos(math.pi * progress)) / 2
            for group in adam.param_groups:
                group["lr"] = group["rate"] * factor
            if density.is_sound():
                adam.step()
            seconds = time.perf_counter() - begin
            history.append(
                {"step": len(history) + 1, "seconds": seconds, "loss": float(loss.detach())}
            )
            bar.update()
    return history


def minibatches(series: Series, size: int) -> Iterator[Series]:
    """Of each epoch in random order."""
    while True:
        for rows in torch.randperm(len(series)).split(size):
            yield series.batch(rows)


class Density:
    """Log densities of a latent ODE with an energy prior over N(0, I), written down in torch."""

    def __init__(self, model: LatentODE) -> None:
        assert isinstance(model.prior, EnergyPrior)
        self.field, self.mean = sequential(model.field), sequential(model.emission.network)
        self.log_scale, self.energy = model.emission.log_scale, model.prior.energy
        self.parameters: list[nn.Parameter] = [
            *self.field.parameters(),
            *self.mean.parameters(),
            self.log_scale,
        ]

    def log_prior(self, z: Tensor) -> Tensor:
        """Unnormalised, ``(N)``."""
        return -self.energy(z) - 0.5 * z.square().sum(-1)

    def log_likelihood(self, z: Tensor, series: Series) -> Tensor:
        """Of what was observed of each sequence, ``(N)``."""
        path = torchdiffeq.odeint(
            lambda t, z: self.field(z), z, series.times, rtol=1e-3, atol=1e-4, method="dopri5"
        ).movedim(0, 1)
        x = torch.distributions.Normal(self.mean(path), SCALE_FLOOR + self.log_scale.exp())
        return (x.log_prob(series.filled) * series.mask).sum((-1, -2))

    def log_joint(self, z: Tensor, series: Series) -> Tensor:
        """Unnormalised, ``(N)``."""
        return self.log_prior(z) + self.log_likelihood(z, series)

    def is_sound(self) -> bool:
        """Whether the gradients are finite; a step along one that is not would end the training."""
        found = [p.grad.norm() for p in self.parameters if p.grad is not None]
        return bool(torch.isfinite(torch.stack(found)).all())
