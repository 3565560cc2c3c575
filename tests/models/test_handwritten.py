"""The hand-written engine's buffers: shared out, reused, and no longer than they are said to be."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_lebm import Series, engine, handwritten
from pyro_lebm.handwritten import path, workspace
from pyro_lebm.models import GaussianEmission, LatentODE, MLPField, PoissonEmission
from pyro_lebm.observations.problem import SLICINGS, Problem

L, D, N = 4, 2, 6


def built(
    seed: int = 0, *, times: int = 11, own: bool = False, n: int = N, counts: bool = False
) -> tuple[Problem, Tensor]:
    """A problem in double precision, all of it drawn from the seed, and a Gaussian's scale."""
    torch.manual_seed(seed)
    emission = (PoissonEmission if counts else GaussianEmission)(L, D, (9,))
    model = LatentODE(L, D, field=MLPField(L, (8, 7)), emission=emission)
    model.load_state_dict({**model.state_dict(), "step_size": torch.tensor(0.2)})
    values = torch.randn(n, times, D).abs().round()
    values[torch.rand(n, times, D) < 0.3] = torch.nan
    values[:, 0] = 1.0
    grid = torch.linspace(0.1, 3, times, dtype=torch.float64)
    series = Series(grid * (1 - 0.3 * torch.rand(n, 1)) if own else grid, values.double())
    with engine("vjp"):
        trace = pyro.poutine.trace(model.double()).get_trace(series)
    fn: Any = trace.nodes["x"]["fn"]
    problem = fn._problem
    return problem.holding([*problem.field.parameters, *problem.emission.parameters]), (
        0.5 + torch.rand(D, dtype=torch.float64)
    )


def states(seed: int, lead: int = 1, n: int = N) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(lead * n, L, dtype=torch.float64, generator=generator)


def solved(problem: Problem, scale: Tensor, z0: Tensor) -> list[Tensor]:
    """Values, gradients in the states, and in the parameters."""
    value, gradient, _ = handwritten.solve(problem, z0, scale, grad=True)
    seed = torch.linspace(0.5, 1.5, len(z0), dtype=z0.dtype)
    _, _, sums = handwritten.solve(problem, z0, scale, seed=seed)
    assert sums is not None
    return [value, gradient, sums]


def same(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("lanes", [1, 4, 12, 100])
@pytest.mark.parametrize("case", [{}, {"own": True}, {"counts": True}], ids=str)
def test_pieces_add_up_to_the_whole(
    case: dict[str, bool], lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, scale = built(**case)
    z0 = states(1, lead=3)
    whole = solved(problem, scale, z0)
    each = (4 * problem.readout.steps + 1) * 15 + 7 * (problem.readout.steps + 1) * L
    monkeypatch.setattr(path, "TAPE", lanes * each)
    monkeypatch.setattr(path, "HIDDEN", 4 * 9 * 12)  # 4 times of 12 states, the last slice short
    for a, b in zip(solved(problem, scale, z0), whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_results_are_not_overwritten_by_what_comes_later() -> None:
    problem, scale = built()
    first = solved(problem, scale, states(1))
    copies = [x.clone() for x in first]
    solved(problem, scale, states(2))
    assert same(first, copies)


@pytest.mark.parametrize("case", [{}, {"own": True}], ids=str)
def test_buffers_carry_nothing_from_one_problem_to_the_next(case: dict[str, bool]) -> None:
    problem, scale = built(1, **case)
    handwritten.POOL.clear()
    alone = solved(problem, scale, states(1))
    other, of_other = built(2, **case)
    solved(other, of_other, states(2))
    solved(other, of_other, torch.full_like(states(2), torch.nan))
    assert same(solved(problem, scale, states(1)), alone)


def test_threads_have_buffers_of_their_own() -> None:
    problems = [built(seed) for seed in range(3)]
    expected = [solved(*problem, states(i)) for i, problem in enumerate(problems)]
    together = Barrier(len(problems))

    def run(i: int) -> bool:
        together.wait()
        return all(same(solved(*problems[i], states(i)), expected[i]) for _ in range(20))

    with ThreadPoolExecutor(len(problems)) as threads:
        assert all(threads.map(run, range(len(problems))))


def test_few_workspaces_are_kept() -> None:
    problem, scale = built()
    for lead in range(1, 4 + workspace.KEPT):
        handwritten.solve(problem, states(1, lead), scale)
    assert len(handwritten.POOL) == workspace.KEPT
    handwritten.POOL.clear()
    assert len(handwritten.POOL) == 0


def test_few_slicings_of_the_times_are_kept() -> None:
    readout = built()[0].readout
    bands = readout.bands(1)
    assert readout.bands(1) is bands
    for size in range(2, 12):
        readout.bands(size)
        assert len(readout._bands) <= SLICINGS


def test_one_state_is_enough() -> None:
    problem, scale = built(n=1)
    z0 = states(1, n=1)
    value, gradient, _ = handwritten.solve(problem, z0, scale, grad=True)
    values, gradients, _ = handwritten.solve(problem, z0.repeat(3, 1), scale, grad=True)
    torch.testing.assert_close(value.expand(3), values, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient.expand(3, -1), gradients, rtol=1e-12, atol=1e-12)


def test_what_inference_mode_leaves_can_be_used_outside() -> None:
    handwritten.POOL.clear()
    problem, scale = built()
    with torch.inference_mode():
        inside = solved(problem, scale, states(1))
    assert same(solved(problem, scale, states(1)), inside)


class Watching(TorchDispatchMode):
    """Which operations run, and the arrays they write to, in bytes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()
        self.written: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **kwargs or {})
        self.names.add(func.overloadpacket.__name__)
        for x in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(x, Tensor) and not func.is_view:
                storage = x.untyped_storage()
                self.written[storage.data_ptr()] = storage.nbytes()
        return found


@pytest.mark.parametrize("own", [False, True])
def test_its_memory_does_not_grow_with_the_times(
    own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(path, "HIDDEN", 10 * 9 * N)  # ten times a slice
    bytes_written = []
    for times in (100, 2000):
        problem, scale = built(times=times, own=own)
        solved(problem, scale, states(1))  # the data's own copies are made
        with Watching() as watching:
            solved(problem, scale, states(1))
        bytes_written.append(sum(x for x in watching.written.values() if x > 1000))
    # a number for each time and sequence would be 96 kB; some small arrays come and go
    assert bytes_written[1] < bytes_written[0] + 20_000


def test_no_operation_waits_for_the_device() -> None:
    problem, scale = built()
    solved(problem, scale, states(1))
    with Watching() as watching:
        solved(problem, scale, states(1))
    assert "addmm_" in watching.names
    waits = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_to_copy", "lift_fresh"}
    assert not watching.names & waits
