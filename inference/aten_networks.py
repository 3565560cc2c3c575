"""ATen operations of neural networks' layers."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from .aten_entries import Entries

TABLE = Entries()

TABLE.plain(lambda x, index, weight=None: x[index], "embedding")


@TABLE.op("linear")
def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    product = x @ weight.T
    return product if bias is None else product + bias


@TABLE.op("convolution")
def _convolution(
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Any:
    size = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    spread = (1,) * len(size)
    sides = [(p, p) for p in padding]
    if transposed:  # the transpose of a convolution is one over spread input, kernels turned round
        weight = _turned(weight, groups)
        ends = zip(size, padding, output_padding, strict=True)
        sides = [(s - p, s - p + o) for s, p, o in ends]
        stride, spread = spread, tuple(stride)
    found = lax.conv_general_dilated(
        x,
        weight,
        window_strides=tuple(stride),
        padding=sides,
        lhs_dilation=spread,
        rhs_dilation=tuple(dilation),
        feature_group_count=groups,
    )
    return found if bias is None else found + jnp.reshape(bias, (-1,) + (1,) * len(size))


def _turned(weight: Any, groups: int) -> Any:
    """``(in, out / groups, *kernel)`` to ``(out, in / groups, *kernel)``, kernels flipped."""
    inputs, outputs, *kernel = weight.shape
    parts = jnp.reshape(weight, (groups, inputs // groups, outputs, *kernel))
    swapped = jnp.reshape(jnp.swapaxes(parts, 1, 2), (groups * outputs, inputs // groups, *kernel))
    return jnp.flip(swapped, tuple(range(2, swapped.ndim)))


@TABLE.op("native_layer_norm")
def _layer_norm(x: Any, shape: Any, weight: Any, bias: Any, eps: float) -> Any:
    last = tuple(range(-len(shape), 0))
    mean = jnp.mean(x, last, keepdims=True)
    rstd = lax.rsqrt(jnp.var(x, last, keepdims=True) + eps)
    found = (x - mean) * rstd
    found = found if weight is None else found * weight
    return found if bias is None else found + bias, mean, rstd
