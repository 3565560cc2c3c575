"""ATen operations of neural networks' layers."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from .aten_entries import Entries

TABLE = Entries()

TABLE.plain(lambda x, index, weight=None: x[index], "embedding")


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


def _normalised(x: Any, over: tuple[int, ...], eps: float) -> Any:
    mean = jnp.mean(x, over, keepdims=True)
    rstd = lax.rsqrt(jnp.var(x, over, keepdims=True) + eps)
    return (x - mean) * rstd, mean, rstd


def _affine(x: Any, weight: Any, bias: Any) -> Any:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


@TABLE.op("native_layer_norm")
def _layer_norm(x: Any, shape: Any, weight: Any, bias: Any, eps: float) -> Any:
    found, mean, rstd = _normalised(x, tuple(range(-len(shape), 0)), eps)
    return _affine(found, weight, bias), mean, rstd


@TABLE.op("native_group_norm")
def _group_norm(
    x: Any, weight: Any, bias: Any, n: int, c: int, size: int, groups: int, eps: float
) -> Any:
    found, mean, rstd = _normalised(jnp.reshape(x, (x.shape[0], groups, -1)), (-1,), eps)
    found = _affine(jnp.reshape(found, x.shape), _channels(weight, x), _channels(bias, x))
    return found, mean[..., 0], rstd[..., 0]


def _channels(value: Any, x: Any) -> Any:
    """Values of the channels of ``(batch, channels, ...)`` as they broadcast."""
    return None if value is None else jnp.reshape(value, (-1,) + (1,) * (x.ndim - 2))


@TABLE.op("native_batch_norm")
def _batch_norm(
    x: Any,
    weight: Any,
    bias: Any,
    mean: Any,
    var: Any,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    if training and mean is not None:
        raise ValueError(
            "model: expected batch normalisation as in evaluation, got it in training, where each "
            "call moves its statistics; call .eval() on the module"
        )
    if training:  # that of an instance, which keeps no statistics
        found = _normalised(x, (0, *range(2, x.ndim)), eps)[0]
    else:
        found = (x - _channels(mean, x)) * lax.rsqrt(_channels(var, x) + eps)
    return _affine(found, _channels(weight, x), _channels(bias, x)), None, None


@TABLE.op("_native_batch_norm_legit_no_training")
def _batch_norm_eval(
    x: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float
) -> Any:
    return _batch_norm(x, weight, bias, mean, var, False, momentum, eps)


def _two(value: Any, otherwise: Any = (0,)) -> list[int]:
    """Torch's ``int[2]``, which may be one number or none."""
    given = [value] if isinstance(value, int) else list(value)
    given = given or list(otherwise)
    return given * 2 if len(given) == 1 else given


def _starts(length: int, reach: int, stride: int, pad: int, ceil: bool) -> Any:
    """Where windows start, in a dimension that is not yet padded."""
    room = length + 2 * pad - reach
    count = (-(-room // stride) if ceil else room // stride) + 1
    if ceil and (count - 1) * stride >= length + pad:  # one that starts in the padding
        count -= 1
    return np.arange(count) * stride - pad


def _windows(x: Any, starts: Any, kernel: Any, dilation: Any, fill: Any) -> Any:
    """``(..., rows, columns, window)`` of ``(..., height, width)``; ``fill`` lies outside."""
    places = [
        start[:, None] + step * np.arange(k)
        for start, step, k in zip(starts, dilation, kernel, strict=True)
    ]
    inside = [(p >= 0) & (p < n) for p, n in zip(places, x.shape[-2:], strict=True)]
    rows, columns = (np.clip(p, 0, n - 1) for p, n in zip(places, x.shape[-2:], strict=True))
    found = x[..., rows[:, None, :, None], columns[None, :, None, :]]
    known = inside[0][:, None, :, None] & inside[1][None, :, None, :]
    return jnp.reshape(jnp.where(known, found, fill), (*found.shape[:-2], -1))


@TABLE.op("avg_pool2d")
def _avg_pool2d(
    x: Any,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    kernel, padding = _two(kernel), _two(padding)
    sides = zip(x.shape[-2:], kernel, _two(stride, kernel), padding, strict=True)
    starts = [_starts(n, k, s, p, ceil_mode) for n, k, s, p in sides]
    total = jnp.sum(_windows(x, starts, kernel, (1, 1), 0.0), axis=-1)
    if divisor_override is not None:
        return total / divisor_override
    counts = []
    for start, n, k, p in zip(starts, x.shape[-2:], kernel, padding, strict=True):
        edge = p if count_include_pad else 0
        counts.append(np.minimum(start + k, n + edge) - np.maximum(start, -edge))
    return total / (counts[0][:, None] * counts[1])


@TABLE.op("max_pool2d_with_indices")
def _max_pool2d(
    x: Any,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Any:
    kernel, dilation = _two(kernel), _two(dilation)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    sides = zip(x.shape[-2:], reach, _two(stride, kernel), _two(padding), strict=True)
    starts = [_starts(n, r, s, p, ceil_mode) for n, r, s, p in sides]
    windows = _windows(x, starts, kernel, dilation, -jnp.inf)
    best = jnp.argmax(windows, axis=-1, keepdims=True)
    return jnp.take_along_axis(windows, best, axis=-1)[..., 0], None
