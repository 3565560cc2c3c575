"""The log density of a program seen through minibatches of its data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyro_lebm.programs.program import Program

from .targets import in_order

Data = Tensor | Sequence[Tensor] | Mapping[str, Tensor]


class Rows:
    """Data as arguments of a model, all with as many rows.

    Args:
        data: a tensor, a sequence of tensors, or a mapping of keyword arguments.

    Raises:
        TypeError: if anything in it is not a tensor.
        ValueError: for no data, or for unlike numbers of rows.
    """

    def __init__(self, data: Data) -> None:
        self.names = tuple(data) if isinstance(data, Mapping) else None
        parts = data.values() if isinstance(data, Mapping) else data
        self.columns = [data] if isinstance(data, Tensor) else list(parts)
        for column in self.columns:
            if not isinstance(column, Tensor):
                raise TypeError(f"data: expected tensors, got {type(column).__name__}")
        rows = {column.shape[0] if column.ndim else 0 for column in self.columns}
        if len(rows) != 1 or rows == {0}:
            raise ValueError(f"data: expected as many rows in each tensor, got {sorted(rows)}")
        self.total = rows.pop()

    def arguments(self, columns: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Positional and keyword arguments of the model."""
        if self.names is None:
            return tuple(columns), {}
        return (), dict(zip(self.names, columns, strict=True))

    def draw(self, batches: int, size: int) -> list[Tensor]:
        """Rows drawn with replacement, ``(batches, size, ...)`` of each tensor."""
        index = torch.randint(self.total, (batches, size), device=self.columns[0].device)
        return [column[index] for column in self.columns]


class MinibatchDensity:
    r"""An unbiased estimate of a log joint density whose gradient is one of the gradient's.

    .. math:: \log p(z) + \frac{N}{B} \sum_{i \in B} \log p(x_i \mid z),

    or, with a ``centre`` :math:`\hat z`, with each :math:`\log p(x_i \mid z)` less its linear part
    at :math:`\hat z`, whose sum over all data is added once and for all (Baker, Fearnhead, Fox &
    Nemeth 2019, arXiv 1706.05439). Every position of a batch has a minibatch of its own.

    Args:
        model: called with the rows.
        rows: the data.
        size: B.
        centre: flat position, ``(dim,)``; None for the plain estimate.

    Raises:
        ValueError: for latent sites that there are more of in more data, and a likelihood that is
            not a sum over rows.
    """

    def __init__(
        self, model: Callable[..., Any], rows: Rows, size: int, centre: Tensor | None
    ) -> None:
        self.rows, self.size, self.centre = rows, size, centre
        args, kwargs = rows.arguments(rows.columns)
        whole = in_order(Program.read(model, *args, **kwargs))
        args, kwargs = rows.arguments(
            [column[:1].expand(size, *column.shape[1:]).clone() for column in rows.columns]
        )
        self.program = in_order(Program.read(model, *args, **kwargs))
        if [s.batch + s.event for s in self.program.sites] != [
            s.batch + s.event for s in whole.sites
        ]:
            raise ValueError(
                "model: expected latent sites outside of the plates of the data, got shapes "
                f"{ {s.name: tuple(s.batch + s.event) for s in whole.sites} } for all rows"
            )
        self._check_rows(model, whole)
        if centre is not None:
            self.value, self.slope = _linear(lambda z: _parts(whole, z)[1], centre)

    def _check_rows(self, model: Callable[..., Any], whole: Program) -> None:
        """The likelihood of all rows must be that of some and that of the others."""
        if whole.minibatches or self.program.minibatches:
            raise ValueError(
                "model: expected plates as long as the rows it is called with, got a subsampled "
                f"one, {sorted(self.program.minibatches or whole.minibatches)}: the kernel scales"
            )
        z, half = whole.draw.reshape(-1), self.rows.total // 2
        halves = []
        for part in (slice(None, half), slice(half, None)):
            args, kwargs = self.rows.arguments([column[part] for column in self.rows.columns])
            halves.append(float(_parts(in_order(Program.read(model, *args, **kwargs)), z)[1]))
        together = float(_parts(whole, z)[1])
        if abs(sum(halves) - together) > 1e-3 * max(1.0, abs(together)):
            raise ValueError(
                "model: expected a likelihood that is a sum over rows, without a scale of its own, "
                f"got {together:.6g} of all and {sum(halves):.6g} of two halves"
            )

    def __call__(self, z: Tensor) -> Tensor:
        """``(chains, dim) -> (chains)``."""
        batches = self.rows.draw(len(z), self.size)
        prior, likelihood = self._parts(z, batches)
        scale = self.rows.total / self.size
        if self.centre is None:
            return prior + scale * likelihood
        centres = self.centre.expand_as(z)
        value, slope = _linear(lambda u: self._parts(u, batches)[1], centres)
        gap = z - self.centre
        rest = likelihood - value - (slope * gap).sum(-1)
        return prior + self.value + gap @ self.slope + scale * rest

    def _parts(self, z: Tensor, batches: list[Tensor]) -> tuple[Tensor, Tensor]:
        def one(position: Tensor, *columns: Tensor) -> tuple[Tensor, Tensor]:
            args, kwargs = self.rows.arguments(columns)
            return _parts(replace(self.program, args=args, kwargs=kwargs), position)

        found: tuple[Tensor, Tensor] = torch.func.vmap(one)(z, *batches)
        return found


def _parts(program: Program, z: Tensor) -> tuple[Tensor, Tensor]:
    """Log prior and log likelihood at one flat position."""
    prior, likelihood = program.log_parts(z.reshape((*program.elements, program.dim)))
    return prior.sum(), likelihood.sum()


def _linear(function: Callable[[Tensor], Tensor], centre: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient."""
    with torch.enable_grad():
        z = centre.detach().clone().requires_grad_(True)
        value = function(z)
        (slope,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), slope
