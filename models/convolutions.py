"""Networks from latent states to images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .fields import ACTIVATIONS, check_sizes


class Deconvolution(nn.Module):
    """``(..., L) -> (..., C * H * W)``: a coarse map, doubled by transposed convolutions.

    For an `Emission` of images, or of the frames of a video, row by row; each time is taken by
    itself (Radford et al. 2016, arXiv 1511.06434).

    Args:
        latent: L.
        shape: height and width, or channels, height and width, of an image.
        channels: of the coarse map and after each doubling but the last.
        activation: between the layers.

    Raises:
        ValueError: a size below 1, an unknown activation, or no channels.

    Example:
        >>> import torch
        >>> Deconvolution(5, (28, 28))(torch.zeros(3, 20, 5)).shape
        torch.Size([3, 20, 784])
    """

    def __init__(
        self,
        latent: int,
        shape: Sequence[int],
        channels: Sequence[int] = (32, 16),
        activation: str = "elu",
    ) -> None:
        super().__init__()
        check_sizes(latent=latent, **{f"shape[{i}]": size for i, size in enumerate(shape)})
        check_sizes(**{f"channels[{i}]": size for i, size in enumerate(channels)})
        if len(shape) not in (2, 3) or not channels:
            raise ValueError(
                "shape, channels: expected (height, width) or (channels, height, width), and at "
                f"least one of the other, got {tuple(shape)} and {tuple(channels)}"
            )
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}"
            )
        colours, self.height, self.width = (1, *shape)[-3:]
        self.activation = activation
        self.coarse = tuple(-(-size // 2 ** len(channels)) for size in (self.height, self.width))
        self.first = nn.Linear(latent, channels[0] * self.coarse[0] * self.coarse[1])
        ups = zip(channels, (*channels[1:], colours), strict=True)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, stride=2, padding=1) for a, b in ups)

    def forward(self, z: Tensor) -> Tensor:
        """The images, flat."""
        activate = ACTIVATIONS[self.activation]
        x: Tensor = self.first(z.reshape(-1, z.shape[-1])).unflatten(-1, (-1, *self.coarse))
        for up in self.ups:
            x = up(activate(x))
        x = x[..., : self.height, : self.width].flatten(1)  # a size that no doubling meets
        return x.reshape(*z.shape[:-1], x.shape[1])
