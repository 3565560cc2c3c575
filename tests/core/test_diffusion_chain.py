"""The Gaussian chain of implicit diffusion: its densities are right."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from noisy import MEAN, SQUARES, VARIANCE, Bumps, Shear, exact
from pyro_lebm.diffusion.chain import GaussianChain
from pyro_lebm.diffusion.schedule import FLOOR, alpha_bar, levels


@pytest.mark.parametrize("flow", [None, Shear()])
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("eta", [0.2, 1.0])
def test_a_bridge_is_retraced_to_its_value(eta: float, steps: int, flow: Any) -> None:
    shift, scale = torch.randn(7, 2).double(), torch.rand(7, 2).double() + 0.5
    chain = GaussianChain(Bumps(), 2, steps, eta, shift, scale, flow)
    value = 3 * torch.randn(4, 7, 2).double()
    noise, divergence, ratio = chain.bridge(value)
    assert noise.shape == (4, 7, 2 * (steps + 1)) and divergence.shape == (4, 7)
    assert torch.allclose(chain.run(noise), value, atol=1e-9)
    back, again = chain.retrace(noise)
    assert torch.allclose(back, value, atol=1e-9)
    assert torch.allclose(again, ratio, atol=1e-6) and not torch.allclose(ratio, divergence)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_with_its_spread_a_chain_has_a_gaussians_density_in_any_number_of_steps(steps: int) -> None:
    x = SQUARES.sample((3000,))
    chain = GaussianChain(exact(spread=True), 2, steps)
    noise, ratio, _ = chain.bridge(x)
    density = SQUARES.log_prob(x).sum(-1)
    # Level by level the ratio is exact, without an average: what is left is the ten-thousandth
    # part of x at the top, 0.01 x u with u normal, beside the floor's 1e-6 of variance.
    off = (chain.retrace(noise)[1] + density) / (1 + x.square().sum(-1))
    assert float(off.abs().max()) < 0.05
    for found in (ratio, chain.gaps(x)):
        # Five standard errors, and 1e-4 (1 + |x|^2) / 2 of what the top level keeps.
        error = float((found + density).std()) / 3000**0.5
        assert abs(float((found + density).mean())) < 5 * error + 1e-3
    y = chain.run(torch.randn(3000, chain.noise).double())
    assert bool(((y.mean(0) - MEAN).abs() < 5 * (VARIANCE / 3000).sqrt() + 0.03).all())
    assert bool(((y.var(0) / VARIANCE - 1).abs() < 5 * (2 / 3000) ** 0.5 + 2e-3).all())


def test_without_a_spread_the_bound_nears_the_density_in_many_steps() -> None:
    x = SQUARES.sample((2000,))
    entropy = float(SQUARES.entropy().sum())
    slack = []
    for steps in (10, 100, 1000):
        scale = [alpha_bar(s) for s in levels(steps)]
        total = 0.0
        for v in VARIANCE.tolist():
            left = [v * (1 - a) / (a * v + 1 - a) for a in scale]
            for s in range(2, steps + 1):  # half the fall of the signal-to-noise ratio, VDM's loss
                gain = scale[s - 1] / (1 - scale[s - 1]) - scale[s] / (1 - scale[s])
                total += 0.5 * gain * left[s]
            last = (1 - scale[1]) / scale[1]
            total += 0.5 * (left[1] / last + math.log(2 * math.pi * last))
        total += 0.5 * float((scale[-1] * (x.square().mean(0) - 1)).sum())
        slack.append(total - entropy)
        if steps < 1000:
            chain = GaussianChain(exact(), 2, steps)
            for found in (chain.gaps(x), chain.bridge(x)[1]):
                # five standard errors: 1e-6 false alarms
                assert abs(float(found.mean()) - total) < 5 * float(found.std()) / 2000**0.5 + 1e-3
    assert slack[0] > slack[1] > slack[2] > -1e-3 and slack[2] < 0.35


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("flow", [None, Shear()])
def test_the_ratio_of_a_bridge_is_the_exact_one_in_the_mean(eta: float, flow: Any) -> None:
    chain = GaussianChain(Bumps(), 2, 4, eta, flow=flow)
    value = torch.randn(10000, 2).double()
    noise, ratio, _ = chain.bridge(value)
    exact_ratio = chain.retrace(noise)[1]
    for other in (exact_ratio, chain.gaps(value), chain.gaps(value, 2), chain.gaps(value, 1)):
        apart = (other - ratio).detach()
        assert float(apart.std()) > 1e-3
        # five standard errors, four comparisons: 1e-6 false alarms each
        assert abs(float(apart.mean())) < 5 * float(apart.std()) / 100


def test_the_top_level_adds_its_divergence_from_noise() -> None:
    x, a = torch.tensor([[0.0, 30.0]]).double(), alpha_bar(1.0)
    # One step whose last term is known: sure of x, at a deviation of 1.
    chain = GaussianChain(lambda u, level: (x, torch.ones_like(x)), 2, 1)
    top = torch.distributions.Normal(a**0.5 * x, (1 - a) ** 0.5)
    standard = torch.distributions.Normal(torch.zeros_like(x), torch.ones_like(x))
    expected = torch.distributions.kl_divergence(top, standard) + 0.5 * math.log(2 * math.pi)
    assert torch.allclose(chain.gap_terms(x), expected + 0.5 * math.log(1 + FLOOR**2), atol=1e-9)


def test_fewer_levels_differ_from_value_to_value() -> None:
    seen: list[Tensor] = []

    def denoise(u: Tensor, level: Tensor) -> Tensor:
        seen.append(level)
        return u

    chain = GaussianChain(denoise, 2, 6)
    chain.gaps(torch.randn(500, 2).double(), 2)
    (level,) = seen
    assert level.shape == (3, 500, 1) and bool((level[2] == 1 / 6).all())
    counts = level[:2].flatten().mul(6).round().long().bincount()
    # 1000 draws of 5 levels: 200 each, six standard deviations of 12.6
    assert counts[:2].tolist() == [0, 0] and bool(((counts[2:] - 200).abs() < 76).all())


@pytest.mark.parametrize("flow", [None, Shear()])
def test_exact_ratios_integrate_to_one_and_give_the_drawn_moments(flow: Any) -> None:
    shift, scale = torch.tensor([0.5, 0.0]).double(), torch.tensor([0.7, 1.2]).double()
    chain = GaussianChain(Bumps(), 2, 2, 0.8, shift, scale, flow)
    drawn = chain.run(torch.randn(20000, chain.noise).double()).detach()
    # Values from a wider normal, p(x) by one set of levels each: all without bias.
    wide = torch.distributions.Normal(drawn.mean(0), 1.5 * drawn.std(0))
    x = wide.sample((40000,))
    with torch.no_grad():
        ratio = chain.retrace(chain.bridge(x)[0])[1]
    w = (-ratio - wide.log_prob(x).sum(-1)).exp()
    # Five standard errors of both samples each.
    assert abs(float(w.mean()) - 1) < 5 * float(w.std()) / 200
    parts: list[Callable[[Tensor], Tensor]] = [
        lambda t: t[:, 0],
        lambda t: t[:, 1].square(),
        lambda t: t.prod(-1),
    ]
    for f in parts:
        error = math.hypot(float((w * f(x)).std()) / 200, float(f(drawn).std()) / 20000**0.5)
        assert abs(float((w * f(x)).mean() - f(drawn).mean())) < 5 * error


def test_hidden_numbers_are_pure_noise_to_the_denoiser() -> None:
    seen: list[Tensor] = []

    def denoise(u: Tensor, level: Tensor) -> Tensor:
        seen.append(u)
        return 0.5 * u

    chain, mask = GaussianChain(denoise, 2, 5), torch.tensor([True, False])
    value = torch.tensor([4.0, torch.nan]).expand(4000, 2).double().requires_grad_(True)
    terms = chain.gap_terms(value, mask=mask)
    (gradient,) = torch.autograd.grad(terms.sum(), value)
    assert bool(torch.isfinite(terms).all()) and bool((gradient[:, 1] == 0).all())
    (u,) = seen
    # 4000 standard normals a level, five standard errors
    assert bool((u[..., 1].mean(1).abs() < 5 / 4000**0.5).all())
    assert bool(((u[..., 1].var(1) - 1).abs() < 5 * (2 / 4000) ** 0.5).all())
    assert float(u[-1, :, 0].detach().mean()) > 3


def test_bounds_teach_the_denoiser_and_the_value() -> None:
    denoise = Bumps()
    chain = GaussianChain(denoise, 2, 3, 0.7)
    for name in ("bridge", "gaps", "gap_terms", "retrace"):
        value = torch.randn(3, chain.noise if name == "retrace" else 2).double()
        value.requires_grad_(True)
        found = getattr(chain, name)(value)
        total = found[1] if isinstance(found, tuple) else found
        for gradient in torch.autograd.grad(total.sum(), [value, denoise.weight]):
            assert bool(torch.isfinite(gradient).all()) and bool((gradient != 0).any())


def test_chains_go_through_vmap() -> None:
    chain = GaussianChain(Bumps(), 2, 4, 0.5)
    noise = torch.randn(6, 3, chain.noise).double()
    assert torch.allclose(torch.func.vmap(chain.run)(noise), chain.run(noise))
    value = chain.run(noise)

    def there_and_back(x: Tensor) -> Tensor:
        chain.gaps(x, 2)
        return chain.run(chain.bridge(x)[0])

    mapped = torch.func.vmap(there_and_back, randomness="different")(value)
    assert torch.allclose(mapped, value, atol=1e-9)


def test_a_last_step_has_a_floor() -> None:
    sure = GaussianChain(lambda u, level: (0 * u, 0 * u), 1, 3)
    value = sure.run(torch.randn(2000, 4).double())
    # a standard deviation of 2000 draws, five standard errors
    assert float(value.std()) == pytest.approx(FLOOR, rel=5 / 4000**0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda u: GaussianChain(exact(), 2, 0), "steps: expected at least 1, got 0"),
        (lambda u: GaussianChain(exact(), 0, 1), "size: expected at least 1, got 0"),
        (lambda u: GaussianChain(exact(), 2, 1, 2.0), "stochasticity: expected .*, got 2.0"),
        (lambda u: GaussianChain(exact(), 2, 2).run(u), "noise: expected 6 numbers .*, got 2"),
        (lambda u: GaussianChain(exact(), 2, 2).gaps(u, 0), "levels: expected at least 1, got 0"),
    ],
)
def test_bad_inputs(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.randn(4, 2).double())


def test_a_deterministic_sampler_has_no_density() -> None:
    with pytest.raises(NotImplementedError, match=r"stochasticity: expected above 0 .* got 0"):
        GaussianChain(exact(), 2, 5, 0.0)
