"""Latent ODEs whose initial state is a program of several sites, tilted or not."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor

from pyro_lebm import LayerwiseEnergy, MLPEnergy, Series, engine, potential, tilt
from pyro_lebm.inference import (
    EncoderGuide,
    LangevinGuide,
    RefinedGuide,
    fit,
    posterior_predict,
)
from pyro_lebm.models import GaussianEmission, HierarchicalPrior, LatentODE, MLPField
from untyped import poutine

STATIC, LATENT, T = 2, 3, 6


class Both(PyroModule):
    """z_d given z_s, side by side; tilted by an energy of each where that is asked for."""

    def __init__(self, tilted: bool) -> None:
        super().__init__()
        prior = HierarchicalPrior((LATENT, STATIC), hidden=(8,))
        energy = LayerwiseEnergy({"z1": MLPEnergy(LATENT, (8,)), "z2": MLPEnergy(STATIC, (8,))})
        self.prior = tilt(prior, energy, num_chains=8) if tilted else prior

    def forward(self) -> Tensor:
        moving, still = self.prior()
        return torch.cat([still, moving], -1)


def model(tilted: bool) -> LatentODE:
    torch.manual_seed(0)
    size = STATIC + LATENT
    return LatentODE(
        LATENT,
        1,
        static=STATIC,
        prior=Both(tilted),
        field=MLPField(LATENT, (8,)),
        emission=GaussianEmission(size, 1, (8,)),
    )


def data(n: int = 4) -> Series:
    values = torch.randn(n, T, 1, generator=torch.Generator().manual_seed(0))
    return Series(torch.linspace(0, 1, T), values)


def test_the_state_is_what_the_program_returns() -> None:
    ode, series = model(tilted=False), data()
    trace = poutine.trace(ode).get_trace(series)
    trace.compute_log_prob()
    nodes = trace.nodes
    assert "z0" not in nodes
    z0 = torch.cat([nodes["z2"]["value"], nodes["z1"]["value"]], -1)
    emitted: Any = ode.emission(ode.path(z0, series.times))
    torch.testing.assert_close(
        nodes["x"]["log_prob"], emitted.log_prob(series.values).sum((-1, -2))
    )
    assert ode.generate(3, torch.linspace(0, 2, 5)).shape == (3, 5, 1)


@pytest.mark.parametrize("tilted", [False, True])
@pytest.mark.parametrize("kind", ["encoder", "langevin", "refined"])
def test_every_guide_learns_it(kind: str, tilted: bool) -> None:
    ode, series = model(tilted), data()
    guide: Any = {
        "encoder": EncoderGuide,
        "langevin": LangevinGuide,
        "refined": lambda m, s: RefinedGuide(EncoderGuide(m, s)),
    }[kind](ode, series)
    before = {name: p.detach().clone() for name, p in ode.named_parameters()}
    fit(ode, guide, series, max_steps=4, progress=False, seed=0)
    conditional = [n for n in before if "layers" in n and n.startswith("prior")]
    found = dict(ode.named_parameters())
    assert conditional and all(not torch.equal(found[n], before[n]) for n in conditional)
    draws = guide.posterior(series, draws=3)
    assert posterior_predict(ode, draws, series).shape[-3:] == (4, T, 1)


@pytest.mark.parametrize("tilted", [False, True])
def test_engines_agree(tilted: bool) -> None:
    ode, series = model(tilted), data()
    u = torch.randn(4 * (STATIC + LATENT), generator=torch.Generator().manual_seed(1))
    found = {}
    for name in ("eager", "vjp"):
        with engine(name):
            found[name] = potential(ode, series).single(u)
    torch.testing.assert_close(found["vjp"], found["eager"])


def test_a_state_of_another_size_is_refused() -> None:
    class Narrow(PyroModule):
        def forward(self) -> Tensor:
            z: Tensor = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            return z

    with pytest.raises(ValueError, match=r"prior: expected event shape \(5,\), got \(4,\)"):
        LatentODE(LATENT, 1, static=STATIC, prior=Narrow())
    assert not pyro.get_param_store().keys()
