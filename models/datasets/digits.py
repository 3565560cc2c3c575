"""Handwritten digits that turn."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Literal, overload

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

from pyro_lebm.series import Series

from .idx import read_idx
from .truth import Truth

Split = Literal["train", "validation", "test"]
SPLITS: dict[str, tuple[float, float]] = {
    "train": (0.0, 0.6),
    "validation": (0.6, 0.8),
    "test": (0.8, 1.0),
}
STEPS = 15  # frames a turn


def digit_images(
    split: Split = "train", folder: str | os.PathLike[str] | None = None
) -> tuple[Tensor, Tensor]:
    """Images ``(n, height, width)`` in [0, 1] of handwritten digits, and their labels ``(n,)``.

    Args:
        split: one of three disjoint parts, of 60, 20 and 20 % of the images (of MNIST, whose test
            images are its own: training images in parts of 60 and 20 %, in the order of a fixed
            permutation).
        folder: with MNIST's, or Fashion-MNIST's, four IDX files, gzipped or not; None: the 1797
            images of 8 x 8 pixels that come with scikit-learn.

    Raises:
        ValueError: another split, or files that are no IDX files of images and their labels.
        FileNotFoundError: a file that is not in the folder.

    Example:
        >>> images, labels = digit_images()
        >>> images.shape, len(labels)
        (torch.Size([1078, 8, 8]), 1078)
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {[*SPLITS]}, got {split!r}")
    if folder is not None and split == "test":
        return _mnist(folder, "t10k")
    if folder is None:
        found = load_digits()
        images = torch.as_tensor(found.images, dtype=torch.float32) / 16
        labels = torch.as_tensor(found.target, dtype=torch.long)
    else:
        images, labels = _mnist(folder, "train")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    low, high = (int(share * len(images)) for share in SPLITS[split])
    part = order[low:high]
    return images[part], labels[part]


def _mnist(folder: str | os.PathLike[str], part: str) -> tuple[Tensor, Tensor]:
    images = read_idx(folder, f"{part}-images-idx3-ubyte")
    labels = read_idx(folder, f"{part}-labels-idx1-ubyte")
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise ValueError(
            "folder: expected images (n, height, width) and as many labels, got shapes "
            f"{tuple(images.shape)} and {tuple(labels.shape)}"
        )
    return images.float() / 255, labels.long()


@overload
def rotating_digits(
    n: int = ...,
    *,
    frames: int = ...,
    classes: Sequence[int] | None = ...,
    split: Split = ...,
    folder: str | os.PathLike[str] | None = ...,
    pad: int = ...,
    seed: int = ...,
    truth: Literal[False] = ...,
) -> Series: ...
@overload
def rotating_digits(
    n: int = ...,
    *,
    frames: int = ...,
    classes: Sequence[int] | None = ...,
    split: Split = ...,
    folder: str | os.PathLike[str] | None = ...,
    pad: int = ...,
    seed: int = ...,
    truth: Literal[True],
) -> tuple[Series, Truth]: ...
def rotating_digits(
    n: int = 600,
    *,
    frames: int = 16,
    classes: Sequence[int] | None = None,
    split: Split = "train",
    folder: str | os.PathLike[str] | None = None,
    pad: int = 1,
    seed: int = 0,
    truth: bool = False,
) -> Series | tuple[Series, Truth]:
    """Digits that turn at one speed, from a random angle (after Auzina et al. 2023, 2306.08453).

    Fifteen frames are a turn, so that 16 frames end as they began and 45 frames are three turns.

    Args:
        n: number of sequences; each image is used once before any is used again.
        frames: of a sequence; times are in turns, from 0.
        classes: which digits; None: all.
        split: disjoint parts of the images, see `digit_images`.
        folder: with MNIST's files; None: scikit-learn's digits.
        pad: empty pixels around an image, so that its corners are not lost as it turns.
        seed: of a generator of its own.
        truth: also return ``{"label": (n,), "angle": (n, frames), "thickness": (n,)}``: radians,
            counterclockwise, and the mean ink of the image.

    Returns:
        A fully observed series, values ``(n, frames, height * width)`` in [0, 1], row by row.

    Raises:
        ValueError: fewer than 1 sequence or 2 frames, no image of the classes; and as
            `digit_images`.

    Example:
        >>> series, truth = rotating_digits(4, classes=[3], truth=True)
        >>> series
        Series(N=4, T=16, D=100, observed 6400 of 6400 entries)
        >>> bool((truth["label"] == 3).all())
        True
    """
    if n < 1 or frames < 2 or pad < 0:
        raise ValueError(
            f"n, frames, pad: expected at least 1, 2 and 0, got {n}, {frames} and {pad}"
        )
    images, labels = digit_images(split, folder)
    if classes is not None:
        kept = torch.isin(labels, torch.as_tensor([*classes]))
        images, labels = images[kept], labels[kept]
    if not len(images):
        raise ValueError(f"classes: expected digits that there are images of, got {classes}")
    generator = torch.Generator().manual_seed(seed)
    rounds = [torch.randperm(len(images), generator=generator) for _ in range(-(-n // len(images)))]
    chosen = torch.cat(rounds)[:n]
    start = 2 * math.pi * torch.rand(n, 1, generator=generator)
    angle = start + 2 * math.pi / STEPS * torch.arange(frames)
    padded = F.pad(images[chosen], (pad, pad, pad, pad))
    values = turned(padded.unsqueeze(1).expand(-1, frames, -1, -1), angle)
    series = Series(torch.arange(frames) / STEPS, values.flatten(-2))
    if not truth:
        return series
    thickness = images[chosen].mean((-2, -1))
    return series, {"label": labels[chosen], "angle": angle, "thickness": thickness}


def turned(images: Tensor, angle: Tensor) -> Tensor:
    """Images ``(..., height, width)`` turned counterclockwise by ``(...)`` radians."""
    flat, by = images.reshape(-1, 1, *images.shape[-2:]), angle.reshape(-1)
    cosine, sine, zero = by.cos(), by.sin(), torch.zeros_like(by)
    # where a pixel comes from, in coordinates that grow to the right and downwards
    rows = [torch.stack([cosine, -sine, zero], -1), torch.stack([sine, cosine, zero], -1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(flat.shape), align_corners=False)
    return F.grid_sample(flat, grid, align_corners=False).clamp(0, 1).reshape(images.shape)
