"""ATen operations as functions of JAX arrays: one table."""

from __future__ import annotations

from . import (
    aten_elementwise,
    aten_linear,
    aten_losses,
    aten_networks,
    aten_reductions,
    aten_shapes,
)
from .aten_entries import Entries

_ROOMS = (aten_elementwise, aten_linear, aten_losses, aten_networks, aten_reductions, aten_shapes)
TABLE = Entries({name: entry for room in _ROOMS for name, entry in room.TABLE.items()})
"""By the operation's name with or without its overload; a user may enter more."""
