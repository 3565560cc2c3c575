"""Images of the joint prior's benchmark: what is learned from, and what is strange to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.nn import functional as F

from pyro_lebm.models.datasets import cifar10, digit_images, svhn

# held out of training, seed by seed: those of the papers' anomaly tables
HELD_OUT = (1, 4, 5, 7, 9)
Load = Callable[..., tuple[Tensor, Tensor]]


class Images(NamedTuple):
    """Images ``(n, height, width)`` or ``(n, colours, height, width)`` in [0, 1].

    Attributes:
        train: without the class that is held out.
        real: others of the same classes, that nothing was learned from.
        anomalies: of the class held out.
        others: of another kind altogether, as many as ``real``.
        labelled: training images of all classes with their labels, for the features.
    """

    train: Tensor
    real: Tensor
    anomalies: Tensor
    others: Tensor
    labelled: tuple[Tensor, Tensor]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Colours, height and width."""
        colours, height, width = (1, *self.train.shape[1:])[-3:]
        return colours, height, width


def _digits(split: str, folder: Path | None) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = digit_images(split, folder)
    return found


def _of_folder(load: Load) -> Load:
    def loaded(split: str, folder: Path | None) -> tuple[Tensor, Tensor]:
        if folder is None:
            raise SystemExit("--folder: expected the folder with the files of this data set")
        return load(folder, split)

    return loaded


# `digits` are scikit-learn's, or of MNIST's or Fashion-MNIST's files in a folder
DATA: dict[str, Load] = {
    "digits": _digits,
    "cifar10": _of_folder(cifar10),
    "svhn": _of_folder(svhn),
}


def images(name: str, folder: Path | None, seed: int, *, validation: bool) -> Images:
    """Those of a seed; for choices, the validation part stands for the test part."""
    load, held_out = DATA[name], HELD_OUT[seed % len(HELD_OUT)]
    train, labels = load("train", folder)
    test, truth = load("validation" if validation else "test", folder)
    real = test[truth != held_out]
    return Images(
        train=train[labels != held_out],
        real=real,
        anomalies=test[truth == held_out],
        others=patches(len(real), train.shape[1:]),
        labelled=(train, labels),
    )


def patches(n: int, shape: torch.Size) -> Tensor:
    """Pieces of scikit-learn's two photographs, of the shape of the images."""
    colours, height, width = (1, *shape)[-3:]
    photographs = np.stack(load_sample_images().images)  # (2, 427, 640, 3)
    whole = torch.from_numpy(photographs).permute(0, 3, 1, 2).float() / 255
    whole = whole.mean(1, keepdim=True) if colours == 1 else whole
    small = F.avg_pool2d(whole, 4) if min(height, width) < 16 else whole
    found = F.unfold(small, (height, width), stride=max(height // 2, 1))
    found = found.transpose(1, 2).reshape(-1, colours * height * width)
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
    repeated = order.repeat(-(-n // len(order)))[:n]
    return found[repeated].reshape(n, *shape)
