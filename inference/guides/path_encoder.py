"""What each time of a sequence is told of the observations before and after it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_lebm.number_checks import check_numbers, check_whole
from pyro_lebm.series import Series


class PathEncoder(nn.Module):
    r"""Features of every time, from what was observed up to it and from it on.

    .. math:: h_k = [\overrightarrow{g}(x_{1:k}), \overleftarrow{g}(x_{k:K})]

    with recurrent networks :math:`g` over values, mask, covariates and gaps; without history the
    first is a network of :math:`x_k` alone, without look-ahead there is no second. (Two recurrent
    networks, of the past and of the future, as in Krishnan, Shalit & Sontag 2017, arXiv 1609.09869;
    the inputs, so that times may be irregular and parts hidden, and the two switches are ours.)

    Args:
        observed: D, features of an observation.
        hidden: width of each part.
        history: whether the past is remembered.
        look_ahead: whether the future is read.
        covariates: C, channels of ``series.covariates``.
        unit: a typical gap, in the series' unit.

    Raises:
        TypeError: for sizes that are no whole number, a unit that is no number.
        ValueError: for sizes below one, a unit that is not positive; when called: for a series of
            other channels.

    Example:
        >>> series = Series(torch.linspace(0, 1, 5), torch.zeros(3, 5, 1))
        >>> PathEncoder(observed=1, hidden=8)(series).shape
        torch.Size([3, 5, 16])
    """

    def __init__(
        self,
        observed: int,
        hidden: int = 64,
        *,
        history: bool = True,
        look_ahead: bool = True,
        covariates: int = 0,
        unit: float = 1.0,
    ) -> None:
        super().__init__()
        check_whole(observed=observed, hidden=hidden, covariates=covariates)
        check_numbers(unit=unit)
        for name, value, least in (("observed", observed, 1), ("hidden", hidden, 1)):
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        if covariates < 0:
            raise ValueError(f"covariates: expected at least 0, got {covariates}")
        if not 0 < unit < float("inf"):
            raise ValueError(f"unit: expected a positive number, got {unit}")
        self.observed, self.covariates, self.unit = observed, covariates, unit
        inputs = 2 * observed + covariates + 1
        self.past: nn.Module = (
            nn.GRU(inputs, hidden, batch_first=True)
            if history
            else nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, hidden))
        )
        self.future = nn.GRU(inputs, hidden, batch_first=True) if look_ahead else None
        self.features = hidden * (2 if look_ahead else 1)

    def forward(self, series: Series) -> Tensor:
        """Features ``(N, K, features)``."""
        inputs = self._inputs(series)
        past = self.past(inputs)
        past = past[0] if isinstance(past, tuple) else past
        if self.future is None:
            found: Tensor = past
            return found
        # From each sequence's own last observation back: what is hidden beyond it is not read.
        order = _backward(series.mask)[..., None]
        states, _ = self.future(inputs.gather(1, order.expand(inputs.shape)))
        return torch.cat([past, states.gather(1, order.expand(states.shape))], -1)

    def _inputs(self, series: Series) -> Tensor:
        channels = 0 if series.covariates is None else series.covariates.shape[-1]
        if (series.observed, channels) != (self.observed, self.covariates):
            raise ValueError(
                f"series: expected {self.observed} observed features and {self.covariates} "
                f"covariates, got {series.observed} and {channels}"
            )
        like = next(self.parameters())
        times = series.times.to(like).expand(series.mask.shape[:2])
        gaps = times.diff(dim=-1, prepend=times[:, :1]) / self.unit
        parts = [series.filled.to(like), series.mask.to(like), gaps[..., None]]
        if series.covariates is not None:
            parts.append(series.covariates.to(like))
        return torch.cat(parts, -1)


def _backward(mask: Tensor) -> Tensor:
    """Positions ``(N, K)`` that turn the times up to the last observed one around, and back."""
    k = torch.arange(mask.shape[1], device=mask.device)
    last = (mask.any(-1) * (k + 1)).amax(-1, keepdim=True)
    return torch.where(k < last, last - 1 - k, k)
