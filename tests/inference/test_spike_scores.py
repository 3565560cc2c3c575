"""Bits per spike and the R2 of rates: closed forms, masks and refusals."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor

from pyro_lebm.inference.scores import bits_per_spike, rate_r2

NAN = float("nan")


def data() -> tuple[Tensor, Tensor]:
    """Rates (50, 20, 4), of which neurons differ in size, and counts of them."""
    generator = torch.Generator().manual_seed(0)
    shape = torch.randn(50, 20, 4, generator=generator, dtype=torch.float64)
    rates = shape.exp() * torch.tensor([0.1, 0.5, 1.0, 2.0])
    return rates, torch.poisson(rates, generator=generator)


def test_bits_are_the_difference_of_poisson_likelihoods() -> None:
    rates, counts = data()
    mean = counts.mean((0, 1))
    for null in (None, mean, torch.tensor([0.3, 0.3, 2.0, 1.0])):
        constant = (mean if null is None else null).expand_as(rates)
        gain = torch.distributions.Poisson(rates).log_prob(counts)
        gain = gain - torch.distributions.Poisson(constant).log_prob(counts)
        expected = gain.sum() / counts.sum() / math.log(2)
        assert bits_per_spike(rates, counts, null) == pytest.approx(float(expected), rel=1e-9)


def test_bits_of_the_true_rates_are_their_information() -> None:
    # rate e^{s z - s^2 / 2} with z ~ N(0, 1): E[r log r] = s^2 / 2 nats for each spike
    generator, s = torch.Generator().manual_seed(0), 0.8
    z = torch.randn(200_000, 1, generator=generator, dtype=torch.float64)
    rates = (s * z - s**2 / 2).exp()
    counts = torch.poisson(rates, generator=generator)
    # a spike's log rate has variance s^2, and rates' spread adds some; within 5 standard errors
    # of twice s / sqrt(n), once in 2e6 at most
    assert bits_per_spike(rates, counts) * math.log(2) == pytest.approx(
        s**2 / 2, abs=10 * s / 200_000**0.5
    )
    assert bits_per_spike(rates.mean().expand_as(rates), counts) == pytest.approx(0, abs=1e-4)
    assert bits_per_spike(1 / rates, counts) < 0


def test_the_null_is_the_mean_of_what_counts() -> None:
    rates, counts = data()
    mask = torch.rand(50, 20, 4, generator=torch.Generator().manual_seed(1)) < 0.3
    parts = [counts[..., d][mask[..., d]] for d in range(4)]
    null = torch.stack([part.mean() for part in parts])
    hidden = counts.where(mask, NAN), rates.where(mask, NAN)
    found = bits_per_spike(hidden[1], hidden[0], None, mask)
    assert found == pytest.approx(bits_per_spike(rates, counts, null, mask), rel=1e-12)
    pooled = sum(
        float(torch.distributions.Poisson(rate).log_prob(count).sum())
        for rate, count in ((rates[..., d][mask[..., d]], part) for d, part in enumerate(parts))
    ) - sum(float(torch.distributions.Poisson(part.mean()).log_prob(part).sum()) for part in parts)
    spikes = float(sum(part.sum() for part in parts))
    assert found == pytest.approx(pooled / spikes / math.log(2), rel=1e-9)


def test_silent_neurons_and_rates_of_zero() -> None:
    counts = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    assert bits_per_spike(counts.clone(), counts) == 1.0
    # a neuron that is silent costs what it is predicted to fire: .5 nats in all, of 2 spikes
    rates = torch.tensor([[0.0, 0.25], [2.0, 0.25]])
    assert bits_per_spike(rates, counts) == pytest.approx(1 - 0.5 / (2 * math.log(2)))
    assert bits_per_spike(torch.zeros(2, 2), counts) == -math.inf


def test_r2_is_of_each_neuron_then_the_mean() -> None:
    rates, _ = data()
    guess = rates + 0.3 * torch.randn(rates.shape, generator=torch.Generator().manual_seed(2))
    mask = torch.rand(50, 20, 4, generator=torch.Generator().manual_seed(1)) < 0.3
    each = []
    for d in range(4):
        true, told = rates[..., d][mask[..., d]], guess[..., d][mask[..., d]]
        each.append(1 - (told - true).square().sum() / (true - true.mean()).square().sum())
    found = rate_r2(guess, rates.where(mask, NAN), mask)
    assert found == pytest.approx(float(torch.stack(each).mean()), rel=1e-9)
    assert len({round(float(x), 3) for x in each}) == 4
    assert rate_r2(rates, rates) == 1.0
    assert rate_r2(rates.mean((0, 1)).expand_as(rates), rates) == pytest.approx(0, abs=1e-12)
    assert rate_r2(2 * rates, rates) < 0  # no squared correlation


def test_r2_leaves_constant_neurons_out() -> None:
    rates, _ = data()
    fixed = rates.clone()
    fixed[..., 1] = 0.7
    others = [0, 2, 3]
    guess = rates + 0.1
    assert rate_r2(guess, fixed) == pytest.approx(rate_r2(guess[..., others], rates[..., others]))
    with pytest.raises(ValueError, match="truth: expected a feature that varies where it counts"):
        rate_r2(torch.ones(3, 2), torch.ones(3, 2))


ONES = torch.ones(3, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(3, 1), ONES), "rates: expected the shape (..., D) of counts, (3, 2), got (3,"),
        ((-ONES, ONES), "rates: expected none below 0, got -1.0"),
        ((ONES, -ONES), "counts: expected none below 0, got -1.0"),
        ((ONES * NAN, ONES), "rates: expected finite numbers where they count, got NaN or inf"),
        ((ONES, ONES * NAN), "counts: expected finite numbers where they count, got NaN or inf"),
        ((ONES, 0 * ONES), "counts: expected at least one spike where they count, got none"),
        ((ONES, ONES, torch.ones(3)), "null: expected a rate for each neuron, (2,), got (3,)"),
        ((ONES, ONES, torch.tensor([0.0, 1.0])), "null: expected finite rates of at least 0, abo"),
        ((ONES, ONES, torch.tensor([NAN, 1.0])), "null: expected finite rates of at least 0, abo"),
        ((ONES, ONES, None, ONES > 2), "mask: expected at least one entry that counts, got none"),
        ((ONES, ONES, None, torch.ones(3) > 0), "mask: expected bool of shape (3, 2), got torch.b"),
        ((ONES, ONES, None, ONES), "mask: expected bool of shape (3, 2), got torch.float32 (3, 2)"),
    ],
)
def test_bits_refuse(arguments: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        bits_per_spike(*arguments)


def test_r2_refuses() -> None:
    with pytest.raises(ValueError, match=re.escape("rates: expected the shape (..., D) of truth")):
        rate_r2(torch.ones(3, 1), ONES)
    with pytest.raises(ValueError, match="truth: expected finite numbers where they count"):
        rate_r2(ONES, ONES * NAN)
