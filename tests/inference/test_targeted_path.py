"""The guide that is trained by a diffusion's own bound: noise by way of the states it leads to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_lebm.inference import PathGuide
from pyro_lebm.models import DiffusionProcess
from pyro_lebm.series import Series


def walks(n: int, *, hidden: int = 0) -> Series:
    """Of five times of their own; nothing is observed at the last ``hidden`` of them."""
    values = torch.randn(n, 5, 1)
    values[:, 5 - hidden :] = torch.nan
    return Series((0.1 + torch.rand(n, 5)).cumsum(-1), values)


def built(series: Series, steps: int = 3) -> tuple[Any, PathGuide]:
    model: Any = DiffusionProcess(2, 1, steps=steps, stochasticity=1.0, hidden=(8,)).double()
    guide = PathGuide(model, series, 8, training="diffusion")
    nn.init.normal_(guide.last.weight, std=0.3)
    return model, guide


def drawn(guide: PathGuide, series: Series) -> tuple[Any, Tensor, Tensor]:
    """The distribution of the noise, a first state, a noise."""
    nodes: dict[str, Any] = dict(poutine.trace(guide).get_trace(series).nodes)
    return nodes["noise"]["fn"], nodes["z0"]["value"], nodes["noise"]["value"]


@pytest.mark.parametrize("hidden", [0, 2])
def test_noise_leads_to_the_states_that_were_drawn(hidden: int) -> None:
    torch.manual_seed(0)
    series = walks(4, hidden=hidden).to(dtype=torch.float64)
    model, guide = built(series)
    with torch.no_grad():
        q, z0, noise = drawn(guide, series)
        path = model.path(z0, noise, series.times.diff(dim=-1))
    assert noise.shape == (4, 4, 8)
    assert torch.allclose(path, q._drawn.path, atol=1e-8)


@pytest.mark.parametrize("hidden", [0, 2])
def test_the_divergence_is_that_of_the_exact_densities(hidden: int) -> None:
    torch.manual_seed(0)
    series = walks(2, hidden=hidden).to(dtype=torch.float64)
    _, guide = built(series)
    apart, ratio = [], []
    for _ in range(600):
        with torch.no_grad():
            q, _, e = drawn(guide, series)
            prior = torch.distributions.Normal(0.0, 1.0).log_prob(e).sum((-1, -2))
            apart.append(q.divergence())
            ratio.append(q.log_prob(e) - prior)  # levels as drawn, nothing averaged
    assert torch.allclose(q.log_prob(e.clone()), q.log_prob(e))
    difference = torch.stack(apart) - torch.stack(ratio)
    error = difference.std(0) / len(apart) ** 0.5
    assert bool((error > 0).all())  # the two are not the same sum
    assert bool((difference.mean(0).abs() < 4.5 * error).all())  # 1 in 70,000 by chance


def test_a_hidden_end_is_left_to_the_prior() -> None:
    torch.manual_seed(0)
    series = walks(3, hidden=2).to(dtype=torch.float64)
    short = Series(series.times[:, :3], series.values[:, :3])
    _, guide = built(series)
    guide = poutine.condition(guide, {"z0": torch.ones(3, 2).double()})
    (q, _, e), (p, _, _) = drawn(guide, series), drawn(guide, short)
    free = torch.distributions.Normal(0.0, 1.0).log_prob(e[:, 2:]).sum((-1, -2))
    assert torch.allclose(q.log_prob(e.clone()), p.log_prob(e[:, :2].clone()) + free)
