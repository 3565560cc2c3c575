"""ATen operations as functions of JAX arrays: one table."""

from __future__ import annotations

from . import aten_elementwise, aten_reductions, aten_shapes
from .aten_entries import Entries

TABLE = Entries({**aten_elementwise.TABLE, **aten_reductions.TABLE, **aten_shapes.TABLE})
"""By the operation's name with or without its overload; a user may enter more."""
