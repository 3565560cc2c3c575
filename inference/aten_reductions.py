"""ATen operations that sum and sort, and those of linear algebra."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
import jax.scipy.linalg as jsl
import jax.scipy.special as jsp
from jax import lax, nn

from .aten_entries import Entries, Function, axes, cast

TABLE = Entries()

# Reductions


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
    return jnp.max(x, axis=dim, keepdims=keepdim), jnp.argmax(x, axis=dim, keepdims=keepdim)


@TABLE.op("min")
def _min(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    if dim is None:
        return jnp.min(x)
    return jnp.min(x, axis=dim, keepdims=keepdim), jnp.argmin(x, axis=dim, keepdims=keepdim)


@TABLE.op("logsumexp")
def _logsumexp(x: Any, dim: Any, keepdim: bool = False) -> Any:
    return jsp.logsumexp(x, axis=axes(dim), keepdims=keepdim)


def _moment(
    function: Function,
    x: Any,
    dim: Any = None,
    unbiased: Any = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
) -> Any:
    if isinstance(dim, bool):  # the overload var(x, unbiased)
        dim, unbiased = None, dim
    if correction is None:
        correction = 1 if unbiased is None else int(unbiased)
    return function(x, axis=axes(dim), ddof=correction, keepdims=keepdim)


TABLE.plain(partial(_moment, jnp.var), "var")
TABLE.plain(partial(_moment, jnp.std), "std")
TABLE.plain(lambda x, dim=None, keepdim=False: jnp.any(x, axis=axes(dim), keepdims=keepdim), "any")
TABLE.plain(lambda x, dim=None, keepdim=False: jnp.all(x, axis=axes(dim), keepdims=keepdim), "all")
TABLE.plain(lambda x, dim=None, keepdim=False: jnp.argmax(x, axis=dim, keepdims=keepdim), "argmax")
TABLE.plain(lambda x, dim=None, keepdim=False: jnp.argmin(x, axis=dim, keepdims=keepdim), "argmin")
TABLE.plain(lambda x, dim, *, dtype=None: jnp.cumsum(cast(x, dtype), axis=dim), "cumsum")
TABLE.plain(lambda x, dim, *, dtype=None: jnp.cumprod(cast(x, dtype), axis=dim), "cumprod")
TABLE.plain(lambda x, dim: lax.associative_scan(jnp.logaddexp, x, axis=dim), "logcumsumexp")
TABLE.plain(lambda x, dim, half=False: nn.softmax(x, axis=dim), "_softmax", "softmax")
TABLE.plain(lambda x, dim, half=False: nn.log_softmax(x, axis=dim), "_log_softmax", "log_softmax")


@TABLE.op("linalg_vector_norm", "norm")
def _norm(
    x: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    return jnp.linalg.norm(
        x if dim is not None else jnp.ravel(x), ord, axis=axes(dim), keepdims=keepdim
    )


@TABLE.op("sort")
def _sort(x: Any, dim: int = -1, descending: bool = False) -> Any:
    order = jnp.argsort(x, axis=dim, descending=descending)
    return jnp.take_along_axis(x, order, axis=dim), order


# Linear algebra

TABLE.plain(jnp.matmul, "mm", "bmm", "mv", "dot", "matmul", "vdot")
TABLE.plain(jnp.outer, "outer", "ger")


@TABLE.op("addmm", "baddbmm", "addmv", "addbmm")
def _addmm(x: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    product = a @ b if alpha == 1 else alpha * (a @ b)
    return product + (x if beta == 1 else beta * x)


@TABLE.op("linalg_cholesky_ex")
def _cholesky_ex(x: Any, *, upper: bool = False, check_errors: bool = False) -> Any:
    factor = jnp.linalg.cholesky(x)
    return jnp.swapaxes(factor, -1, -2) if upper else factor, jnp.zeros(x.shape[:-2], jnp.int32)


TABLE.plain(lambda x, upper=False: _cholesky_ex(x, upper=upper)[0], "linalg_cholesky", "cholesky")


@TABLE.op("linalg_solve_triangular")
def _solve_triangular(
    a: Any, b: Any, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Any:
    if not left:
        a, b, upper = jnp.swapaxes(a, -1, -2), jnp.swapaxes(b, -1, -2), not upper
    batch = jnp.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = (jnp.broadcast_to(m, batch + m.shape[-2:]) for m in (a, b))
    x = jsl.solve_triangular(a, b, lower=not upper, unit_diagonal=unitriangular)
    return x if left else jnp.swapaxes(x, -1, -2)


@TABLE.op("triangular_solve")
def _old_solve_triangular(
    b: Any, a: Any, upper: bool = True, transpose: bool = False, unitriangular: bool = False
) -> Any:
    a = jnp.swapaxes(a, -1, -2) if transpose else a
    return (_solve_triangular(a, b, upper=upper != transpose, unitriangular=unitriangular), a)


@TABLE.op("cholesky_solve")
def _cholesky_solve(b: Any, factor: Any, upper: bool = False) -> Any:
    lower = jnp.swapaxes(factor, -1, -2) if upper else factor
    first = _solve_triangular(lower, b, upper=False)
    return _solve_triangular(jnp.swapaxes(lower, -1, -2), first, upper=True)


@TABLE.op("cholesky_inverse")
def _cholesky_inverse(factor: Any, upper: bool = False) -> Any:
    return _cholesky_solve(jnp.eye(factor.shape[-1], dtype=factor.dtype), factor, upper)


@TABLE.op("linalg_inv_ex")
def _inv_ex(x: Any, *, check_errors: bool = False) -> Any:
    return jnp.linalg.inv(x), jnp.zeros(x.shape[:-2], jnp.int32)


@TABLE.op("_linalg_slogdet")
def _slogdet(x: Any) -> Any:
    return (*jnp.linalg.slogdet(x), None, None)


@TABLE.op("_linalg_solve_ex")
def _solve_ex(a: Any, b: Any, *, left: bool = True, check_errors: bool = False) -> Any:
    vector = jnp.ndim(b) < jnp.ndim(a)
    b = b[..., None] if vector else b
    x = jnp.linalg.solve(a, b)
    return x[..., 0] if vector else x, None, None, jnp.zeros(a.shape[:-2], jnp.int32)


TABLE.plain(lambda x: (jnp.linalg.det(x), None, None), "_linalg_det")
TABLE.plain(lambda x, UPLO="L", compute_v=True: jnp.linalg.eigh(x, UPLO), "_linalg_eigh")
