"""Networks from latent states to images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from .fields import ACTIVATIONS, check_sizes


class Deconvolution(nn.Module):
    """``(..., L) -> (..., C * H * W)``: a coarse map, doubled by transposed convolutions.

    For an `Emission` of images, or of the frames of a video, row by row; each time is taken by
    itself (Radford et al. 2016, arXiv 1511.06434).

    Args:
        latent: L; or channels, height and width of a spatial latent, which is read row by row.
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
        latent: int | Sequence[int],
        shape: Sequence[int],
        channels: Sequence[int] = (32, 16),
        activation: str = "elu",
    ) -> None:
        super().__init__()
        self.latent = (latent,) if isinstance(latent, int) else tuple(latent)
        check_sizes(latent=min(self.latent))
        check_sizes(**{f"shape[{i}]": size for i, size in enumerate(shape)})
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
        if len(self.latent) == 1:
            size = channels[0] * self.coarse[0] * self.coarse[1]
            self.first: nn.Module = nn.Linear(self.latent[0], size)
        else:
            self.first = nn.Conv2d(self.latent[0], channels[0], 3, padding=1)
        ups = zip(channels, (*channels[1:], colours), strict=True)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, stride=2, padding=1) for a, b in ups)

    def forward(self, z: Tensor) -> Tensor:
        """The images, flat."""
        activate = ACTIVATIONS[self.activation]
        x = self._coarsest(z.reshape(-1, z.shape[-1]))
        for up in self.ups:
            x = up(activate(x))
        x = x[..., : self.height, : self.width].flatten(1)  # a size that no doubling meets
        return x.reshape(*z.shape[:-1], x.shape[1])

    def _coarsest(self, z: Tensor) -> Tensor:
        spatial = len(self.latent) > 1
        x: Tensor = self.first(z.unflatten(-1, self.latent) if spatial else z)
        return F.interpolate(x, self.coarse) if spatial else x.unflatten(-1, (-1, *self.coarse))
