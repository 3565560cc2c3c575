"""The targets of ``kernels.py``: each as a Pyro program, and written natively for NumPyro.

Both programs are one density up to a constant, which `disagreement` measures. All ways of sampling
start alike, from what `Target.starts` draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as nd
import pyro
import pyro.distributions as dist
import torch
from jax import lax
from numpyro.infer.util import potential_energy
from torch import Tensor, nn

from pyro_lebm import potential, trajectory
from pyro_lebm.energy import MLPEnergy
from pyro_lebm.inference import EncoderGuide, GRUEncoder, RefinedGuide, fit
from pyro_lebm.models import GaussianEmission, LatentODE, MLPField
from pyro_lebm.models.datasets import interpolation, irregular_sines
from pyro_lebm.prior import EnergyPrior

Starts = Callable[[int], dict[str, Tensor]]
Layers = list[tuple[Any, Any]]


@dataclass(frozen=True)
class Sizes:
    """How long a run is; as many steps of warm-up as draws."""

    pyro: int  # one chain of Pyro's NUTS
    numpyro: int  # each chain of NumPyro's NUTS
    ours: int  # each of many chains
    chains: int = 256


@dataclass(frozen=True)
class Target:
    """A posterior.

    Attributes:
        model, args, native: the Pyro program and what it is called with; the same for NumPyro.
        starts: unconstrained values for so many chains, ``{site: (chains, *shape)}``.
        sizes, quick: of a full and of a smoke run.
        dense_too: whether native NumPyro also runs with a dense metric, which our kernels learn
            by themselves.
    """

    name: str
    model: Callable[..., Any]
    native: Callable[[], Any]
    starts: Starts
    sizes: Sizes
    quick: Sizes
    rounds: int = 3
    dense_too: bool = False
    args: tuple[Any, ...] = ()


def disagreement(target: Target, points: int = 8) -> float:
    """By how many nats the two programs' log densities differ, a common constant apart."""
    starts = target.starts(points)
    u = potential(target.model, *target.args)
    flat = torch.cat([starts[site.name].reshape(points, -1) for site in u.program.sites], 1)
    ours = -u(flat).detach().numpy()
    theirs = [
        _native_log_density(target, {k: v[i] for k, v in starts.items()}) for i in range(points)
    ]
    gap = ours - np.array(theirs)
    return float(np.ptp(gap))


def _native_log_density(target: Target, values: dict[str, Tensor]) -> float:
    params = {name: jnp.asarray(value.numpy()) for name, value in values.items()}
    return -float(potential_energy(target.native, (), {}, params))


def uniform(**shapes: tuple[int, ...]) -> Starts:
    """Uniform in (-2, 2) of unconstrained space, as Pyro and NumPyro start by themselves."""

    def starts(chains: int) -> dict[str, Tensor]:
        return {k: 4 * torch.rand(chains, *shape) - 2 for k, shape in shapes.items()}

    return starts


# Eight schools, non-centred (Rubin 1981)

EFFECT = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12])
ERROR = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18])


def schools() -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", 8):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * z, ERROR), obs=EFFECT)


def native_schools() -> None:
    mu = numpyro.sample("mu", nd.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", nd.HalfCauchy(5.0))
    with numpyro.plate("school", 8):
        z = numpyro.sample("z", nd.Normal(0.0, 1.0))
        numpyro.sample("y", nd.Normal(mu + tau * z, ERROR.numpy()), obs=EFFECT.numpy())


def eight_schools() -> Target:
    return Target(
        "eight schools",
        schools,
        native_schools,
        uniform(mu=(), tau=(), z=(8,)),
        Sizes(pyro=500, numpyro=1000, ours=200, chains=1024),
        Sizes(pyro=20, numpyro=50, ours=20, chains=64),
        rounds=5,
    )


# A Gaussian whose axes are not the coordinates'

DIM, CONDITION = 100, 1e3


def gaussian(quick: bool = False) -> Target:
    """Variances of geometric mean 1, evenly in their logarithm, along random directions."""
    dim = DIM // 10 if quick else DIM
    generator = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
    half = math.log10(CONDITION) / 2
    covariance = q * torch.logspace(-half, half, dim, dtype=torch.float64) @ q.T
    tril = torch.linalg.cholesky(covariance).float()

    def model() -> None:
        pyro.sample("x", dist.MultivariateNormal(torch.zeros(dim), scale_tril=tril))

    def native() -> None:
        numpyro.sample("x", nd.MultivariateNormal(jnp.zeros(dim), scale_tril=tril.numpy()))

    return Target(
        "Gaussian, 100-d",
        model,
        native,
        uniform(x=(dim,)),
        Sizes(pyro=300, numpyro=1000, ours=400, chains=64),
        Sizes(pyro=4, numpyro=50, ours=20, chains=64),
        dense_too=True,
    )


# Lynx and hare (Hewitt 1921), the model of posteriordb (Magnusson et al. 2024, arXiv 2407.04967)

HARE = [30, 47.2, 70.2, 77.4, 36.3, 20.6, 18.1, 21.4, 22, 25.4, 27.1]
HARE += [40.3, 57, 76.6, 52.3, 19.5, 11.2, 7.6, 14.6, 16.2, 24.7]
LYNX = [4, 6.1, 9.8, 35.2, 59.4, 41.7, 19, 13, 8.3, 9.1, 7.4]
LYNX += [8, 12.3, 19.5, 45.7, 51.1, 29.7, 15.8, 9.7, 10.1, 8.6]
PELTS = torch.tensor([HARE, LYNX]).T
YEARS = torch.arange(len(HARE), dtype=torch.float32)
CENTRE, SPREAD = torch.tensor([1.0, 0.05, 1.0, 0.05]), torch.tensor([0.5, 0.05, 0.5, 0.05])
STEPS_A_YEAR = 2


def predation() -> None:
    # A normal cut off at 0, which Pyro has no name for: what is drawn from counts nothing.
    drawn = dist.LogNormal(CENTRE.log(), 0.5 * torch.ones(4)).to_event(1)
    rates = pyro.sample("rates", drawn)
    cut = dist.Normal(CENTRE, SPREAD).to_event(1)
    pyro.factor("cut", cut.log_prob(rates) - drawn.log_prob(rates))
    start = pyro.sample("start", dist.LogNormal(math.log(10.0), torch.ones(2)).to_event(1))
    sigma = pyro.sample("sigma", dist.LogNormal(-torch.ones(2), 1.0).to_event(1))
    a, b, c, d = rates.unbind(-1)

    def field(t: Tensor, z: Tensor) -> Tensor:
        prey, predator = z.unbind(-1)
        return torch.stack([(a - b * predator) * prey, (d * prey - c) * predator], -1)

    path = trajectory(field, start, YEARS, step_size=1 / STEPS_A_YEAR)
    seen = dist.LogNormal(path.clamp(min=1e-6).log(), sigma.unsqueeze(-2)).to_event(2)
    pyro.sample("pelts", seen, obs=PELTS)


def native_predation() -> None:
    cut = nd.TruncatedNormal(CENTRE.numpy(), SPREAD.numpy(), low=0.0)
    rates = numpyro.sample("rates", cut.to_event(1))
    start = numpyro.sample("start", nd.LogNormal(math.log(10.0), jnp.ones(2)).to_event(1))
    sigma = numpyro.sample("sigma", nd.LogNormal(-jnp.ones(2), 1.0).to_event(1))
    a, b, c, d = rates

    def field(z: jax.Array) -> jax.Array:
        return jnp.stack([(a - b * z[1]) * z[0], (d * z[0] - c) * z[1]])

    nodes, _ = runge_kutta(field, start, 1 / STEPS_A_YEAR, STEPS_A_YEAR * (len(YEARS) - 1))
    path = jnp.clip(nodes[::STEPS_A_YEAR], 1e-6)
    numpyro.sample("pelts", nd.LogNormal(jnp.log(path), sigma).to_event(2), obs=PELTS.numpy())


def runge_kutta(
    field: Callable[[Any], Any], z0: Any, h: float, steps: int
) -> tuple[jax.Array, jax.Array]:
    """Nodes and slopes, ``(steps + 1, ...)``."""

    def turn(before: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        z, k1 = before
        k2 = field(z + 0.5 * h * k1)
        k3 = field(z + 0.5 * h * k2)
        z = z + h / 6 * (k1 + 2 * (k2 + k3) + field(z + h * k3))
        return (z, field(z)), before

    last, all_but_last = lax.scan(turn, (z0, field(z0)), None, length=steps)
    nodes, slopes = (jnp.concatenate([a, b[None]]) for a, b in zip(all_but_last, last, strict=True))
    return nodes, slopes


def near_prior(chains: int) -> dict[str, Tensor]:
    """Near the prior's centre: from elsewhere chains end in modes without cycles."""
    centre = {"rates": CENTRE.log(), "start": torch.full((2,), 10.0).log(), "sigma": -torch.ones(2)}
    return {k: v + 0.1 * torch.randn(chains, *v.shape) for k, v in centre.items()}


def lotka_volterra() -> Target:
    return Target(
        "Lotka-Volterra",
        predation,
        native_predation,
        near_prior,
        Sizes(pyro=100, numpyro=500, ours=200),
        Sizes(pyro=2, numpyro=20, ours=4, chains=64),
    )


# The states of three sequences, given half of their points, under a trained ODE-LEBM

LATENT, WIDTH, SEQUENCES = 4, 32, 3


def ode_lebm(quick: bool = False) -> Target:
    """Trained on irregular sinusoids by an encoder first, by refined draws in the end."""
    torch.manual_seed(0)
    train, _ = interpolation(irregular_sines(100, seed=0), 50, seed=0)
    given, _ = interpolation(irregular_sines(SEQUENCES, seed=1, times=train.times), 50, seed=1)
    prior = EnergyPrior(MLPEnergy(LATENT, (WIDTH, WIDTH)), LATENT, num_chains=256)
    model = LatentODE(
        LATENT,
        1,
        prior=prior,
        field=MLPField(LATENT, (WIDTH,)),
        emission=GaussianEmission(LATENT, 1, (WIDTH,)),
        tolerance=5e-2,
    )
    encoder = EncoderGuide(model, train, GRUEncoder(1, WIDTH, features=2 * LATENT))
    fit(
        model,
        RefinedGuide(encoder, refine_from=0.8),
        train,
        max_steps=10 if quick else 800,
        batch_size=50,
        learning_rate=1e-2,
        learning_rates={"prior.": 1e-3},
        betas=(0.9, 0.95),
        final_rate=0.02,
        kl_warmup=0.1,
        horizon_warmup=0.4,
        energy_from=0.8,
        progress=False,
        seed=0,
    )
    model.refresh(given)
    model.requires_grad_(False)  # or torch.jit refuses the program

    def starts(chains: int) -> dict[str, Tensor]:
        # as a user of the trained model would start
        return {"z0": encoder.posterior(given, draws=chains)["z0"][0].detach()}

    return Target(
        "ODE-LEBM",
        model,
        native_ode_lebm(model, given),
        starts,
        Sizes(pyro=100, numpyro=500, ours=150, chains=64),
        Sizes(pyro=2, numpyro=20, ours=4, chains=64),
        args=(given,),
    )


def native_ode_lebm(model: LatentODE, series: Any) -> Callable[[], None]:
    """The trained model by hand: weights are constants, the solver a scan."""
    field, mean = layers(model.field), layers(model.emission)
    energy = layers(model.prior.energy)
    sigma = float(model.emission(torch.zeros(1, 1, LATENT)).scale.reshape(-1)[0])
    end = float(series.times.max())
    steps = max(1, math.ceil(end / float(model.step_size) - 1e-6))
    weights = jnp.asarray(hermite(series.times.double().numpy(), end / steps, steps), jnp.float32)
    mask, filled = series.mask.numpy(), series.filled.numpy()

    def program() -> None:
        with numpyro.plate("sequences", len(series)):
            z0 = numpyro.sample("z0", nd.Normal(jnp.zeros(LATENT), 1.0).to_event(1))
            numpyro.factor("energy", -network(energy, jax.nn.silu, z0)[..., 0])
            rows = runge_kutta(lambda z: network(field, jnp.tanh, z), z0, end / steps, steps)
            path = jnp.einsum("tk,knl->ntl", weights, jnp.concatenate(rows))
            x = nd.Normal(network(mean, jnp.tanh, path), sigma)
            numpyro.sample("x", x.mask(mask).to_event(2), obs=filled)

    return program


def layers(module: nn.Module) -> Layers:
    """Weights and biases of its linear layers, in order."""
    found = [part for part in module.modules() if isinstance(part, nn.Linear)]
    return [
        (jnp.asarray(x.weight.detach().numpy()), jnp.asarray(x.bias.detach().numpy()))
        for x in found
    ]


def network(weights: Layers, activate: Callable[[Any], Any], x: Any) -> Any:
    for i, (weight, bias) in enumerate(weights):
        x = (activate(x) if i else x) @ weight.T + bias
    return x


def hermite(times: Any, h: float, steps: int) -> Any:
    """What nodes and slopes count in the cubic between them, ``(times, 2 * (steps + 1))``."""
    k = np.clip(np.floor(times / h), 0, steps - 1).astype(int)
    s = times / h - k
    r = 1 - s
    found = np.zeros((len(times), 2 * (steps + 1)))
    parts = (r * r * (1 + 2 * s), s * s * (3 - 2 * s), h * s * r * r, -h * s * s * r)
    for offset, part in zip((0, 1, steps + 1, steps + 2), parts, strict=True):
        found[np.arange(len(times)), k + offset] = part
    return found


TARGETS: dict[str, Callable[[bool], Target]] = {
    "schools": lambda quick: eight_schools(),
    "gaussian": gaussian,
    "predation": lambda quick: lotka_volterra(),
    "ode_lebm": ode_lebm,
}
