"""What is to be computed of sequences seen along a latent trajectory: plain tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import constraints

ACTIVATIONS = ("tanh", "softplus", "elu", "silu", "relu")  # in the native code's order
LIKELIHOODS = ("gaussian", "bernoulli", "poisson")
SUPPORTS: dict[str, constraints.Constraint] = {
    "gaussian": constraints.real,
    "bernoulli": constraints.boolean,
    "poisson": constraints.nonnegative_integer,
}
Fused = Literal["native", "vjp"]
SLICINGS = 4  # of the times, kept of a readout: each is as large as the readout


@dataclass(frozen=True)
class Perceptron:
    """Linear layers with an activation between them: weights ``(out, in)``, biases ``(out)``."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    activation: str

    @classmethod
    def of(cls, layers: Sequence[torch.nn.Linear], activation: str) -> Perceptron:
        """Of these layers as they are now."""
        return cls(tuple(x.weight for x in layers), tuple(x.bias for x in layers), activation)

    def misfit(self, inputs: int, outputs: int, like: Tensor) -> str | None:
        """Why it cannot map ``(..., inputs)`` such as ``like`` to ``(..., outputs)``, if so."""
        size = inputs
        for weight, bias in zip(self.weights, self.biases, strict=True):
            if bias is None:
                return "a layer without bias"
            for x in (weight, bias):
                if x.dtype != like.dtype or x.device != like.device:
                    return f"weights of {x.dtype} on {x.device} for {like.dtype} on {like.device}"
            if weight.shape[1:] != (size,) or bias.shape != weight.shape[:1]:
                return f"weights {tuple(weight.shape)} and {tuple(bias.shape)} for inputs ({size})"
            size = len(weight)
        return None if size == outputs else f"{size} outputs, not {outputs}"

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Layer by layer, weight and bias."""
        return tuple(x for pair in zip(self.weights, self.biases, strict=True) for x in pair)

    def holding(self, parameters: Sequence[Tensor]) -> Perceptron:
        """With these in their places, contiguous."""
        kept = [p.detach().contiguous() for p in parameters]
        return replace(self, weights=tuple(kept[::2]), biases=tuple(kept[1::2]))


@dataclass(frozen=True, eq=False)
class Band:
    """Times ``begin`` to ``end``, and where they lie among nodes and slopes z_0, f_0, z_1, f_1, ...

    Attributes:
        low, high: the first and the last node of them, where all sequences share them.
        matrix: that reads them off ``z_low .. f_high``, ``(times, 2 (high - low + 1))``; None where
            each sequence has its own times.
        rows: of each sequence's own, the place of z_k; z_k, f_k, z_k+1, f_k+1 follow each other,
            ``(times, N)`` long.
        weights: of these, ``(4, times, N)``.
    """

    begin: int
    end: int
    low: int
    high: int
    matrix: Tensor | None
    rows: Tensor
    weights: Tensor


@dataclass(frozen=True, eq=False)
class Readout:
    """Where times lie on a uniform grid of ``steps`` steps of ``h``, and the cubic's weights there.

    Attributes:
        node: int32 ``(T)``, or ``(N, T)``.
        weights: of z_k, z_k+1 and the slopes there, ``(4, T)`` or ``(N, 4, T)``.
    """

    node: Tensor
    weights: Tensor
    steps: int
    h: float
    _bands: dict[int, list[Band]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def at(cls, times: Tensor, t0: float, end: float, steps: int, dtype: torch.dtype) -> Readout:
        """Of these times, ``(T)`` or ``(N, T)``, between t0 and end."""
        h = (end - t0) / steps
        s = (times.detach() - t0) / h
        k = s.floor().clamp(0, steps - 1)
        s = s - k
        r = 1 - s
        parts = (r * r * (1 + 2 * s), s * s * (3 - 2 * s), h * s * r * r, -h * s * s * r)
        return cls(k.int().contiguous(), torch.stack(parts, -2).to(dtype).contiguous(), steps, h)

    def bands(self, size: int) -> list[Band]:
        """Slices of at most ``size`` times, kept: on a GPU, the first call waits for it.

        The size hangs on how many states there are: few sizes come back, and those are kept.
        """
        if size not in self._bands:
            if len(self._bands) >= SLICINGS:
                self._bands.clear()
            total = self.node.shape[-1]
            self._bands[size] = [self._band(i, min(total, i + size)) for i in range(0, total, size)]
        return self._bands[size]

    @cached_property
    def _shared_nodes(self) -> list[int]:
        nodes: list[int] = self.node.tolist() if self.node.ndim == 1 else []
        return nodes

    def _band(self, begin: int, end: int) -> Band:
        weights = self.weights[..., begin:end][..., [0, 2, 1, 3], :]
        node = self.node[..., begin:end].long()
        if node.ndim == 2:
            rows, weights = 2 * node.t().contiguous(), weights.permute(1, 2, 0).contiguous()
            return Band(begin, end, 0, self.steps, None, rows, weights)
        held = self._shared_nodes[begin:end]
        low, high = min(held), max(held) + 1
        rows = 2 * (node - low)
        columns = rows[:, None] + torch.arange(4, device=node.device)
        matrix = weights.new_zeros(end - begin, 2 * (high - low + 1))
        matrix.scatter_(1, columns, weights.t().contiguous())
        return Band(begin, end, low, high, matrix, rows, weights)


@dataclass(frozen=True, eq=False)
class Columns:
    """Data with the sequences last, ``(D, T, N)``, the mask as 0 and 1, its sums ``(D, N)``."""

    values: Tensor
    mask: Tensor
    counts: Tensor


@dataclass(frozen=True, eq=False)
class Observed:
    """Values ``(N, T, D)``, contiguous, 0 where hidden, and which are seen, uint8."""

    values: Tensor
    mask: Tensor
    _within: dict[str, bool] = field(default_factory=dict, init=False, repr=False)

    def within(self, likelihood: str) -> bool:
        """Whether the likelihood can have made all values; looked at once."""
        if likelihood not in self._within:
            self._within[likelihood] = bool(SUPPORTS[likelihood].check(self.values).all())
        return self._within[likelihood]

    @cached_property
    def columns(self) -> Columns:
        """The same in another order."""
        with torch.inference_mode(False):
            values, mask = (x.permute(2, 1, 0).contiguous() for x in (self.values, self.mask))
            mask = mask.to(values.dtype)
            return Columns(values, mask, mask.sum(1))

    @cached_property
    def log_factorials(self) -> Tensor:
        """The sum of log x! of each sequence, ``(N)``."""
        with torch.inference_mode(False):
            return (torch.lgamma(self.values + 1) * self.mask).sum((-1, -2))


@dataclass(frozen=True, eq=False)
class Problem:
    """What the fused engines compute, but for the latent states."""

    readout: Readout
    data: Observed
    field: Perceptron
    emission: Perceptron
    likelihood: str
    engine: Fused

    def holding(self, parameters: Sequence[Tensor]) -> Problem:
        """With these parameters, the field's first."""
        split = 2 * len(self.field.weights)
        return replace(
            self,
            field=self.field.holding(parameters[:split]),
            emission=self.emission.holding(parameters[split:]),
        )
