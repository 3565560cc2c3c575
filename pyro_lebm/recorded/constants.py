"""The constants of a recorded function, apart from what is done with them."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import torch
from torch import Tensor

from .graph import Const, Graph, Operation, mapped

# Where a number is only calculated with: elsewhere the translation may hang on its value.
ARITHMETIC = frozenset({"add", "sub", "rsub", "mul", "div", "lerp", "addcmul", "addcdiv"})
COMPARED = 2**20  # numbers in the largest tensor whose values are looked at


def lifted(operations: list[Operation], result: Any, input_form: Any) -> Graph:
    """The graph of these operations, with a `Const` for each tensor and number in them.

    Equal constants become one: a solver's weights are constants of each of its steps.
    """
    found: dict[Any, int] = {}
    constants: list[Tensor | float] = []
    names: dict[Any, Any] = {}

    def const(value: Tensor | float) -> Const:
        # packed, as -0.0 equals 0.0
        place = _pointer(value) if isinstance(value, Tensor) else struct.pack("d", value)
        if place not in names:
            names[place] = _equal(value) if isinstance(value, Tensor) else place
        if names[place] not in found:
            found[names[place]] = len(constants)
            constants.append(value)
        return Const(found[names[place]])

    def tensor(leaf: Any) -> Any:
        return const(leaf) if isinstance(leaf, Tensor) else leaf

    def either(leaf: Any) -> Any:
        return const(leaf) if isinstance(leaf, Tensor) or type(leaf) is float else leaf

    kept = []
    for o in operations:
        replace = either if o.name in ARITHMETIC else tensor
        kept.append(o._replace(args=mapped(o.args, replace), kwargs=mapped(o.kwargs, replace)))
    return Graph(kept, mapped(result, tensor), input_form, constants)


def _pointer(value: Tensor) -> Any:
    return value.data_ptr(), value.shape, value.stride(), value.dtype


def _equal(value: Tensor) -> Any:
    """The same for tensors of equal values."""
    if value.numel() > COMPARED:
        return _pointer(value)
    plain = value.detach().resolve_conj().resolve_neg().cpu()
    values = (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    return value.shape, value.dtype, hashlib.blake2b(values.tobytes(), digest_size=16).digest()
