"""Predictions and truth by feature, and which entries count."""

from __future__ import annotations

import torch
from torch import Tensor


def by_feature(
    prediction: Tensor,
    truth: Tensor,
    mask: Tensor | None,
    names: tuple[str, str] = ("prediction", "truth"),
) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction, truth and mask ``(entries, D)``, in double precision, 0 where nothing counts.

    Args:
        prediction: of truth's shape.
        truth: ``(..., D)``.
        mask: bool, what counts, of truth's shape; None: everything.
        names: of the two arguments, for errors.

    Raises:
        ValueError: if shapes disagree, nothing counts, or a counted entry is not finite.
    """
    shape = tuple(truth.shape)
    if not shape or prediction.shape != truth.shape:
        raise ValueError(
            f"{names[0]}: expected the shape (..., D) of {names[1]}, {shape}, "
            f"got {tuple(prediction.shape)}"
        )
    keep = torch.ones(shape, dtype=torch.bool) if mask is None else mask.detach().cpu()
    if keep.dtype != torch.bool or keep.shape != truth.shape:
        raise ValueError(
            f"mask: expected bool of shape {shape}, got {keep.dtype} {tuple(keep.shape)}"
        )
    if not keep.any():
        raise ValueError("mask: expected at least one entry that counts, got none")
    found = []
    for name, value in zip(names, (prediction, truth), strict=True):
        kept = torch.where(keep, value.detach().cpu().double(), 0.0)
        if not torch.isfinite(kept).all():
            raise ValueError(f"{name}: expected finite numbers where they count, got NaN or inf")
        found.append(kept.reshape(-1, shape[-1]))
    return found[0], found[1], keep.reshape(-1, shape[-1])


def centred(value: Tensor, keep: Tensor) -> Tensor:
    """Deviations from the mean of each feature's counted entries, 0 elsewhere."""
    mean = (value * keep).sum(0) / keep.sum(0).clamp(min=1)
    return (value - mean) * keep


def varying(truth: Tensor, keep: Tensor) -> Tensor:
    """Features that take more than one value where they count, ``(D,)`` bool.

    Raises:
        ValueError: none does.
    """
    low = truth.masked_fill(~keep, torch.inf).amin(0)
    high = truth.masked_fill(~keep, -torch.inf).amax(0)
    found = high > low
    if not found.any():
        raise ValueError("truth: expected a feature that varies where it counts, got none")
    return found
