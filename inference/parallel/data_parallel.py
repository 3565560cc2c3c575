"""One step of several ranks: the loss and the gradient of their joint minibatch."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from pyro.infer.elbo import ELBO
from torch import Tensor

from ..training.guard import FAULTS
from .ranks import LostRank, Ranks


class Report(NamedTuple):
    """What a rank tells the others of its part of a step."""

    loss: float
    weight: float
    graded: list[bool]  # which parameters have a gradient
    fault: str | None  # what sends the run back
    failure: str | None  # what ends it
    interrupted: bool


class Averaged:
    r"""An ELBO whose loss and gradients are those of the ranks' joint minibatch.

    A program's plates scale rank `r`'s :math:`b_r` of :math:`N` sequences by :math:`N / b_r`, so
    that :math:`\sum_r (b_r / b)\, \ell_r` is the loss of all :math:`b = \sum_r b_r`, and likewise
    for gradients. What is not in a plate, such as an energy's log constant, is averaged.

    DistributedDataParallel does the same from inside the backward pass, one bucket of gradients
    after the other. There a rank with a singular matrix or a solve that blows up leaves the others
    waiting for its buckets; and it takes a module whose outputs hang on all that has a gradient,
    where Pyro's programs say their sites to a trace. So gradients meet once, after the backward
    pass, and a fault of one rank is a fault of all.

    Args:
        elbo: the loss.
        ranks: who trains.
        parameters: all that is trained, in the same order on all ranks.

    Attributes:
        weight: this rank's share of the joint minibatch.
        interrupted: whether all ranks know that Ctrl-C was pressed at some rank.
    """

    def __init__(self, elbo: ELBO, ranks: Ranks, parameters: Sequence[Tensor]) -> None:
        self.elbo, self.ranks, self.parameters = elbo, ranks, parameters
        self.weight = 1.0
        self.interrupted = self._pressed = False

    def __call__(self, *args: Any, **kwargs: Any) -> float:
        """As `loss_and_grads` of the ELBO.

        Raises:
            ArithmeticError: on all ranks, if a rank met a fault.
            LostRank: a rank failed in another way, or is no more.
        """
        loss, error = math.nan, None
        try:
            loss = float(self.elbo.loss_and_grads(*args, **kwargs))  # type: ignore[attr-defined]
        except Exception as raised:
            error = raised
        every = self.ranks.gather(self._report(loss, error))
        self.interrupted = any(report.interrupted for report in every)
        _refuse(every, error)
        self._average([any(graded) for graded in zip(*(r.graded for r in every), strict=True)])
        return sum(r.weight * r.loss for r in every if r.weight)

    def _report(self, loss: float, error: Exception | None) -> Report:
        text = None if error is None else f"{type(error).__name__}: {error}"
        faulty = isinstance(error, FAULTS)
        # The one chain that a rank without sequences moves decides nothing.
        counts = self.weight > 0
        return Report(
            loss,
            self.weight,
            [counts and p.grad is not None for p in self.parameters],
            fault=text if faulty and counts else None,
            failure=None if faulty else text,
            interrupted=self._pressed,
        )

    @torch.no_grad()
    def _average(self, graded: list[bool]) -> None:
        moving = [p for p, has in zip(self.parameters, graded, strict=True) if has]
        if not moving:
            return
        # A rank of no weight may hold a NaN.
        flat = torch.cat(
            [
                torch.zeros_like(p).flatten()
                if p.grad is None or not self.weight
                else self.weight * p.grad.flatten()
                for p in moving
            ]
        )
        self.ranks.add(flat)
        for p, mean in zip(moving, flat.split([p.numel() for p in moving]), strict=True):
            p.grad = mean.view_as(p).to(p.dtype)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Keep Ctrl-C for a step's end, where all ranks can stop.

        A second one acts at once and on this rank alone, unless all know of the first.

        Raises:
            KeyboardInterrupt: on all ranks, if Ctrl-C was pressed after the last step's end.
        """

        def press(number: int, frame: Any) -> None:
            if self._pressed and not self.interrupted:
                raise KeyboardInterrupt
            self._pressed = True

        with nullcontext() if self.ranks.alone else _handled(press):
            yield
        if any(self.ranks.gather(self._pressed)):
            raise KeyboardInterrupt


@contextmanager
def _handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _refuse(every: list[Report], error: Exception | None) -> None:
    """Raise what ends the run or, failing that, what sends it back."""
    if error is not None and not isinstance(error, FAULTS):
        raise error
    for rank, report in enumerate(every):
        if report.failure is not None:
            raise LostRank(f"rank {rank} failed with {report.failure}")
    for rank, report in enumerate(every):
        if report.fault is not None:
            raise ArithmeticError(f"{report.fault} (rank {rank})")
