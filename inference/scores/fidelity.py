"""Generated images against real ones, by features of a network."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Fidelity(NamedTuple):
    """Distances of generated images from real ones, and of other real ones: the floor.

    Attributes:
        frechet: Frechet distance of two normal distributions of features; 0 best.
        kernel: squared kernel distance, which may come out below 0.
        frechet_floor, kernel_floor: the same of real images in the generated ones' place.
    """

    frechet: float
    kernel: float
    frechet_floor: float
    kernel_floor: float


def fidelity(
    generated: Tensor,
    real: Tensor,
    held_out: Tensor,
    features: nn.Module,
    *,
    batch_size: int = 250,
    seed: int = 0,
) -> Fidelity:
    r"""Frechet and kernel distances between images in a network's features, by torchmetrics.

    .. math:: \|\mu - \mu'\|^2 + \mathrm{tr}(\Sigma + \Sigma' - 2 (\Sigma \Sigma')^{1/2})

    with mean and covariance of each side (Heusel et al. 2017, arXiv 1706.08500), and the unbiased
    squared MMD with the kernel :math:`(x \cdot y / d + 1)^3` (Binkowski et al. 2018, arXiv
    1801.01401). The former is biased by the numbers of images, which is why it stands beside its
    floor: the distance of as many ``held_out`` real images from the same ``real`` ones. With the
    Inception network and its published weights the two are FID and KID; with any other they are
    not, and compare with no paper.

    Args:
        generated: images of a model, in any shape that ``features`` takes.
        real: the images to compare with, such as those of the training.
        held_out: other real images, as many as ``generated``.
        features: module from images to ``(n, num_features)``, with that attribute: such as
            `classifier_features` makes, or `InceptionFeatures`.
        batch_size: images at once.
        seed: of the subsets that the kernel distance is averaged over.

    Raises:
        ValueError: for other numbers of images, or values that are not finite.

    Warns:
        UserWarning: where there are fewer than ten images for each feature: the covariance, and
            with it the Frechet distance, is mostly noise then.

    Example:
        >>> class Pixels(nn.Module):
        ...     num_features = 4
        ...
        ...     def forward(self, images):
        ...         return images.flatten(1)
        >>> _ = torch.manual_seed(0)
        >>> real, other = torch.randn(500, 2, 2), torch.randn(200, 2, 2)
        >>> found = fidelity(other + 3.0, real, other, Pixels())
        >>> found.frechet > 30 * found.frechet_floor
        True
    """
    if len(generated) != len(held_out):
        raise ValueError(
            f"held_out: expected as many images as generated, {len(generated)}, got {len(held_out)}"
        )
    if min(len(generated), len(real)) < 2:
        raise ValueError(
            "generated, real: expected at least 2 images each, got "
            f"{len(generated)} and {len(real)}"
        )
    for name, images in (("generated", generated), ("real", real), ("held_out", held_out)):
        if not bool(torch.isfinite(images).all()):
            raise ValueError(f"{name}: expected finite numbers, got NaN or inf")
    count = min(len(generated), len(real))
    if count < 10 * int(features.num_features):  # type: ignore[arg-type]
        warnings.warn(
            f"fidelity: {count} images are few for {features.num_features} features; expected ten "
            "for each, or the Frechet distance is mostly noise",
            stacklevel=2,
        )
    of = [_features(features, images, batch_size) for images in (generated, real, held_out)]
    return Fidelity(
        _frechet(of[0], of[1]),
        _kernel(of[0], of[1], seed),
        _frechet(of[2], of[1]),
        _kernel(of[2], of[1], seed),
    )


@torch.no_grad()
def _features(features: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    return torch.cat([features(part) for part in images.split(batch_size)]).double().cpu()


class _Given(nn.Module):
    """Features that are known already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        return x


def _frechet(x: Tensor, y: Tensor) -> float:
    from torchmetrics.image.fid import FrechetInceptionDistance  # takes seconds to import

    metric = FrechetInceptionDistance(_Given(x.shape[1])).set_dtype(torch.float64)
    metric.update(y, real=True)
    metric.update(x, real=False)
    return float(metric.compute())


def _kernel(x: Tensor, y: Tensor, seed: int) -> float:
    from torchmetrics.image.kid import KernelInceptionDistance

    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*will save all extracted features")  # there are few
        torch.manual_seed(seed)
        size = min(len(x), len(y), 1000)
        metric = KernelInceptionDistance(_Given(x.shape[1]), subsets=20, subset_size=size)
        metric.set_dtype(torch.float64)
        metric.update(y, real=True)
        metric.update(x, real=False)
        return float(metric.compute()[0])
