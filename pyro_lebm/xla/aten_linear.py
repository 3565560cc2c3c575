"""ATen operations of linear algebra."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import jax.scipy.linalg as jsl
from jax import lax

from .aten_entries import Entries, scaled

TABLE = Entries()

TABLE.plain(jnp.matmul, "mm", "bmm", "mv", "dot", "vdot")


@TABLE.op("addmm", "baddbmm", "addmv")
def _addmm(x: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    return scaled(a @ b, alpha) + scaled(x, beta)


@TABLE.op("addbmm")
def _addbmm(x: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    return scaled(jnp.sum(a @ b, axis=0), alpha) + scaled(x, beta)


def _symmetric(x: Any, upper: bool) -> Any:
    """The symmetric matrix of which torch reads one triangle; the other need not be equal."""
    strict = jnp.triu(x, 1) if upper else jnp.tril(x, -1)
    half = jnp.triu(x) if upper else jnp.tril(x)
    return half + jnp.swapaxes(strict, -1, -2)


@TABLE.op("linalg_cholesky_ex")
def _cholesky_ex(x: Any, *, upper: bool = False, check_errors: bool = False) -> Any:
    factor = jnp.linalg.cholesky(_symmetric(x, upper), symmetrize_input=False)
    return jnp.swapaxes(factor, -1, -2) if upper else factor, jnp.zeros(x.shape[:-2], jnp.int32)


TABLE.plain(lambda x, upper=False: _cholesky_ex(x, upper=upper)[0], "cholesky")


@TABLE.op("_linalg_eigh")
def _eigh(x: Any, UPLO: str = "L", compute_v: bool = True) -> Any:
    x = _symmetric(x, UPLO.upper() == "U")
    if not compute_v:
        return jnp.linalg.eigvalsh(x, symmetrize_input=False), None
    return jnp.linalg.eigh(x, symmetrize_input=False)


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
    vector = b.ndim == 1 or (a.ndim - 1 == b.ndim and b.shape == a.shape[:-1])
    b = b[..., None] if vector else b
    if not left:
        a, b = jnp.swapaxes(a, -1, -2), jnp.swapaxes(b, -1, -2)
    x = jnp.linalg.solve(a, b)
    x = x if left else jnp.swapaxes(x, -1, -2)
    return x[..., 0] if vector else x, None, None, jnp.zeros(a.shape[:-2], jnp.int32)


TABLE.plain(lambda x: (jnp.linalg.det(x), None, None), "_linalg_det")
TABLE.plain(jsl.expm, "linalg_matrix_exp")
TABLE.plain(jnp.trace, "trace")


@TABLE.op("linalg_cross")
def _cross(a: Any, b: Any, *, dim: int = -1) -> Any:
    return jnp.cross(a, b, axis=dim)


@TABLE.op("linalg_qr")
def _qr(x: Any, mode: str = "reduced") -> Any:
    rows, columns = x.shape[-2:]
    if rows < columns:  # JAX lacks the gradient of this one
        q = jnp.linalg.qr(x[..., :rows])[0]
        return q, jnp.swapaxes(q, -1, -2) @ x
    if mode == "r":
        return None, jnp.linalg.qr(x)[1]
    return tuple(jnp.linalg.qr(x, mode))


@TABLE.op("_linalg_svd")
def _svd(
    x: Any, full_matrices: bool = False, compute_uv: bool = True, *, driver: Any = None
) -> Any:
    if not compute_uv:
        return None, jnp.linalg.svd(x, compute_uv=False), None
    u, s, vh = jnp.linalg.svd(x, full_matrices=False)
    if full_matrices and x.shape[-1] != x.shape[-2]:
        # JAX lacks the gradient of a full one; neither has torch one of the vectors it adds
        whole = jnp.linalg.svd(lax.stop_gradient(x))
        u = jnp.concatenate([u, whole[0][..., s.shape[-1] :]], axis=-1)
        vh = jnp.concatenate([vh, whole[2][..., s.shape[-1] :, :]], axis=-2)
    return u, s, vh
