"""How well rates tell spikes, and the rates behind them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .masked import by_feature, centred, varying


def bits_per_spike(
    rates: Tensor, counts: Tensor, null: Tensor | None = None, mask: Tensor | None = None
) -> float:
    r"""Gain of Poisson likelihood over constant rates, in bits for each spike; 0 is no gain.

    .. math:: \frac{1}{n \log 2} \sum_{i \in M} \left[ x_i \log \lambda_i - \lambda_i
              - (x_i \log \lambda^0_{d(i)} - \lambda^0_{d(i)}) \right], \qquad n = \sum_M x_i

    pooled over neurons (Pei et al. 2021, arXiv 2109.04463). A rate of 0 where there is a spike
    gives minus infinity.

    Args:
        rates: expected counts in each bin, of the shape of counts.
        counts: ``(..., D)``, spikes of D neurons; may be NaN where ``mask`` is False.
        null: ``(D,)``, the constant rates, such as the mean counts of the training data; None: the
            means of what counts here, the best constants, against which the gain is least.
        mask: bool, what counts, of the shape of counts; None: everything.

    Raises:
        ValueError: if shapes disagree, no spike counts, a counted entry is negative or not finite,
            or a null rate is so, or 0 for a neuron that spikes.

    Example:
        >>> counts = torch.tensor([[0.0], [2.0]])
        >>> bits_per_spike(torch.tensor([[0.0], [2.0]]), counts)
        1.0
    """
    rate, count, keep = by_feature(rates, counts, mask, ("rates", "counts"))
    for name, value in (("rates", rate), ("counts", count)):
        if bool((value < 0).any()):
            raise ValueError(f"{name}: expected none below 0, got {float(value.min())}")
    spikes = count.sum(0)
    if not spikes.sum() > 0:
        raise ValueError("counts: expected at least one spike where they count, got none")
    constant = spikes / keep.sum(0).clamp(min=1) if null is None else _null(null, spikes)
    model = torch.xlogy(count, rate) - rate
    least = torch.xlogy(spikes, constant) - keep.sum(0) * constant
    return float((model.sum() - least.sum()) / (spikes.sum() * math.log(2)))


def _null(null: Tensor, spikes: Tensor) -> Tensor:
    if null.shape != spikes.shape:
        raise ValueError(
            f"null: expected a rate for each neuron, {tuple(spikes.shape)}, got {tuple(null.shape)}"
        )
    rate = null.detach().cpu().double()
    if not bool((rate.isfinite() & (rate >= 0)).all() & (rate > 0)[spikes > 0].all()):
        raise ValueError(
            "null: expected finite rates of at least 0, above it for neurons that spike, "
            f"got {float(rate.min())} to {float(rate.max())}"
        )
    return rate


def rate_r2(rates: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    r"""Coefficient of determination of true rates, of each neuron over all bins, then their mean.

    .. math:: \frac{1}{D} \sum_d \left[ 1 - \frac{\sum_i (\lambda_{id} - \hat\lambda_{id})^2}
              {\sum_i (\lambda_{id} - \bar\lambda_d)^2} \right]

    with i over trials and bins alike, as for LFADS (Sussillo et al. 2016, arXiv 1608.06315). It is
    not a squared correlation: rates of the wrong size lose by it. Neurons whose true rate is
    constant are left out.

    Args:
        rates: of truth's shape and unit.
        truth: ``(..., D)``, true rates; may be NaN where ``mask`` is False.
        mask: bool, what counts, of truth's shape; None: everything.

    Raises:
        ValueError: if shapes disagree, nothing counts, a counted entry is not finite, or no true
            rate varies.

    Example:
        >>> truth = torch.tensor([[1.0], [2.0], [3.0]])
        >>> rate_r2(truth, truth), rate_r2(torch.full((3, 1), 2.0), truth)
        (1.0, 0.0)
    """
    guess, target, keep = by_feature(rates, truth, mask, ("rates", "truth"))
    used = varying(target, keep)
    error = (guess - target).square().sum(0)[used]
    spread = centred(target, keep).square().sum(0)[used]
    return float((1 - error / spread).mean())
