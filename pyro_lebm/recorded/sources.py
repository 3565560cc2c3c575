"""What a recording took values from, and whether that is still what it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from operator import is_
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ..frozen import held
from .constants import COMPARED

PLAIN = frozenset({bool, int, float, str})
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


class Sources:
    """The tensors from outside that a recording took values from: weights, data.

    Versions count what is written by PyTorch. Fused optimisers and writes to ``.data`` do not show
    in them, so that the bits are compared as well, but of the largest tensors.
    """

    def __init__(self) -> None:
        self._found: dict[int, tuple[Tensor, int, int]] = {}
        self._made: set[int] = set()
        self._bits: list[tuple[list[Tensor], Tensor]] = []

    def made(self, value: Any) -> None:
        """Something that the recording made itself, unless it is a view of what it met."""
        if isinstance(value, Tensor):
            storage = value.untyped_storage()._cdata
            if storage not in self._found:
                self._made.add(storage)

    def met(self, value: Tensor) -> None:
        """Something that was read."""
        storage = value.untyped_storage()._cdata
        if storage not in self._found and storage not in self._made:
            self._found[storage] = (value, value.data_ptr(), _version(value))

    def keep(self) -> None:
        """Remember the values that they have now."""
        groups: dict[Any, list[Tensor]] = {}
        for value, *_ in self._found.values():
            bits = _bits(value)
            if bits.numel() <= COMPARED or value.is_inference():  # that has no version
                groups.setdefault((bits.device, bits.dtype), []).append(bits)
        self._bits = [(group, torch.cat(group)) for group in groups.values()]

    @property
    def changed(self) -> bool:
        """Whether any was written to since."""
        return any(
            value.data_ptr() != pointer or _version(value) != version
            for value, pointer, version in self._found.values()
        ) or not all(torch.equal(torch.cat(now), then) for now, then in self._bits)


def _version(value: Tensor) -> int:
    return 0 if value.is_inference() else value._version


def _bits(value: Tensor) -> Tensor:
    """The storage of a tensor as integers, which are equal where they are NaN."""
    kind = _BITS.get(value.element_size(), torch.int64)
    with torch.inference_mode(False):
        empty = torch.empty(0, dtype=kind, device=value.device)
        return empty.set_(value.untyped_storage())


class Attached:
    """What a program hangs on that may be replaced: modules, their tensors and plain attributes.

    Those of the modules that the program itself names, and all of Pyro's parameter store.
    """

    def __init__(self, model: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> None:
        self._program = partial(model, *args, **kwargs)
        self._then = list(self._now())  # held, or an id would be used again

    @property
    def changed(self) -> bool:
        """Whether any is another one since."""
        now = list(self._now())
        if len(now) != len(self._then):
            return True
        return not all(map(is_, now, self._then)) and not all(map(_same, now, self._then))

    def _now(self) -> Iterator[Any]:
        for _, parameter in pyro.get_param_store().named_parameters():
            yield parameter
        for module in held(self._program):
            yield from _parts(module, set())


def _parts(module: nn.Module, seen: set[nn.Module]) -> Iterator[Any]:
    if module in seen:
        return
    seen.add(module)
    yield module
    yield from module._parameters.values()
    yield from module._buffers.values()
    for value in module.__dict__.values():
        if type(value) in PLAIN:
            yield value
    for part in module._modules.values():
        if part is not None:
            yield from _parts(part, seen)


def _same(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and type(a) in PLAIN and bool(a == b))
