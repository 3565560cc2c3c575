"""Networks that read what is seen of one time, for encoders."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class ConvolutionalReader(nn.Module):
    """Frames of a video to features: ``(..., 2 * C * H * W) -> (..., features)``.

    For ``reader=`` of a `GRUEncoder`: what it is given of a time are its values, 0 where hidden,
    and its mask, as channels of one image.

    Args:
        shape: height and width, or channels, height and width, of a frame.
        features: length of the output.
        channels: after each convolution, which halves height and width.

    Raises:
        ValueError: for a shape of another length, or a size below 1.

    Example:
        >>> import torch
        >>> ConvolutionalReader((28, 28), 32)(torch.zeros(3, 20, 2 * 784)).shape
        torch.Size([3, 20, 32])
    """

    def __init__(
        self, shape: Sequence[int], features: int = 64, channels: Sequence[int] = (16, 32)
    ) -> None:
        super().__init__()
        if len(shape) not in (2, 3) or not channels or min(*shape, features, *channels) < 1:
            raise ValueError(
                "shape, features, channels: expected (height, width) or (channels, height, width), "
                f"and sizes of at least 1, got {tuple(shape)}, {features} and {tuple(channels)}"
            )
        colours, height, width = (1, *shape)[-3:]
        self.image = (2 * colours, height, width)
        layers: list[nn.Module] = []
        for a, b in pairwise([2 * colours, *channels]):
            layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.ELU()]
            height, width = -(-height // 2), -(-width // 2)
        layers += [nn.Flatten(), nn.Linear(channels[-1] * height * width, features)]
        self.network, self.features = nn.Sequential(*layers), features

    def forward(self, seen: Tensor) -> Tensor:
        """Features of each time."""
        found: Tensor = self.network(seen.reshape(-1, *self.image))
        return found.reshape(*seen.shape[:-1], self.features)
