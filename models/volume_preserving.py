"""A flow on noise that changes no volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_lebm.number_checks import check_whole

from .fields import check_hidden


class VolumePreservingFlow(nn.Module):
    r"""Additive couplings: a learned map of noise whose Jacobian has determinant 1.

    .. math:: y_a = x_a, \qquad y_b = x_b + m(x_a)

    with the parts changing places from layer to layer (NICE; Dinh, Krueger & Bengio 2015, arXiv
    1410.8516), by zuko: ``pip install 'pyro-lebm[flows]'``. Rezaei (2023, arXiv 2306.07077) names
    such a flow on the latent noise as future work. At the start it is the identity.

    Importing zuko switches the validation of torch's distributions off for the whole process; it
    is put back as it was.

    Args:
        size: L, numbers of the noise.
        layers: couplings.
        hidden: widths of each coupling's hidden layers.

    Raises:
        TypeError: a size or layers that are no whole number, ``hidden`` that is no sequence.
        ValueError: fewer than two numbers or layers.
        ModuleNotFoundError: without the extra ``flows``.

    Example:
        >>> flow = VolumePreservingFlow(3)
        >>> x = torch.randn(5, 3)
        >>> torch.allclose(flow.inverse(flow(x)), x, atol=1e-6)
        True
    """

    def __init__(self, size: int, layers: int = 4, hidden: Sequence[int] = (64,)) -> None:
        super().__init__()
        check_whole(size=size, layers=layers)
        check_hidden(hidden)
        if size < 2 or layers < 2:
            raise ValueError(
                f"size, layers: expected at least 2 of each, got size {size}, {layers} layers"
            )
        self.size = size
        couplings = _couplings(size, layers, hidden)
        for coupling in couplings:
            nn.init.zeros_(coupling.hyper[-1].weight)
            nn.init.zeros_(coupling.hyper[-1].bias)
        self.couplings = nn.ModuleList(couplings)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., L) -> (..., L)``."""
        for coupling in self.couplings:
            x = coupling()(x)
        return x

    def inverse(self, y: Tensor) -> Tensor:
        """What `forward` maps to y."""
        for coupling in reversed(self.couplings):
            y = coupling().inv(y)
        return y

    def __repr__(self) -> str:  # zuko's own draws random numbers
        return f"VolumePreservingFlow(size={self.size}, layers={len(self.couplings)})"


def _couplings(size: int, layers: int, hidden: Sequence[int]) -> list[Any]:
    validated = torch.distributions.Distribution._validate_args
    try:
        from zuko.flows.coupling import GeneralCouplingTransform
        from zuko.transforms import AdditiveTransform
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "VolumePreservingFlow: expected zuko, which is not installed; "
            "pip install 'pyro-lebm[flows]'"
        ) from error
    finally:
        torch.distributions.Distribution.set_default_validate_args(validated)
    return [
        GeneralCouplingTransform(
            size,
            mask=torch.arange(size) % 2 == i % 2,
            univariate=AdditiveTransform,
            shapes=((),),
            hidden_features=tuple(hidden),
            activation=nn.SiLU,
        )
        for i in range(layers)
    ]
