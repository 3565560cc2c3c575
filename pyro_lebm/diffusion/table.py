"""The steps of a sampler side by side, for all of them to be computed at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .schedule import Step


@dataclass(frozen=True)
class Table:
    """What `schedule.Step` holds, as tensors ``(steps, *, 1)``: the last row is the last step.

    Args:
        rows: ``(steps, *, 1, 6)``, in the order of `Step`.
        like: a value ``(*, L)``.
    """

    rows: Tensor
    like: Tensor

    @classmethod
    def of(cls, down: Sequence[Step], like: Tensor) -> Table:
        """All steps, the same for every value."""
        table = torch.tensor(down, dtype=like.dtype, device=like.device)
        return cls(table.view(len(table), *[1] * like.ndim, len(Step._fields)), like)

    def some(self, m: int) -> Table:
        """``m`` of the steps before the last, drawn evenly for each value, then the last one."""
        flat = self.rows.reshape(len(self.rows), -1)
        draw = torch.rand_like(self.like[..., :1].expand(m, *self.like.shape[:-1], 1))
        middle = (draw * (len(flat) - 1)).long().clamp(max=len(flat) - 2)
        last = torch.full_like(middle[:1], len(flat) - 1)
        return Table(flat[torch.cat([middle, last])], self.like)

    def column(self, name: str) -> Tensor:
        """One of the fields of `Step`."""
        return self.rows[..., Step._fields.index(name)]

    @property
    def level(self) -> Tensor:
        """From where a step goes down."""
        return self.column("level")

    @property
    def a(self) -> Tensor:
        """The share of the value there."""
        return self.column("a")

    @property
    def pull(self) -> Tensor:
        """What the clean value weighs."""
        return self.column("pull")

    @property
    def keep(self) -> Tensor:
        """What the noisy value weighs."""
        return self.column("keep")

    def deviation(self, spread: Tensor | None) -> Tensor:
        """A step's standard deviation, given the denoiser's own."""
        if spread is None:
            return self.column("alone")
        return (self.column("sigma").square() + (self.pull * spread).square()).sqrt()

    def divergence(self, error: Tensor, deviation: Tensor, spread: Tensor | None) -> Tensor:
        """KL of the reference's step from the chain's, number by number; not for the last row."""
        found = 0.5 * (self.pull * error / deviation).square()
        if spread is None:
            return found
        share = (self.column("sigma") / deviation).square()
        return found + 0.5 * (share - 1 - share.log())
