"""Images as data of one time."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_lebm.series import Series


def image_series(images: Tensor) -> Series:
    """Images as a series of one time point, whose features are the pixels, row by row.

    Args:
        images: ``(n, height, width)`` or ``(n, colours, height, width)``, colour by colour.

    Returns:
        values ``(n, 1, colours * height * width)``, all observed.

    Raises:
        ValueError: for another number of dimensions, or no image.

    Example:
        >>> from pyro_lebm.models.datasets import digit_images
        >>> image_series(digit_images()[0])
        Series(N=1078, T=1, D=64, observed 68992 of 68992 entries)
    """
    if images.ndim not in (3, 4) or not images.numel():
        raise ValueError(
            "images: expected shape (n, height, width) or (n, colours, height, width), got "
            f"{tuple(images.shape)}"
        )
    return Series(torch.zeros(1).to(images), images.flatten(1).unsqueeze(1))
