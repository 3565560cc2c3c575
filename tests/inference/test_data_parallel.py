"""What one rank makes of what the others tell it of a step; they are played, not started."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_lebm.inference.parallel.data_parallel import Averaged, Report
from pyro_lebm.inference.parallel.ranks import LostRank, Ranks
from pyro_lebm.inference.parallel.shards import check_parameters

FINE = Report(3.0, 0.5, [True, False], fault=None, failure=None, interrupted=False)


class Beside(Ranks):  # type: ignore[misc]
    """Rank 0 of two, the other of which tells `theirs` of a step and adds nothing."""

    def __init__(self, theirs: Report) -> None:
        super().__init__()
        self.size, self.theirs = 2, theirs
        self.told: list[Any] = []

    def gather(self, value: Any) -> list[Any]:
        self.told.append(value)
        return [value, self.theirs if isinstance(value, Report) else value]

    def add(self, value: Tensor) -> None: ...


class Loss:
    """Stands in for an ELBO: a gradient of both parameters, and then what `then` does."""

    def __init__(self, parameters: list[Tensor], then: Callable[[], float]) -> None:
        self.parameters, self.then = parameters, then

    def loss_and_grads(self) -> float:
        for p in self.parameters:
            p.grad = torch.ones_like(p)
        return self.then()


def averaged(then: Callable[[], float], theirs: Report = FINE, weight: float = 0.5) -> Averaged:
    parameters = [torch.zeros(2), torch.zeros(())]
    found = Averaged(Loss(parameters, then), Beside(theirs), parameters)
    found.weight = weight
    return found


def fault() -> float:
    raise FloatingPointError("a path blew up")


def failure() -> float:
    raise ValueError("a mistake of our own")


def test_a_failure_elsewhere_counts_for_more_than_a_fault_here() -> None:
    theirs = FINE._replace(failure="KeyError: 'a mistake'")
    with pytest.raises(LostRank, match="rank 1 failed with KeyError: 'a mistake'"):
        averaged(fault, theirs)()
    with pytest.raises(ValueError, match="a mistake of our own"):
        averaged(failure, theirs)()
    with pytest.raises(ArithmeticError, match=r"FloatingPointError: a path blew up \(rank 0\)"):
        averaged(fault)()


def test_what_happens_to_a_chain_of_no_weight_decides_nothing() -> None:
    step = averaged(fault, FINE._replace(weight=1.0), weight=0.0)
    assert step() == 3.0
    own = step.ranks.told[0]
    assert own.fault is None and own.graded == [False, False] and math.isnan(own.loss)
    with pytest.raises(ValueError, match="a mistake of our own"):
        averaged(failure, weight=0.0)()


def press() -> float:
    os.kill(os.getpid(), signal.SIGINT)
    return 1.0


def test_ctrl_c_waits_until_all_ranks_can_stop() -> None:
    step = averaged(press)
    with pytest.raises(KeyboardInterrupt, match="at the end"), step.interruptible():
        step()
        press()  # of no use any more: all know of the first
        assert step.interrupted
        raise KeyboardInterrupt("at the end")
    step = averaged(lambda: 1.0)
    with pytest.raises(KeyboardInterrupt), step.interruptible():
        step()
        press()  # after the last step, where no report tells of it any more
        assert not step.interrupted
    assert step.ranks.told[-1] is True


def test_a_second_ctrl_c_acts_at_once_while_the_others_do_not_know() -> None:
    step = averaged(press)
    with pytest.raises(KeyboardInterrupt), step.interruptible():
        press()
        step()
    assert not step.interrupted and not step.ranks.told


def test_ranks_that_train_different_parameters_are_refused() -> None:
    class Other(Beside):
        def gather(self, value: Any) -> list[Any]:
            return [value, value | {"b": 1.0}]

    ranks = Other(FINE)
    check_parameters({"a": torch.ones(4), "b": torch.ones(())}, ranks)
    with pytest.raises(RuntimeError, match=r"b: expected the same .* 2 on rank 0 and 1 on rank 1"):
        check_parameters({"a": torch.ones(4), "b": torch.full((), 2.0)}, ranks)
    with pytest.raises(RuntimeError, match=r"b: .* nan on rank 0 and 1 on rank 1"):
        check_parameters({"a": torch.ones(4)}, ranks)  # created on rank 1 alone
