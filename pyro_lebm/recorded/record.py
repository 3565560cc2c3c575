"""Recording a torch function's operations; what does not hang on its input is computed."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from ..engines import engine
from .constants import lifted
from .graph import Graph, Operation, Ref, form, mapped, refs
from .sources import Sources


class Recorder(TorchDispatchMode):
    """Notes the operations that what is tracked goes through; everything else just happens.

    Unlike torch's own tracers it lets a program look at values that do not hang on the input, such
    as the last of some times.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self.sources = Sources()
        self._known: dict[int, tuple[Tensor, Ref]] = {}  # the tensor kept, or its id is used again
        self._met = 0
        self._named = 0
        self.site = ""

    def track(self, value: Tensor, ref: Ref) -> None:
        """From here on, operations on `value` are noted."""
        self._known[id(value)] = (value, ref)
        self.sources.made(value)

    def scored(self, site: str) -> None:
        """Say that what was noted since the site before led to `site`."""
        for i in range(self._named, len(self.operations)):
            self.operations[i] = self.operations[i]._replace(site=site)
        self._named, self.site = len(self.operations), site

    def ref(self, value: Any) -> Any:
        """The `Ref` of a tracked tensor; anything else, nested values too, as it is."""
        return mapped(value, self._leaf)

    def _leaf(self, item: Any) -> Any:
        if not isinstance(item, Tensor):
            return item
        known = self._known.get(id(item))
        if known is None:
            self.sources.met(item)
            return item
        self._met += 1
        return known[1]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self._met
        noted, options = self.ref(tuple(args)), self.ref(dict(kwargs or {}))
        tracked = self._met > before
        self._refuse(func, args, tracked)
        if func._schema.is_mutable and noted and isinstance(noted[0], Tensor):
            noted = (noted[0].clone(), *noted[1:])  # a constant as it is before it is written to
        result = func(*args, **(kwargs or {}))
        if result is None or not tracked:
            mapped(result, self.sources.made)
            return result
        if not isinstance(result, Tensor | tuple | list):
            raise ValueError(
                "model: expected the same operations whatever the latent values, got one that "
                f"looks at a value ({func}) {self.after}; sample with "
                "VectorizedMCMC(strategy='loop')"
            )
        self._note(func, noted, options, result)
        return result

    @property
    def after(self) -> str:
        """Where the recording is."""
        return f"after site {self.site!r}" if self.site else "before the first site"

    def _refuse(self, func: Any, args: Any, tracked: bool) -> None:
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise ValueError(
                f"model: expected no random numbers in a density, got {func} {self.after}; put "
                "networks with dropout in eval() mode, and make random numbers sample sites"
            )
        # what is written to whole is noted anew, under the result; of a part, the rest is not
        if tracked and func._schema.is_mutable and isinstance(args[0], Tensor):
            if not args[0]._is_view():
                return
            raise ValueError(
                f"model: {func} {self.after} writes into part of a tensor, which cannot be "
                "followed; write the model without it, or sample with VectorizedMCMC"
            )

    def _note(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        here = Ref(len(self.operations))
        self.operations.append(Operation(func, args, kwargs, self.site, form(result)))
        if isinstance(result, Tensor):
            self.track(result, here)
            return
        for i, part in enumerate(result):
            if isinstance(part, Tensor):
                self.track(part, Ref(len(self.operations)))
                self.operations.append(Operation(pick, (here, i), {}, self.site, form(part)))


def pick(values: Any, i: int) -> Any:
    """One of the results of an operation that has several."""
    return values[i]


def capture(function: Callable[[Tensor], Any], example: Tensor, recorder: Recorder) -> Graph:
    """The operations `function` performs on an input like `example`.

    Raises:
        ValueError: where what is performed hangs on values of the input, or cannot be recorded.
    """
    functional = torch.func.functionalize(function, remove="mutations")
    z = example.detach().clone()
    recorder.track(z, Ref(-1))
    steps = sdpa_kernel(SDPBackend.MATH)  # attention in operations that there are in the table
    with torch.no_grad(), pyro.validation_enabled(False), engine("eager"), steps, _uncollected():
        with recorder:
            result = _recorded(functional, z, recorder)
        recorder.sources.keep()
        operations, result = needed(recorder.operations, recorder.ref(result))
        return lifted(operations, result, form(z))


def _recorded(function: Callable[[Tensor], Any], z: Tensor, recorder: Recorder) -> Any:
    try:
        return function(z)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # which kernels reject
        raise
    except (RuntimeError, TypeError) as reason:
        raise ValueError(
            f"model: expected what can be recorded, got what cannot {recorder.after} "
            f"({type(reason).__name__}: {str(reason).splitlines()[0]}), such as an "
            "autograd.Function of your own; write the model without it, or use engine 'eager'"
        ) from reason


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection: it would go through all that is noted, again and again."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def needed(operations: list[Operation], result: Any) -> tuple[list[Operation], Any]:
    """Without the operations that the result does not hang on."""
    wanted = {ref.place for ref in refs(result)}
    for i in range(len(operations) - 1, -1, -1):
        if i in wanted:
            wanted |= {ref.place for ref in refs((operations[i].args, operations[i].kwargs))}
    if len(wanted - {-1}) == len(operations):
        return operations, result
    place = {-1: -1} | {i: k for k, i in enumerate(sorted(wanted - {-1}))}

    def moved(tree: Any) -> Any:
        return mapped(tree, lambda x: Ref(place[x.place]) if isinstance(x, Ref) else x)

    kept = [
        o._replace(args=moved(o.args), kwargs=moved(o.kwargs))
        for i, o in enumerate(operations)
        if i in wanted
    ]
    return kept, moved(result)
