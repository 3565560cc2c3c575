"""What one chain costs at one size, measured in a process of its own: a part of ``growth.py``."""

from __future__ import annotations

import ctypes
import gc
import resource
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import jax_peer
import pyro
import torch
from torch import Tensor
from trajectory import keep_memory

from pyro_lebm import Series, engine
from pyro_lebm.dynamics.langevin import evaluate, ula_step
from pyro_lebm.engines import Engine
from pyro_lebm.models import GaussianEmission, LatentODE, MLPField
from pyro_lebm.models.datasets import irregular_sines
from pyro_lebm.programs.program import Program

END, WIDTH, SIZE = 5.0, 100, 0.02
COMPILED = ("xla", "compile")
MOST = 40  # calls timed
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8  # of mallopt, as malloc.h has them


@dataclass(frozen=True)
class Point:
    """Sizes of a posterior chain of a latent ODE.

    Attributes:
        times: T, irregular, in 5 time units.
        sequences: of the batch, each with a chain of its own.
        langevin: K, unadjusted Langevin steps.
        solver: Runge-Kutta steps of a trajectory.
        chains: times that the batch is taken over.
        seconds: to time for, after two runs that are not timed.
    """

    engine: Engine
    device: str = "cpu"
    times: int = 100
    sequences: int = 128
    langevin: int = 5
    solver: int = 32
    latent: int = 10
    chains: int = 1
    seconds: float = 0.5


@dataclass(frozen=True)
class Cost:
    """Of one chain.

    Attributes:
        first: seconds of the first run, in which memory is laid out and code compiled.
        seconds: median of the later ones; CPU time, on a GPU that of the clock, synchronised.
        bytes: peak of the memory beyond program, data and states.
    """

    first: float
    seconds: float
    bytes: int


def measure(point: Point) -> Cost:
    """Run the chain of a point, in a process that has run nothing before."""
    torch.set_num_threads(1)
    if point.engine == "xla":
        jax_peer.one_thread()
    torch.manual_seed(0)
    memory, timed = Memory(point.device), Stopwatch(point.device)
    memory.give_back_at_once()
    with engine(point.engine):
        if point.engine not in COMPILED:  # what is loaded at a first run is not the chain's
            chain(replace(point, times=10, sequences=2, solver=2, chains=min(2, point.chains)))()
        run = chain(point)
        before = memory.held()
        first = timed(run)
        if point.engine in COMPILED:  # nor what compiling took
            before = memory.held()
        memory.reset()
        run()
        most = memory.peak()
        keep_memory()
        spent = [timed(run)]
        while sum(spent) < point.seconds and len(spent) < MOST:
            spent.append(timed(run))
    return Cost(first, statistics.median(spent), max(0, most - before))


def chain(point: Point) -> Callable[[], Tensor]:
    """The chain of a point on data and networks of its sizes; untrained, which costs the same."""
    device = torch.device(point.device)
    times = irregular_sines(1, points=point.times, seed=1).times
    times[-1] = END
    series = Series(times, torch.randn(point.sequences, point.times, 1)).to(device)
    model = LatentODE(
        point.latent,
        1,
        field=MLPField(point.latent, (WIDTH,)),
        emission=GaussianEmission(point.latent, 1, (WIDTH,), scale=0.5),
    ).to(device)
    # a hair more, or rounding may take one step more
    step = torch.tensor(END / point.solver * (1 + 1e-5))
    model.load_state_dict({**model.state_dict(), "step_size": step})
    with pyro.validation_enabled(False):
        program = Program.read(model, series)
    z0 = 0.8 * torch.randn(point.chains, point.sequences, point.latent, device=device)
    start = z0[0] if point.chains == 1 else z0

    def run() -> Tensor:
        state = evaluate(program.log_density, start)
        for _ in range(point.langevin - 1):
            state = ula_step(program.log_density, state, SIZE)
        return state.position

    return run


class Stopwatch:
    """Seconds that a run takes."""

    def __init__(self, device: str) -> None:
        self.on_gpu = device != "cpu"
        self.clock = time.perf_counter if self.on_gpu else time.process_time

    def __call__(self, run: Callable[[], object]) -> float:
        self._wait()
        begin = self.clock()
        run()
        self._wait()
        return self.clock() - begin

    def _wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()


class Memory:
    """What this process holds, in bytes: resident on a CPU, torch's allocations on a GPU.

    Linux keeps the largest resident size, and forgets it when asked to; elsewhere the peak is that
    of the whole process, an upper bound.
    """

    def __init__(self, device: str) -> None:
        self.on_gpu = device != "cpu"

    def give_back_at_once(self) -> None:
        """Let freed memory leave the process: kept, it would hide what is asked for later."""
        with suppress(OSError, AttributeError):
            c = ctypes.CDLL(None)
            c.mallopt(MMAP_THRESHOLD, 2**16)
            c.mallopt(TRIM_THRESHOLD, 2**16)
            c.mallopt(ARENA_MAX, 1)  # see `keep_memory`; it comes before any thread's first

    def held(self) -> int:
        """Now."""
        gc.collect()
        if self.on_gpu:
            return torch.cuda.memory_allocated()
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        status = Path("/proc/self/status")
        return _line(status, "VmRSS:") if status.exists() else _largest()

    def reset(self) -> None:
        """Let the peak begin here."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int:
        """The most since then."""
        if self.on_gpu:
            return torch.cuda.max_memory_allocated()
        status = Path("/proc/self/status")
        return _line(status, "VmHWM:") if status.exists() else _largest()


def _line(status: Path, name: str) -> int:
    """A number of kilobytes in the process's status."""
    lines = (line.split() for line in status.read_text().splitlines())
    return next(1024 * int(words[1]) for words in lines if words[0] == name)


def _largest() -> int:
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else 1024 * found
