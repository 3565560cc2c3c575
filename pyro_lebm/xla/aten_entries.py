"""How ATen operations are entered in a table, and torch's constants and dtypes as JAX's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

Function = Callable[..., Any]


class Entries(dict[str, Function]):
    """Functions of JAX arrays by names such as ``"add.Tensor"``; ``"add"`` is for all overloads."""

    def op(self, *names: str) -> Callable[[Function], Function]:
        """Enter the function that is defined next."""

        def enter(function: Function) -> Function:
            self.plain(function, *names)
            return function

        return enter

    def plain(self, function: Function, *names: str) -> None:
        """Enter a function that there is already."""
        for name in names:
            self[name] = function


_DTYPES = {
    torch.float64: jnp.float64,
    torch.float32: jnp.float32,
    torch.float16: jnp.float16,
    torch.bfloat16: jnp.bfloat16,
    torch.int64: jnp.int64,
    torch.int32: jnp.int32,
    torch.int16: jnp.int16,
    torch.int8: jnp.int8,
    torch.uint8: jnp.uint8,
    torch.bool: jnp.bool_,
    torch.complex64: jnp.complex64,
    torch.complex128: jnp.complex128,
}


def array(value: torch.Tensor) -> Any:
    """A copy of a constant of torch's as one of JAX's, who would share the memory of large ones.

    Masks stay NumPy's, as shapes may hang on them.

    Raises:
        ValueError: where a finite constant is none in single precision, and JAX is set to that.
    """
    found = value.detach().cpu().numpy().copy()
    if value.dtype == torch.bool:
        return found
    to = jax.dtypes.canonicalize_dtype(found.dtype)
    if to == found.dtype:
        return jnp.asarray(found)
    if np.issubdtype(to, np.integer):  # one that does not fit would come out as another number
        limits = np.iinfo(to)
        fits = ((found >= limits.min) & (found <= limits.max)).all()
        return jnp.asarray(found.astype(to if fits else np.float32))
    with np.errstate(over="ignore"):
        narrow = found.astype(to)
    lost = np.isfinite(found) & ~np.isfinite(narrow)
    if lost.any():
        raise ValueError(
            f"model: a constant of the model, {found[lost].flat[0]:g}, does not fit single "
            "precision; use double precision"
        )
    return jnp.asarray(narrow)


def scaled(x: Any, by: Any) -> Any:
    """``by * x``; a factor that is plainly one, as torch's ``alpha`` mostly is, leaves no trace."""
    return x if isinstance(by, int) and by == 1 else by * x


def to_dtype(value: torch.dtype | None) -> Any:
    """A torch dtype as JAX's, in whichever of 32 or 64 bits JAX is set to."""
    return None if value is None else jax.dtypes.canonicalize_dtype(_DTYPES[value])


def cast(x: Any, to: torch.dtype | None) -> Any:
    """An array in another dtype, if one is given."""
    return x if to is None else jnp.asarray(x).astype(to_dtype(to))


def axes(dim: Any) -> Any:
    """Torch's ``dim`` as JAX's ``axis``: torch reads no dimension as all."""
    if dim is None or isinstance(dim, int):
        return dim
    return tuple(dim) or None
