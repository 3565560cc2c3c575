"""`EnergyBased` as a distribution: draws, shapes, Pyro's handlers."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import (
    Predictive,
)
from torch import Tensor, nn

from pyro_lebm.distribution import EnergyBased, drawn_by, from_base
from scenarios import (
    Mixture,
)
from untyped import poutine


def test_draws_have_the_modes_weights() -> None:
    target = Mixture(sd=0.3)
    base = dist.Normal(torch.zeros(2), 3.0).to_event(1)
    fn = EnergyBased(lambda z: base.log_prob(z) - target.log_density(z), base)
    z = fn.expand([1000]).sample(torch.Size((4,)))
    assert z.shape == (4, 1000, 2)
    # measured over 40 runs in test_smc: standard deviation .05 of one population of 300
    assert abs(target.share(z.flatten(0, 1)) - target.weight) < 5 * 0.05 * math.sqrt(300 / 4000)
    few = torch.cat([fn.sample(torch.Size((2,))) for _ in range(25)])
    # two draws of one population are nearly independent
    assert abs(target.share(few) - target.weight) < 5 * math.sqrt(0.16 / 50)


def test_draws_of_one_call_are_spread_over_the_population() -> None:
    """Neighbours in the cloud descend from one particle; a few draws must not be neighbours."""
    target = Mixture(sd=0.05)
    base = dist.Normal(torch.zeros(2), 3.0).to_event(1)
    fn = EnergyBased(lambda z: base.log_prob(z) - target.log_density(z), base)
    shares = torch.tensor([target.share(fn.sample(torch.Size((10,)))) for _ in range(16)])
    # independent draws: .126, and with 15 degrees of freedom 1.8 times that once in 20,000
    assert float(shares.std()) < 1.8 * math.sqrt(0.16 / 10)


@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("parallel", [True, False])
def test_predictive_in_every_mode(mode: Any, parallel: bool) -> None:
    def model() -> None:
        # N(2, 1) in disguise
        fn = EnergyBased(lambda z: -2.0 * z, dist.Normal(0.0, 1.0))
        with pyro.plate("outer", 3, dim=-1):
            z = pyro.sample("z", fn)
            pyro.sample("x", dist.Normal(z, 0.1))

    n = 400 if parallel else 6
    with mode():
        draws = Predictive(model, num_samples=n, parallel=parallel)()
    assert draws["z"].shape == draws["x"].shape == (n, 3)
    assert not draws["z"].requires_grad
    # draws of one call share a population of 512 or 1200: nearly independent
    assert abs(float(draws["z"].mean()) - 2) < 5 / math.sqrt(min(3 * n, 500))
    assert abs(float((draws["x"] - draws["z"]).std()) - 0.1) < 5 * 0.1 / math.sqrt(2 * 3 * n)


def test_a_sampler_of_ones_own_and_base_draws() -> None:
    asked: list[int] = []

    def sampler(fn: EnergyBased, n: int) -> Tensor:
        asked.append(n)
        return torch.full((n, 1), 7.0)

    fn = EnergyBased(lambda z: z.sum(-1), dist.Normal(torch.zeros(1), 1.0).to_event(1))
    fn = EnergyBased(fn.energy, fn.base, sampler=sampler).expand([3])
    assert fn.sample(torch.Size((2,))).shape == (2, 3, 1)
    assert asked == [6]
    with drawn_by(from_base):
        assert fn.sample().ne(7).all()
    assert asked == [6]
    assert fn.sample().eq(7).all()
    assert fn.expand([0]).sample().shape == (0, 1)


def test_a_seed_reproduces_draws() -> None:
    fn = EnergyBased(lambda z: -2.0 * z, dist.Normal(0.0, 1.0))
    pyro.set_rng_seed(4)
    first = fn.sample(torch.Size((5,)))
    pyro.set_rng_seed(4)
    assert torch.equal(fn.sample(torch.Size((5,))), first)


def test_negatives_are_drawn_by_the_sampler_if_nothing_else_is_given() -> None:
    """The gradient of a mean: slope's is E_p[z] - mean(points), to Monte Carlo error."""

    class Slope(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slope = nn.Parameter(torch.tensor(-2.0))

        def forward(self, z: Tensor) -> Tensor:
            return self.slope * z

    energy = Slope()
    fn = EnergyBased(energy, dist.Normal(0.0, 1.0))
    fn.log_prob(torch.full((4,), 1.0)).mean().backward()
    assert energy.slope.grad is not None
    # 256 draws of N(2, 1); five standard errors, doubled as draws share ancestors
    assert abs(float(energy.slope.grad) - (2.0 - 1.0)) < 2 * 5 / math.sqrt(256)


# Pyro's handlers


def test_trace_condition_expand_mask() -> None:
    def model() -> Tensor:
        fn = EnergyBased(lambda z: z.sum(-1), dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("a", 3, dim=-2), pyro.plate("b", 4, dim=-1):
            value: Tensor = pyro.sample("z", fn)
        return value

    site = poutine.trace(model).get_trace().nodes["z"]
    assert site["value"].shape == (3, 4, 2)
    assert site["fn"].log_prob(site["value"]).shape == (3, 4)
    z = torch.randn(3, 4, 2)
    trace = poutine.trace(poutine.condition(model, {"z": z})).get_trace()
    expected = dist.Normal(0.0, 1.0).log_prob(z).sum(-1) - z.sum(-1)
    assert torch.allclose(trace.log_prob_sum(), expected.sum())
    masked = poutine.mask(model, mask=torch.tensor([True, False, False, False]))
    trace = poutine.trace(poutine.condition(masked, {"z": z})).get_trace()
    assert torch.allclose(trace.log_prob_sum(), expected[:, 0].sum())
    nothing = poutine.trace(poutine.condition(poutine.mask(model, mask=False), {"z": z}))
    assert nothing.get_trace().log_prob_sum() == 0


def test_shapes_follow_torchs_rules() -> None:
    fn = EnergyBased(lambda z: z.sum(-1), dist.Normal(torch.zeros(2), 1.0).to_event(1))
    assert (fn.batch_shape, fn.event_shape, fn.event_dim) == ((), (2,), 1)
    wide = fn.expand([3]).expand([4, 3])
    assert (wide.batch_shape, wide.event_shape) == ((4, 3), (2,))
    assert wide.log_prob(torch.zeros(2)).shape == (4, 3)
    assert wide.log_prob(torch.zeros(5, 4, 3, 2)).shape == (5, 4, 3)
    rows: Any = wide
    assert rows.to_event(1).log_prob(torch.zeros(4, 3, 2)).shape == (4,)
    assert wide.sample(torch.Size((5,))).shape == (5, 4, 3, 2)
    assert fn.has_rsample is False
    assert str(fn.support) == str(fn.base.support)
    with pytest.raises(ValueError, match="support"):
        wide.log_prob(torch.full((4, 3, 2), math.nan))
