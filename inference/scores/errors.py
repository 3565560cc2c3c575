"""Errors of predictions, and how honest their spread is."""

from __future__ import annotations

import numpy as np
import scoringrules
import torch
from torch import Tensor


def mse(prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    r"""Mean squared error over the entries of ``mask``.

    .. math:: \frac{1}{|M|} \sum_{i \in M} (\hat x_i - x_i)^2

    Args:
        prediction: a point prediction, such as the mean over draws; of truth's shape.
        truth: any shape; may be NaN where ``mask`` is False. The unit of the score is its square.
        mask: bool, what counts; of truth's shape. None: everything.

    Raises:
        ValueError: if shapes disagree, nothing counts, or a counted entry is not finite.

    Example:
        >>> mse(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
        2.0
    """
    if prediction.shape != truth.shape:
        raise ValueError(
            f"prediction: expected shape {tuple(truth.shape)} as truth, "
            f"got {tuple(prediction.shape)}"
        )
    guess, target = _counted(prediction[None], truth, mask)
    return float((guess[0] - target).square().mean())


def crps(draws: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    r"""Continuous ranked probability score, mean over entries, in the unit of the data: 0 is best.

    .. math:: \mathrm{CRPS}(F, y) = E|X - y| - \tfrac12 E|X - X'|, \qquad X, X' \sim F

    (Gneiting and Raftery 2007), estimated without bias from draws by probability-weighted moments
    (Zamo and Naveau 2018). Of a single draw it is the absolute error.

    Args:
        draws: leading dimensions of draws, such as ``(chains, draws)``, then truth's shape.
        truth: any shape; may be NaN where ``mask`` is False.
        mask: bool, what counts; of truth's shape. None: everything.

    Raises:
        ValueError: if shapes disagree, nothing counts, or a counted entry is not finite.

    Example:
        >>> crps(torch.tensor([[1.0], [3.0]]), torch.tensor([2.0]))
        0.0
    """
    sample, target = _counted(draws, truth, mask)
    if len(sample) == 1:
        return float((sample[0] - target).abs().mean())
    score = scoringrules.crps_ensemble(
        target.numpy(), sample.numpy(), m_axis=0, estimator="pwm", backend="numpy"
    )
    return float(np.mean(score))


def interval(draws: Tensor, level: float) -> tuple[Tensor, Tensor]:
    r"""Central interval of the draws along their first dimension, calibrated for few of them.

    Its ends are the order statistics at ranks :math:`(S + 1)(1 \pm \text{level})/2` (Weibull's
    plotting positions): of exchangeable draws and truth it holds the truth with probability
    ``level`` exactly, where the common linear quantiles fall short by a factor (S-1)/(S+1).

    Args:
        draws: ``(S, ...)``.
        level: in (0, 1).

    Returns:
        Lower and upper end, each of shape ``draws.shape[1:]``.

    Raises:
        ValueError: if the level is not in (0, 1), or there are too few draws for it.

    Example:
        >>> low, high = interval(torch.arange(1.0, 20.0), 0.9)
        >>> round(float(low), 4), round(float(high), 4)
        (1.0, 19.0)
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level: expected a number in (0, 1), got {level}")
    needed = int(np.ceil(2 / (1 - level) - 1 - 1e-9))
    if len(draws) < needed:
        raise ValueError(
            f"draws: expected at least {needed} for an interval of level {level}, got {len(draws)}"
        )
    sample = draws.detach().cpu().numpy()
    ends = np.quantile(sample, [(1 - level) / 2, (1 + level) / 2], axis=0, method="weibull")
    low, high = torch.as_tensor(ends).to(draws)
    return low, high


def coverage(draws: Tensor, truth: Tensor, level: float, mask: Tensor | None = None) -> float:
    """Fraction of the true entries inside the central interval of their draws; best is ``level``.

    Args:
        draws: leading dimensions of draws, then truth's shape. Predictive draws, with the noise of
            observation, if truth is noisy.
        truth: any shape; may be NaN where ``mask`` is False.
        level: of the interval, in (0, 1); see :func:`interval`.
        mask: bool, what counts; of truth's shape. None: everything.

    Raises:
        ValueError: as :func:`interval` and :func:`crps` do.

    Example:
        >>> coverage(torch.arange(1.0, 20.0)[:, None], torch.tensor([7.0]), 0.9)
        1.0
    """
    sample, target = _counted(draws, truth, mask)
    low, high = interval(sample, level)
    return float(((target >= low) & (target <= high)).double().mean())


def _counted(draws: Tensor, truth: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Draws ``(S, entries)`` and truth ``(entries,)`` of what counts, in double precision."""
    lead = draws.dim() - truth.dim()
    if lead < 1 or draws.shape[lead:] != truth.shape:
        raise ValueError(
            f"draws: expected dimensions of draws before {tuple(truth.shape)}, the shape of truth, "
            f"got {tuple(draws.shape)}"
        )
    keep = torch.ones_like(truth, dtype=torch.bool) if mask is None else mask.to(truth.device)
    if keep.dtype != torch.bool or keep.shape != truth.shape:
        raise ValueError(
            f"mask: expected bool of shape {tuple(truth.shape)}, "
            f"got {keep.dtype} {tuple(keep.shape)}"
        )
    if not keep.any():
        raise ValueError("mask: expected at least one entry that counts, got none")
    sample = draws.detach().flatten(0, lead - 1)[:, keep.to(draws.device)].double().cpu()
    target = truth.detach()[keep].double().cpu()
    for name, value in (("draws", sample), ("truth", target)):
        if not torch.isfinite(value).all():
            raise ValueError(f"{name}: expected finite numbers where they count, got NaN or inf")
    return sample, target
