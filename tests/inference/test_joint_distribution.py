"""Geweke's test of every adjusted kernel, on a posterior that no closed form knows."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest

from geweke import geweke
from pyro_lebm.inference import ULA
from pyro_lebm.inference.sampling.kernel import Kernel
from samplers import ADJUSTED

# Tempered keeps replicas of hotter densities, which are in no joint distribution with data.
INVARIANT = [name for name in ADJUSTED if name != "Tempered"]
# Of six quantities, in three runs a kernel: once in 1 000 times for all of it.
LEAST = 1e-3 / 18


def scales(chains: int) -> None:
    """A location and a scale, skewed, and three heavy-tailed data of them."""
    with pyro.plate("chains", chains):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
        noise = dist.StudentT(4.0, loc[:, None].expand(-1, 3), scale[:, None])
        pyro.sample("x", noise.to_event(1))


def least(make: Callable[..., Kernel], step_size: float, seed: int) -> float:
    """P-value, of all quantities."""
    pyro.set_rng_seed(seed)
    kernel = make(scales, step_size=step_size, adapt_step_size=False, metric="none")
    return min(geweke(scales, "x", kernel, chains=4000, rounds=20).values())


@pytest.mark.parametrize("name", INVARIANT)
def test_adjusted_kernels_keep_it(name: str) -> None:
    assert min(least(ADJUSTED[name], 0.7, seed) for seed in range(3)) > LEAST


def test_an_unadjusted_kernel_is_found_out() -> None:
    assert least(ULA, 0.7, 0) < LEAST
