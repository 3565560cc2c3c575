"""Encoders: irregular sequences, read backward in time, to one feature vector each."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyro_lebm.series import Series

from .readers import ConvolutionalReader


class Packed(NamedTuple):
    """The observed time points of each sequence, latest first, packed to the left.

    Shapes are ``(N, K, ...)`` with K the largest number of observed time points of a sequence,
    at least 1; what lies beyond a sequence's own ``length`` is zero.
    """

    inputs: Tensor  # (N, K, 2 * observed + covariates): values * mask, mask, covariates
    gaps: Tensor  # (N, K): time down to the next point, the last one down to t0
    valid: Tensor  # (N, K): is there a point
    length: Tensor  # (N,)


def pack(series: Series, *, t0: float | None = 0.0, like: Tensor | None = None) -> Packed:
    """Keep the time points with any observed feature, in descending order of time.

    Running a recurrent net over K packed points instead of all T saves the steps that would
    carry no data. ``t0`` is the time of the latent state (None: each sequence's first time);
    ``like`` gives the precision and device.

    Example:
        >>> values = torch.tensor([[[1.0], [2.0], [3.0]]])
        >>> mask = torch.tensor([[[True], [False], [True]]])
        >>> packed = pack(Series(torch.tensor([0.5, 1.0, 2.0]), values, mask))
        >>> packed.inputs[0, :, 0].tolist(), packed.gaps.tolist()
        ([3.0, 1.0], [[1.5, 0.5]])
    """
    like = series.values if like is None else like
    mask = series.mask
    seen = mask.any(-1).flip(1)
    length = seen.sum(1)
    # Torch's GRU takes no empty sequence: where nothing is observed at all, one empty point is.
    width = max(int(length.max()), 1)
    # A stable sort of "not seen" moves the seen points to the left in their (reversed) order.
    order = torch.argsort((~seen).to(torch.uint8), dim=1, stable=True)[:, :width]
    order = mask.shape[1] - 1 - order
    valid = torch.arange(width, device=mask.device) < length[:, None]

    channels = [torch.where(mask, series.filled, 0.0).to(like), mask.to(like)]
    if series.covariates is not None:
        channels.append(series.covariates.to(like))
    stacked = torch.cat(channels, -1)
    inputs = stacked.gather(1, order[..., None].expand(-1, -1, stacked.shape[-1]))
    # `where` and not a product: what is beyond a sequence's end may be NaN.
    inputs = torch.where(valid[..., None], inputs, 0.0)

    times = series.times.expand(mask.shape[:2])
    origin = times[:, :1] if t0 is None else times.new_full((len(times), 1), t0)
    picked = torch.where(valid, times.gather(1, order), origin)
    gaps = picked - torch.cat([picked[:, 1:], origin], 1)
    return Packed(inputs, gaps.to(like), valid, length)


class _Encoder(nn.Module):
    """What both encoders share: the check of the input, and the linear read-out."""

    def __init__(
        self,
        observed: int,
        hidden: int,
        features: int,
        covariates: int,
        t0: float | None,
        reader: ConvolutionalReader | None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("observed", observed, 1),
            ("hidden", hidden, 1),
            ("features", features, 1),
            ("covariates", covariates, 0),
        ):
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        self.observed, self.covariates, self.features = observed, covariates, features
        self.t0, self.reader = t0, reader
        seen = 2 * observed if reader is None else reader.features
        self.inputs = seen + covariates  # of a time
        self.readout = nn.Linear(hidden, features)

    def pack(self, series: Series) -> Packed:
        """The observed points of ``series``, after checking that its channels fit this net."""
        channels = 0 if series.covariates is None else series.covariates.shape[-1]
        if series.values.shape[-1] != self.observed:
            raise ValueError(
                f"series: expected {self.observed} observed features, got {series.values.shape[-1]}"
            )
        if channels != self.covariates:
            raise ValueError(f"series: expected {self.covariates} covariates, got {channels}")
        packed = pack(series, t0=self.t0, like=self.readout.weight)
        if self.reader is None:
            return packed
        seen, known = packed.inputs.tensor_split([2 * self.observed], -1)
        return packed._replace(inputs=torch.cat([self.reader(seen), known], -1))

    def _read(self, state: Tensor) -> Tensor:
        features: Tensor = self.readout(state)
        return features


class GRUEncoder(_Encoder):
    r"""A GRU that runs backward in time over values, mask and time gaps (Chen 2018, 1806.07366).

    .. math:: h_k = \mathrm{GRU}([m_k x_k, m_k, c_k, \Delta_k], h_{k-1}), \qquad
        \text{features} = W h_K + b

    over the observed points :math:`t_1 > \dots > t_K`, where :math:`\Delta_k = t_k - t_{k+1}`
    leads down to the next point, and the last one to ``t0``, the time of the latent state.

    Args:
        observed: D, features of an observation.
        hidden: width of the GRU's state.
        features: length of the output (a guide wants twice the latent dimension).
        covariates: C, channels of ``series.covariates`` (0: none).
        t0: time of the latent state, in the units of ``series.times``; None takes the first
            time of each sequence.
        reader: network from what is seen of a time, ``(..., 2 D)``, values and mask, to
            ``reader.features`` numbers that the GRU is given in its place, such as a
            `ConvolutionalReader` of frames.

    Raises:
        ValueError: if a size is too small, or a series with other channels is given.

    Example:
        >>> series = Series(torch.linspace(0, 1, 5), torch.zeros(3, 5, 1))
        >>> GRUEncoder(observed=1, features=4)(series).shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        observed: int,
        hidden: int = 50,
        *,
        features: int,
        covariates: int = 0,
        t0: float | None = 0.0,
        reader: ConvolutionalReader | None = None,
    ) -> None:
        super().__init__(observed, hidden, features, covariates, t0, reader)
        self.gru = nn.GRU(self.inputs + 1, hidden)

    def forward(self, series: Series) -> Tensor:
        """Features of each sequence, ``(N, features)``."""
        packed = self.pack(series)
        inputs = torch.cat([packed.inputs, packed.gaps[..., None]], -1)
        states, _ = self.gru(inputs.transpose(0, 1))
        # Points are to the left, so the state at a sequence's own last one has seen no padding.
        last = (packed.length - 1).clamp(min=0)
        return self._read(states[last, torch.arange(len(last), device=last.device)])


class ODERNNEncoder(_Encoder):
    r"""An ODE-RNN that runs backward in time (Rubanova, Chen, Duvenaud 2019, arXiv 1907.03907).

    Between observations the state follows :math:`dh/ds = f(h)`, s being time run backward; at an
    observation a GRU cell updates it:

    .. math:: h_k = \mathrm{GRU}([m_k x_k, m_k, c_k], h'_{k}), \qquad
        h'_{k+1} = h_k + \int_0^{t_k - t_{k+1}} f(h(s))\, ds.

    It ends with the way from the earliest observation to ``t0``. A gap is crossed in ``substeps``
    steps of fixed number, so cost does not depend on the data.

    Args:
        field_hidden: width of the hidden layer of f.
        substeps: steps a gap.
        method: ``"euler"`` or ``"rk4"`` (four times the field's cost).

    The other parameters, the errors and the output are those of :class:`GRUEncoder`.

    Example:
        >>> series = Series(torch.linspace(0, 1, 5), torch.zeros(3, 5, 1))
        >>> ODERNNEncoder(observed=1, features=4)(series).shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        observed: int,
        hidden: int = 50,
        field_hidden: int = 50,
        *,
        features: int,
        covariates: int = 0,
        t0: float | None = 0.0,
        substeps: int = 1,
        method: str = "rk4",
        reader: ConvolutionalReader | None = None,
    ) -> None:
        super().__init__(observed, hidden, features, covariates, t0, reader)
        if field_hidden < 1:
            raise ValueError(f"field_hidden: expected at least 1, got {field_hidden}")
        if substeps < 1:
            raise ValueError(f"substeps: expected at least 1, got {substeps}")
        if method not in ("euler", "rk4"):
            raise ValueError(f"method: expected 'euler' or 'rk4', got {method!r}")
        self.substeps, self.method = substeps, method
        self.field = nn.Sequential(
            nn.Linear(hidden, field_hidden), nn.Tanh(), nn.Linear(field_hidden, hidden)
        )
        self.cell = nn.GRUCell(self.inputs, hidden)

    def forward(self, series: Series) -> Tensor:
        """Features of each sequence, ``(N, features)``."""
        packed = self.pack(series)
        state = packed.inputs.new_zeros(len(packed.inputs), self.cell.hidden_size)
        for k in range(packed.inputs.shape[1]):
            # A sequence that has run out of points has no gaps either: it keeps its state.
            seen = self._evolve(self.cell(packed.inputs[:, k], state), packed.gaps[:, k, None])
            state = torch.where(packed.valid[:, k, None], seen, state)
        return self._read(state)

    def _evolve(self, state: Tensor, gap: Tensor) -> Tensor:
        step = gap / self.substeps
        for _ in range(self.substeps):
            k1 = self.field(state)
            if self.method == "euler":
                state = state + step * k1
                continue
            k2 = self.field(state + step / 2 * k1)
            k3 = self.field(state + step / 2 * k2)
            k4 = self.field(state + step * k3)
            state = state + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return state
