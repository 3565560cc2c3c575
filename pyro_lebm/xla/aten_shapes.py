"""ATen operations that move, pick and make elements."""

from __future__ import annotations

import operator
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from jax import lax

from .aten_entries import Entries, Function, scaled, to_dtype

TABLE = Entries()

# Shapes


@TABLE.op("view", "_unsafe_view", "_reshape_alias", "view_copy")
def _view(x: Any, shape: Any) -> Any:
    return _bits(x, shape) if isinstance(shape, torch.dtype) else jnp.reshape(x, tuple(shape))


def _bits(x: Any, dtype: torch.dtype) -> Any:
    """The same bits read as another dtype; the last dimension grows or shrinks with their size."""
    to = to_dtype(dtype)
    if to.itemsize != dtype.itemsize:
        raise ValueError(f"model: bits read as {dtype} are others in single precision; use double")
    if to.itemsize > x.dtype.itemsize:
        x = jnp.reshape(x, (*x.shape[:-1], -1, to.itemsize // x.dtype.itemsize))
    found = lax.bitcast_convert_type(x, to)
    return jnp.reshape(found, (*x.shape[:-1], -1)) if found.ndim > x.ndim else found


@TABLE.op("expand", "expand_copy")
def _expand(x: Any, shape: Any, *, implicit: bool = False) -> Any:
    have = (1,) * (len(shape) - jnp.ndim(x)) + jnp.shape(x)
    return jnp.broadcast_to(x, tuple(h if s == -1 else s for s, h in zip(shape, have, strict=True)))


@TABLE.op("squeeze")
def _squeeze(x: Any, dim: Any = None) -> Any:
    if dim is None:
        return jnp.squeeze(x)
    dims = (dim,) if isinstance(dim, int) else dim
    return jnp.squeeze(x, tuple(d for d in dims if jnp.ndim(x) and jnp.shape(x)[d] == 1))


@TABLE.op("slice", "slice_copy")
def _slice(x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    return x[_along(x, dim, slice(start, end, step))]


def _along(x: Any, dim: int, part: Any) -> Any:
    return (*([slice(None)] * (dim % jnp.ndim(x))), part)


@TABLE.op("slice_scatter")
def _slice_scatter(
    x: Any, source: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    return x.at[_along(x, dim, slice(start, end, step))].set(source)


@TABLE.op("split", "unsafe_split")
def _split(x: Any, size: Any, dim: int = 0) -> Any:
    length = x.shape[dim]
    sizes = (
        [min(size, length - i) for i in range(0, length, size)] if isinstance(size, int) else size
    )
    return _split_sizes(x, sizes, dim)


@TABLE.op("split_with_sizes", "unsafe_split_with_sizes")
def _split_sizes(x: Any, sizes: Any, dim: int = 0) -> Any:
    return jnp.split(x, np.cumsum(sizes)[:-1].tolist(), axis=dim)


@TABLE.op("unbind")
def _unbind(x: Any, dim: int = 0) -> Any:
    return [lax.index_in_dim(x, i, dim, keepdims=False) for i in range(x.shape[dim])]


@TABLE.op("index", "_unsafe_index")
def _index(x: Any, indices: Any) -> Any:
    return x[tuple(slice(None) if i is None else i for i in indices)]


@TABLE.op("index_put", "_unsafe_index_put")
def _index_put(x: Any, indices: Any, values: Any, accumulate: bool = False) -> Any:
    if len(indices) == 1 and indices[0].dtype == bool and jnp.size(values) == 1:
        mask = jnp.reshape(indices[0], indices[0].shape + (1,) * (x.ndim - indices[0].ndim))
        value = jnp.reshape(values, ())
        return jnp.where(mask, x + value if accumulate else value, x)
    at = x.at[tuple(slice(None) if i is None else i for i in indices)]
    return at.add(values) if accumulate else at.set(values)


@TABLE.op("gather")
def _gather(x: Any, dim: int, index: Any, *, sparse_grad: bool = False) -> Any:
    if jnp.ndim(x) == 0:
        return jnp.broadcast_to(x, jnp.shape(index))
    # torch lets the index be smaller than x in the other dimensions
    where = list(jnp.meshgrid(*(jnp.arange(n) for n in index.shape), indexing="ij"))
    where[dim] = index
    return x[tuple(where)]


@TABLE.op("index_add")
def _index_add(x: Any, dim: int, index: Any, source: Any, *, alpha: Any = 1) -> Any:
    return x.at[_along(x, dim, index)].add(scaled(source, alpha))


@TABLE.op("masked_select")
def _masked_select(x: Any, mask: Any) -> Any:
    if not isinstance(mask, np.ndarray):
        raise ValueError(
            "model: expected masked_select with a mask that no latent value moves, got one that "
            "hangs on them; use torch.where, or sample with VectorizedMCMC"
        )
    shape = np.broadcast_shapes(x.shape, mask.shape)
    return jnp.broadcast_to(x, shape)[np.broadcast_to(mask, shape)]


@TABLE.op("unfold")
def _unfold(x: Any, dim: int, size: int, step: int) -> Any:
    dim %= x.ndim
    starts = np.arange(0, x.shape[dim] - size + 1, step)
    return jnp.moveaxis(jnp.take(x, starts[:, None] + np.arange(size), axis=dim), dim + 1, -1)


def _scatter(x: Any, dim: int, index: Any, source: Any, add: bool) -> Any:
    where = list(jnp.meshgrid(*(jnp.arange(n) for n in index.shape), indexing="ij"))
    where[dim] = index
    if jnp.ndim(source):
        source = source[tuple(slice(n) for n in index.shape)]
    at = x.at[tuple(where)]
    return at.add(source) if add else at.set(source)


TABLE.plain(partial(_scatter, add=False), "scatter")
TABLE.plain(partial(_scatter, add=True), "scatter_add")
TABLE.plain(lambda x, dims: jnp.transpose(x, tuple(dims)), "permute", "permute_copy")
TABLE.plain(lambda x, a, b: jnp.swapaxes(x, a, b) if jnp.ndim(x) else x, "transpose")
TABLE.plain(lambda x: jnp.swapaxes(x, -1, -2) if jnp.ndim(x) > 1 else x, "t")
TABLE.plain(lambda x, dim: jnp.expand_dims(x, dim), "unsqueeze")
TABLE.plain(lambda x, dim, i: lax.index_in_dim(x, i, dim, keepdims=False), "select", "select_copy")
TABLE.plain(lambda x, s, dim, i: x.at[_along(x, dim, i)].set(s), "select_scatter")
TABLE.plain(lambda x, dim, index: jnp.take(x, index, axis=dim), "index_select")
TABLE.plain(lambda xs, dim=0: jnp.concatenate([x for x in xs if x.shape != (0,)], axis=dim), "cat")
TABLE.plain(lambda xs, dim=0: jnp.stack(xs, axis=dim), "stack")
TABLE.plain(lambda x, dims: jnp.flip(x, tuple(dims)), "flip")
TABLE.plain(lambda x, shifts, dims=(): jnp.roll(x, tuple(shifts), tuple(dims) or None), "roll")
TABLE.plain(lambda x, repeats: jnp.tile(x, tuple(repeats)), "repeat")
TABLE.plain(lambda x, k=0: jnp.tril(x, k), "tril")
TABLE.plain(lambda x, k=0: jnp.triu(x, k), "triu")
TABLE.plain(lambda x, o=0, a=0, b=1: jnp.diagonal(x, o, a, b), "diagonal", "diagonal_copy")
TABLE.plain(operator.getitem, "pick")


@TABLE.op("constant_pad_nd")
def _pad(x: Any, pad: Any, value: Any = 0.0) -> Any:
    pairs = [(pad[i], pad[i + 1], 0) for i in range(0, len(pad), 2)][::-1]
    rest = [(0, 0, 0)] * (x.ndim - len(pairs))
    return lax.pad(x, jnp.asarray(value, x.dtype), rest + pairs)


@TABLE.op("diag_embed")
def _diag_embed(x: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    size = x.shape[-1] + abs(offset)
    rows = jnp.arange(x.shape[-1]) + max(-offset, 0)
    columns = jnp.arange(x.shape[-1]) + max(offset, 0)
    made = jnp.zeros((*x.shape[:-1], size, size), x.dtype).at[..., rows, columns].set(x)
    return jnp.moveaxis(made, (-2, -1), (dim1, dim2))


@TABLE.op("diagonal_scatter")
def _diagonal_scatter(x: Any, source: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    moved = jnp.moveaxis(x, (dim1, dim2), (-2, -1))
    length = source.shape[-1]
    rows, columns = jnp.arange(length) + max(-offset, 0), jnp.arange(length) + max(offset, 0)
    return jnp.moveaxis(moved.at[..., rows, columns].set(source), (-2, -1), (dim1, dim2))


# Made new: the shape is the input's or given


def _like(value: Any) -> Function:
    return lambda x, *, dtype=None, **_: jnp.full_like(x, value, dtype=to_dtype(dtype))


for _name, _value in {"zeros_like": 0, "ones_like": 1, "empty_like": 0}.items():
    TABLE.plain(_like(_value), _name)
for _name, _value in {"new_zeros": 0, "new_ones": 1, "new_empty": 0}.items():
    TABLE.plain(
        lambda x, shape, *, dtype=None, v=_value, **_: jnp.full(
            tuple(shape), v, to_dtype(dtype) or x.dtype
        ),
        _name,
    )


@TABLE.op("full_like")
def _full_like(x: Any, value: Any, *, dtype: Any = None, **_: Any) -> Any:
    return jnp.full_like(x, value, dtype=to_dtype(dtype))


@TABLE.op("new_full")
def _new_full(x: Any, shape: Any, value: Any, *, dtype: Any = None, **_: Any) -> Any:
    return jnp.full(tuple(shape), value, to_dtype(dtype) or x.dtype)


TABLE.plain(lambda x, value: jnp.full_like(x, value), "fill")
TABLE.plain(lambda x, source, *_: jnp.broadcast_to(source, x.shape).astype(x.dtype), "copy")
