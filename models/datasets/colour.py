"""Colour images of 32 x 32 pixels, from files that the user has: CIFAR-10 and SVHN."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from scipy.io import loadmat
from torch import Tensor

from .digits import SPLITS, Split

PIXELS = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32  # of CIFAR-10: a label, then the three colours, row by row
BATCHES = [f"data_batch_{i}.bin" for i in range(1, 6)]


def cifar10(folder: str | os.PathLike[str], split: Split = "train") -> tuple[Tensor, Tensor]:
    """CIFAR-10's images ``(n, 3, 32, 32)`` in [0, 1] and labels ``(n,)``, of its binary version.

    Args:
        folder: with ``data_batch_1.bin`` to ``data_batch_5.bin``, of which there may be fewer, and
            ``test_batch.bin``.
        split: as for `digit_images` of MNIST: parts of 60 and 20 % of the training images, in the
            order of a fixed permutation, or the test images.

    Raises:
        ValueError: another split, or a file that is no whole number of records.
        FileNotFoundError: no batch of the split in the folder.
    """
    _check(split)
    names = ["test_batch.bin"] if split == "test" else BATCHES
    paths = [path for name in names if (path := Path(folder) / name).exists()]
    if not paths:
        raise FileNotFoundError(f"folder: expected {' or '.join(names)} in {folder}, found none")
    records = torch.cat([_records(path) for path in paths])
    images = records[:, 1:].reshape(-1, *PIXELS).float() / 255
    return _part(images, records[:, 0].long(), split)


def _records(path: Path) -> Tensor:
    content = np.fromfile(path, np.uint8)
    if not len(content) or len(content) % RECORD:
        raise ValueError(
            f"{path}: expected records of {RECORD} bytes, got {len(content)} bytes in all"
        )
    found = torch.from_numpy(content.reshape(-1, RECORD))
    if int(found[:, 0].max()) > 9:
        raise ValueError(f"{path}: expected labels from 0 to 9, got {int(found[:, 0].max())}")
    return found


def svhn(folder: str | os.PathLike[str], split: Split = "train") -> tuple[Tensor, Tensor]:
    """Street view house numbers, ``(n, 3, 32, 32)`` in [0, 1], and the digits ``(n,)``.

    Args:
        folder: with ``train_32x32.mat`` and ``test_32x32.mat``, the cropped digits.
        split: as for `cifar10`.

    Raises:
        ValueError: another split, or a file that is none of these.
        FileNotFoundError: no such file in the folder.
    """
    _check(split)
    path = Path(folder) / f"{'test' if split == 'test' else 'train'}_32x32.mat"
    if not path.exists():
        raise FileNotFoundError(f"folder: expected {path.name} in {folder}, found none")
    try:
        found = loadmat(path)
        pixels, labels = found["X"], found["y"]
    except (MemoryError, FileNotFoundError):
        raise
    except Exception as error:  # a damaged file may fail in any way
        raise ValueError(f"{path}: expected a MATLAB file with X and y, got {error!r}") from error
    if (
        pixels.ndim != 4
        or pixels.shape[:3] != (32, 32, 3)
        or pixels.dtype != np.uint8
        or labels.size != pixels.shape[-1]
        or not labels.size
        or labels.dtype.kind not in "uif"
        or not np.isin(labels, np.arange(11)).all()
    ):
        raise ValueError(
            f"{path}: expected bytes X (32, 32, 3, n) and n labels y from 0 to 10, got X "
            f"{pixels.shape} of {pixels.dtype} and y {labels.shape} of {labels.dtype}"
        )
    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(3, 2, 0, 1))).float() / 255
    digits = torch.from_numpy(labels.reshape(-1).astype(np.int64)) % 10  # its 0 is written as 10
    return _part(images, digits, split)


def _check(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {[*SPLITS]}, got {split!r}")


def _part(images: Tensor, labels: Tensor, split: str) -> tuple[Tensor, Tensor]:
    if split == "test":
        return images, labels
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    low, high = (int(share * len(images)) for share in SPLITS[split])
    return images[order[low:high]], labels[order[low:high]]
