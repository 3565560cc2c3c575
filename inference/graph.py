"""A torch function as a list of ATen operations; what does not hang on its input is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_lebm.engines import engine


class Ref(NamedTuple):
    """The result of an earlier operation; -1 is the input."""

    place: int


class Operation(NamedTuple):
    """One operation: arguments may hold `Ref`, tensors (constants) and plain Python values."""

    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    site: str  # of the program, before which it came
    form: Any = None  # shape and dtype of its result


class Graph(NamedTuple):
    """Operations in order, and the result: a `Ref`, or a tensor that does not hang on the input."""

    operations: list[Operation]
    result: Any
    input_form: Any = None

    def form(self, leaf: Any) -> Any:
        """Shape and dtype of what a `Ref` stands for, or of a tensor."""
        if isinstance(leaf, Ref):
            return self.operations[leaf.place].form if leaf.place >= 0 else self.input_form
        return form(leaf)


def form(value: Any) -> Any:
    """Shape and dtype of a tensor; None of anything else."""
    return (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else None


class Recorder(TorchDispatchMode):
    """Notes the operations that what is tracked goes through; everything else just happens.

    Unlike torch's own tracers it lets a program look at values that do not hang on the input, such
    as the last of some times.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self._known: dict[int, tuple[Tensor, Ref]] = {}  # the tensor kept, or its id is used again
        self._named = 0
        self.site = ""

    def track(self, value: Tensor, ref: Ref) -> None:
        """From here on, operations on `value` are noted."""
        self._known[id(value)] = (value, ref)

    def scored(self, site: str) -> None:
        """Say that what was noted since the site before led to `site`."""
        for i in range(self._named, len(self.operations)):
            self.operations[i] = self.operations[i]._replace(site=site)
        self._named, self.site = len(self.operations), site

    def ref(self, value: Any) -> Any:
        """The `Ref` of a tracked tensor; anything else, nested values too, as it is."""

        def leaf(item: Any) -> Any:
            known = self._known.get(id(item)) if isinstance(item, Tensor) else None
            return item if known is None else known[1]

        return mapped(value, leaf)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        noted, options = self.ref(tuple(args)), self.ref(dict(kwargs or {}))
        self._refuse(func, args, refs((noted, options)))
        if func._schema.is_mutable and noted and isinstance(noted[0], Tensor):
            noted = (noted[0].clone(), *noted[1:])  # a constant as it is before it is written to
        result = func(*args, **(kwargs or {}))
        if result is None or not refs((noted, options)):
            return result
        if not isinstance(result, Tensor | tuple | list):
            raise ValueError(
                "model: expected the same operations whatever the latent values, got one that "
                f"looks at a value ({func}) {self._after}; sample with "
                "VectorizedMCMC(strategy='loop')"
            )
        self._note(func, noted, options, result)
        return result

    @property
    def _after(self) -> str:
        return f"after site {self.site!r}" if self.site else "before the first site"

    def _refuse(self, func: Any, args: Any, tracked: list[Ref]) -> None:
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise ValueError(
                f"model: expected no random numbers in a density, got {func} {self._after}; put "
                "networks with dropout in eval() mode, and make random numbers sample sites"
            )
        # what is written to whole is noted anew, under the result; of a part, the rest is not
        if tracked and func._schema.is_mutable and isinstance(args[0], Tensor):
            if not args[0]._is_view():
                return
            raise ValueError(
                f"model: {func} {self._after} writes into part of a tensor, which cannot be "
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


def capture(function: Callable[[Tensor], Tensor], example: Tensor, recorder: Recorder) -> Graph:
    """The operations `function` performs on an input like `example`.

    Raises:
        ValueError: where what is performed hangs on values of the input.
    """
    functional = torch.func.functionalize(function, remove="mutations")
    z = example.detach().clone()
    recorder.track(z, Ref(-1))
    steps = sdpa_kernel(SDPBackend.MATH)  # attention in operations that there are in the table
    with torch.no_grad(), pyro.validation_enabled(False), engine("eager"), steps, recorder:
        result = functional(z)
    return _needed(recorder.operations, recorder.ref(result), form(z))


def mapped(tree: Any, replace: Callable[[Any], Any]) -> Any:
    """Nested arguments with every leaf replaced; a named tuple, such as `Ref`, is a leaf."""
    if isinstance(tree, list | tuple) and not hasattr(tree, "_fields"):
        items = (mapped(item, replace) for item in tree)
        return list(items) if isinstance(tree, list) else tuple(items)
    if isinstance(tree, dict):
        return {key: mapped(item, replace) for key, item in tree.items()}
    return replace(tree)


def refs(tree: Any) -> list[Ref]:
    """Every `Ref` in nested arguments, in order."""
    leaves: list[Any] = []
    mapped(tree, leaves.append)
    return [leaf for leaf in leaves if isinstance(leaf, Ref)]


def _needed(operations: list[Operation], result: Any, input_form: Any) -> Graph:
    """Without the operations that the result does not hang on."""
    wanted = {ref.place for ref in refs(result)}
    for i in range(len(operations) - 1, -1, -1):
        if i in wanted:
            wanted |= {ref.place for ref in refs((operations[i].args, operations[i].kwargs))}
    place = {-1: -1} | {i: k for k, i in enumerate(sorted(wanted - {-1}))}

    def moved(tree: Any) -> Any:
        return mapped(tree, lambda x: Ref(place[x.place]) if isinstance(x, Ref) else x)

    kept = [
        o._replace(args=moved(o.args), kwargs=moved(o.kwargs))
        for i, o in enumerate(operations)
        if i in wanted
    ]
    return Graph(kept, moved(result), input_form)
