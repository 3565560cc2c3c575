"""What a warm-up of many chains does with those that are far from the rest."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_lebm.inference import (
    MALA,
    MALT,
    Barker,
    Underdamped,
    VectorizedMCMC,
    diagnose,
    to_arviz,
)
from samplers import KERNELS
from scenarios import Mixture


def ran(kernel: Any, start: Tensor, warmup: int = 300) -> VectorizedMCMC:
    chains = len(start)
    mcmc = VectorizedMCMC(
        kernel, 70, warmup, num_chains=chains, initial_params={"z": start}, progress=False
    )
    mcmc.run()
    return mcmc


def steep(z: dict[str, Tensor]) -> Tensor:
    """Normal, of standard deviations .01 and 1, but quartic far out."""
    gap = z["z"] / torch.tensor([0.01, 1.0])
    return 0.5 * (gap**2).sum() + 1e-4 * (gap**4).sum()


@pytest.mark.parametrize("kernel", [MALA, Barker, MALT, Underdamped])
def test_chains_far_out_neither_stay_there_nor_spoil_the_metric(kernel: Any) -> None:
    pyro.set_rng_seed(0)
    start = torch.randn(64, 2) * torch.tensor([0.01, 1.0])
    start[:8] = torch.tensor([20.0, -300.0])  # two thousand standard deviations
    mcmc = ran(kernel(potential_fn=steep), start)
    z = mcmc.get_samples(group_by_chain=True)["z"]
    spread = z.flatten(0, 1).std(0) / torch.tensor([0.01, 1.0])
    assert bool((z[:8].abs().amax((0, 1)) < torch.tensor([0.06, 6.0])).all())
    assert bool(((spread > 0.8) & (spread < 1.2)).all())
    step = mcmc.statistics["step_size"]
    assert float(step.min()) == float(step.max()) > 0.1  # shared again, and not a far chain's


def shares(gap: float, weight: float) -> tuple[float, float]:
    """Of the left mode, at the start and after the warm-up."""
    mixture = Mixture(weight=weight, left=-gap, right=gap)
    start = torch.zeros(64, 2)
    start[:, 0] = torch.where(torch.arange(64) < 32, -gap, gap)
    potential_fn = lambda z: -mixture.log_density(z["z"])  # noqa: E731
    z = ran(MALA(potential_fn=potential_fn), start).get_samples(group_by_chain=True)["z"]
    return 0.5, float((z[..., 0] < 0).double().mean())


def test_minor_modes_are_left_and_rivals_are_kept() -> None:
    pyro.set_rng_seed(1)
    # dim 2: lost are chains more than 12 nats below the upper quartile
    before, rival = shares(gap=20.0, weight=0.01)  # log .01: 4.6 nats
    assert rival == before
    _, minor = shares(gap=20.0, weight=1e-9)  # 20.7 nats
    assert minor == 0.0


def spike(z: dict[str, Tensor]) -> Tensor:
    """.9 of the mass is in a wide mode, 29 nats below a narrow one."""
    x, dim = z["z"], z["z"].shape[-1]
    wide = math.log(0.9) - 0.5 * (x**2).sum()
    narrow = math.log(0.1) - 0.5 * (((x - 3) / 0.05) ** 2).sum() - dim * math.log(0.05)
    return -torch.logaddexp(wide, narrow)


@pytest.mark.parametrize("kernel", [MALA, MALT])
def test_a_wide_mode_of_low_density_is_kept_and_the_disagreement_told(kernel: Any) -> None:
    pyro.set_rng_seed(2)
    start = torch.cat([torch.randn(32, 10), 3 + 0.05 * torch.randn(32, 10)])
    mcmc = ran(kernel(potential_fn=spike), start, warmup=500)
    z = mcmc.get_samples(group_by_chain=True)["z"]
    assert float((z[..., 0] > 2.5).double().mean()) == pytest.approx(0.5, abs=0.05)
    assert not diagnose(to_arviz(mcmc)).passed


def test_restarts_are_counted_and_told() -> None:
    pyro.set_rng_seed(3)
    start = torch.randn(64, 2) * torch.tensor([0.01, 1.0])
    none = ran(MALA(potential_fn=steep), start)
    assert none.restarts == 0 and "restarts" not in str(diagnose(to_arviz(none)))
    start[:8] = torch.tensor([20.0, -300.0])
    some = ran(MALA(potential_fn=steep), start)
    assert 8 <= some.restarts <= 24
    assert f"{some.restarts} times in the warm-up" in str(diagnose(to_arviz(some)))


@pytest.mark.parametrize("warmup", [0, 1, 3, 10, 19, 30])
@pytest.mark.parametrize("name", KERNELS)
def test_short_warm_ups_do_not_freeze_the_chains(name: str, warmup: int) -> None:
    pyro.set_rng_seed(4)

    def model() -> None:
        pyro.sample("x", dist.Normal(torch.zeros(10), 1.0).to_event(1))

    mcmc = VectorizedMCMC(KERNELS[name](model), 20, warmup, num_chains=8, progress=False)
    mcmc.run()
    assert float(mcmc.statistics["acceptance_rate"].mean()) > 0.1
