"""ATen operations that sum and sort."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import jax.scipy.special as jsp
from jax import lax, nn

from .aten_elementwise import absolute
from .aten_entries import Entries, Function, axes, cast

TABLE = Entries()


@TABLE.op("sum")
def _sum(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return jnp.sum(cast(x, dtype), axis=axes(dim), keepdims=keepdim)


@TABLE.op("mean")
def _mean(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return jnp.mean(cast(x, dtype), axis=axes(dim), keepdims=keepdim)


@TABLE.op("prod")
def _prod(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return jnp.prod(cast(x, dtype), axis=axes(dim), keepdims=keepdim)


@TABLE.op("amax")
def _amax(x: Any, dim: Any = (), keepdim: bool = False) -> Any:
    return jnp.max(x, axis=axes(dim), keepdims=keepdim)


@TABLE.op("amin")
def _amin(x: Any, dim: Any = (), keepdim: bool = False) -> Any:
    return jnp.min(x, axis=axes(dim), keepdims=keepdim)


@TABLE.op("max")
def _max(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    if dim is None:
        return jnp.max(x)
    return _picked(x, jnp.argmax(x, axis=dim, keepdims=True), dim, keepdim)


@TABLE.op("min")
def _min(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    if dim is None:
        return jnp.min(x)
    return _picked(x, jnp.argmin(x, axis=dim, keepdims=True), dim, keepdim)


def _picked(x: Any, index: Any, dim: int, keepdim: bool) -> Any:
    # of equal values torch's gradient goes to the one that is picked, where JAX's is shared
    values = jnp.take_along_axis(x, index, axis=dim)
    return (values, index) if keepdim else (jnp.squeeze(values, dim), jnp.squeeze(index, dim))


@TABLE.op("logsumexp")
def _logsumexp(x: Any, dim: Any, keepdim: bool = False) -> Any:
    return jsp.logsumexp(x, axis=axes(dim), keepdims=keepdim)


@TABLE.op("var")
def _var(
    x: Any, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None
) -> Any:
    if isinstance(dim, bool):  # the overload var(x, unbiased)
        dim, unbiased = None, dim
    if correction is None:
        correction = 1 if unbiased is None else int(unbiased)
    return jnp.var(x, axis=axes(dim), ddof=correction, keepdims=keepdim)


@TABLE.op("std")
def _std(*args: Any, **kwargs: Any) -> Any:
    return _root(_var(*args, **kwargs))


def _root(squared: Any, power: Any = 0.5) -> Any:
    """A root whose gradient at zero is zero, as that of torch's norms."""
    positive = squared > 0
    return jnp.where(positive, jnp.where(positive, squared, 1.0) ** power, 0.0)


def _with_mean(spread: Function) -> Function:
    def both(
        x: Any, dim: Any = None, unbiased: Any = None, keepdim: bool = False, **kwargs: Any
    ) -> Any:
        found = spread(x, dim, unbiased, keepdim, **kwargs)
        return found, _mean(x, None if isinstance(dim, bool) else dim, keepdim)

    return both


TABLE.plain(_with_mean(_var), "var_mean")
TABLE.plain(_with_mean(_std), "std_mean")
TABLE.plain(lambda x, dim=None, keepdim=False: jnp.any(x, axis=axes(dim), keepdims=keepdim), "any")
TABLE.plain(lambda x, dim=None, keepdim=False: jnp.all(x, axis=axes(dim), keepdims=keepdim), "all")
TABLE.plain(lambda x, dim=None, keepdim=False: jnp.argmax(x, axis=dim, keepdims=keepdim), "argmax")
TABLE.plain(lambda x, dim=None, keepdim=False: jnp.argmin(x, axis=dim, keepdims=keepdim), "argmin")
TABLE.plain(lambda x, dim, *, dtype=None: jnp.cumsum(cast(x, dtype), axis=dim), "cumsum")
TABLE.plain(lambda x, dim, *, dtype=None: jnp.cumprod(cast(x, dtype), axis=dim), "cumprod")
TABLE.plain(lambda x, dim: lax.associative_scan(jnp.logaddexp, x, axis=dim), "logcumsumexp")
TABLE.plain(lambda x, dim, half=False: nn.softmax(x, axis=dim), "_softmax")
TABLE.plain(lambda x, dim, half=False: nn.log_softmax(x, axis=dim), "_log_softmax")


@TABLE.op("_safe_softmax")
def _safe_softmax(x: Any, dim: int, dtype: Any = None) -> Any:
    x = cast(x, dtype)
    empty = jnp.all(x == -jnp.inf, axis=dim, keepdims=True)
    return jnp.where(empty, 0.0, nn.softmax(jnp.where(empty, 0.0, x), axis=dim))


@TABLE.op("linalg_vector_norm", "norm")
def _norm(
    x: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    x, axis = cast(x, dtype), axes(dim)
    size, order = absolute(x), 2.0 if ord is None else ord
    if order in (jnp.inf, -jnp.inf):
        return (jnp.max if order > 0 else jnp.min)(size, axis=axis, keepdims=keepdim)
    if order == 0:
        return jnp.sum((x != 0).astype(size.dtype), axis=axis, keepdims=keepdim)
    if order == 1:
        return jnp.sum(size, axis=axis, keepdims=keepdim)
    if order == 2:
        return _root(jnp.sum(size * size, axis=axis, keepdims=keepdim))
    zero = 0.0 if order > 0 else jnp.inf
    powers = jnp.where(size > 0, jnp.where(size > 0, size, 1.0) ** order, zero)
    return _root(jnp.sum(powers, axis=axis, keepdims=keepdim), 1 / order)


@TABLE.op("dist")
def _dist(a: Any, b: Any, p: Any = 2) -> Any:
    return _norm(a - b, p)


@TABLE.op("_cdist_forward")
def _cdist(a: Any, b: Any, p: Any, compute_mode: Any = None) -> Any:
    return _norm(a[..., :, None, :] - b[..., None, :, :], p, -1)


@TABLE.op("sort")
def _sort(x: Any, dim: int = -1, descending: bool = False, *, stable: bool | None = None) -> Any:
    order = jnp.argsort(x, axis=dim, descending=descending, stable=True)
    return jnp.take_along_axis(x, order, axis=dim), order


@TABLE.op("topk")
def _topk(x: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    return tuple(lax.slice_in_dim(part, 0, k, axis=dim) for part in _sort(x, dim, largest))
