"""The processes of one run: which of them this is, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from statistics import fmean
from typing import Any, TypeVar

import numpy
import pyro
import torch
import torch.distributed as dist
from torch import Tensor

from pyro_lebm.clock import timed

if dist.is_available():
    # Its functions keep, as a default argument, the group that there is when it is imported, which
    # torch._dynamo does at some step of a training: gloo's threads would outlive the group, and
    # might bring down Python's exit.
    import torch.distributed.nn.functional

T = TypeVar("T")


class LostRank(RuntimeError):
    """Another process of the run has ended, has failed, or does not answer."""


@contextmanager
def distributed(*, timeout: float = 600.0) -> Iterator[tuple[torch.device, int]]:
    """Join the processes that ``torchrun`` started; outside of ``torchrun``, this one stays alone.

    Inside the block, `fit` and `VectorizedMCMC` share their work between the processes: any other
    way to call ``torch.distributed.init_process_group`` does as well. The back end is gloo on CPUs
    and NCCL between GPUs, of which each process takes the one of its ``LOCAL_RANK``.

    Args:
        timeout: seconds after which a process that does not answer is given up, rank 0 scoring
            `validation` or writing a checkpoint included. One that ended is noticed at once.

    Yields:
        The device for this process's model and data, and its rank, 0 for one of them: what is to be
        done once, such as saving a model, is done by that.

    Raises:
        ValueError: more processes on this machine than it has GPUs, or a timeout not positive.

    Example:
        >>> with distributed() as (device, rank):
        ...     rank
        0
    """
    if not timeout > 0:
        raise ValueError(f"timeout: expected a positive number of seconds, got {timeout}")
    device = _own_device()
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield device, 0
        return
    # Objects travel over gloo in either case.
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    yield device, dist.get_rank()
    # Not after an error: it could wait for a process that is no more.
    dist.destroy_process_group()


def _own_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise ValueError(
            f"LOCAL_RANK: expected at most one process for each of {torch.cuda.device_count()} "
            f"GPUs, got {local}"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


class Ranks:
    """The processes of torch.distributed's default group, or this one alone where there is none.

    Sequence `i` belongs to rank ``i mod size``, whose chain of it is the only one that moves.
    All methods but `share`, `dealt` and `portion` are to be called on all ranks, in the same order.

    Attributes:
        rank: which one this is, from 0.
        size: how many there are.

    Example:
        >>> Ranks().size
        1
    """

    def __init__(self) -> None:
        present = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if present else 0
        self.size = dist.get_world_size() if present else 1

    @property
    def alone(self) -> bool:
        """Whether there is no other rank."""
        return self.size == 1

    def share(self, order: Tensor) -> Tensor:
        """Those of some sequences that are this rank's."""
        return order if self.alone else order[order % self.size == self.rank]

    def dealt(self, order: Tensor) -> Tensor:
        """Sequences reordered so that every stretch of them holds as many of each rank, or nearly.

        Example:
            >>> ranks = Ranks()
            >>> ranks.size = 2
            >>> ranks.dealt(torch.tensor([4, 2, 0, 1, 3])).tolist()
            [4, 1, 2, 3, 0]
        """
        if self.alone:
            return order
        owner = order % self.size
        turn = torch.zeros_like(order)
        for rank in range(self.size):
            mine = owner == rank
            turn[mine] = torch.arange(int(mine.sum()), device=order.device)
        return order[(turn * self.size + owner).argsort()]

    def portion(self, count: int) -> slice:
        """This rank's of so many chains: as many as the others', or one less.

        Raises:
            ValueError: fewer chains than ranks.
        """
        if count < self.size:
            raise ValueError(
                f"num_chains: expected at least one for each of {self.size} ranks, got {count}"
            )
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    # What they tell each other. Tensors arrive on the CPU.

    def gather(self, value: T) -> list[T]:
        """What every rank has, on every rank."""
        if self.alone:
            return [value]
        found: list[Any] = [None] * self.size
        with _reached():
            dist.all_gather_object(found, _on_cpu(value))
        return found

    def gather_on_first(self, value: T) -> list[T] | None:
        """What every rank has, on rank 0; None on the others."""
        if self.alone:
            return [value]
        found: list[Any] | None = [None] * self.size if self.rank == 0 else None
        with _reached():
            dist.gather_object(_on_cpu(value), found)
        return found

    def first(self, value: T) -> T:
        """What rank 0 has."""
        if self.alone:
            return value
        found = [_on_cpu(value) if self.rank == 0 else None]
        with _reached():
            dist.broadcast_object_list(found)
        return found[0]  # type: ignore[return-value]

    def on_first(self, action: Callable[[], T]) -> T:
        """Let rank 0 act; all ranks have what it found, or fail as it did."""
        if self.alone:
            return action()
        found: T | None = None
        error: Exception | None = None
        if self.rank == 0:
            try:
                found = action()
            except Exception as raised:
                error = raised
        theirs = self.first((found, error))
        if error is not None or theirs[1] is not None:
            raise error or theirs[1]  # type: ignore[misc]
        return theirs[0]  # type: ignore[return-value]

    def add(self, value: Tensor) -> None:
        """Put the ranks' sum in place of `value`: to the last bit the same on all of them."""
        with _reached():
            dist.all_reduce(value)

    def mean(self, found: Mapping[str, float]) -> dict[str, float]:
        """The means of named numbers, each over the ranks that have it."""
        every = self.gather(dict(found))
        if self.alone:
            return every[0]
        names = dict.fromkeys(name for one in every for name in one)
        return {name: fmean(one[name] for one in every if name in one) for name in names}

    def part_ways(self) -> None:
        """Give every rank its own random numbers, which hang on those of rank 0."""
        if self.alone:
            return
        number = self.first(int(torch.randint(2**31, ())) if self.rank == 0 else 0)
        if self.rank > 0:
            pyro.set_rng_seed(mixed(number, self.rank))


@contextmanager
def _reached() -> Iterator[None]:
    try:
        with timed("other ranks"):
            yield
    except RuntimeError as error:  # gloo raises no kind of its own
        raise LostRank(f"another process of the run ended or does not answer ({error})") from error


def _on_cpu(value: Any) -> Any:
    return moved(value, torch.device("cpu"))


def moved(value: Any, device: torch.device) -> Any:
    """Plain data with its tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: moved(item, device) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(moved(item, device) for item in value)
    return value


def mixed(seed: int, rank: int) -> int:
    """A rank's own seed; sums would be the seeds of other runs."""
    return int(numpy.random.SeedSequence((seed, rank)).generate_state(1)[0])


def derived(rng: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """States of random generators for a rank that had none, by device, from those of another."""
    found = {}
    for device, state in rng.items():
        generator = torch.Generator(device)
        generator.set_state(state)
        number = int(torch.randint(2**62, (), generator=generator, device=device))
        found[device] = generator.manual_seed(mixed(number, rank)).get_state()
    return found
