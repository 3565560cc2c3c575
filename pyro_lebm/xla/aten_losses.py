"""ATen operations that compare outputs with targets."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from .aten_elementwise import absolute
from .aten_entries import Entries

TABLE = Entries()


def _reduced(loss: Any, reduction: int) -> Any:
    """By ATen's number: 0 none, 1 the mean, 2 the sum."""
    return (loss, jnp.mean(loss), jnp.sum(loss))[reduction] if reduction else loss


@TABLE.op("mse_loss")
def _mse(x: Any, target: Any, reduction: int = 1) -> Any:
    return _reduced((x - target) ** 2, reduction)


@TABLE.op("huber_loss")
def _huber(x: Any, target: Any, reduction: int = 1, delta: float = 1.0) -> Any:
    size = absolute(x - target)
    near = 0.5 * size * size
    return _reduced(jnp.where(size <= delta, near, delta * (size - 0.5 * delta)), reduction)


@TABLE.op("smooth_l1_loss")
def _smooth_l1(x: Any, target: Any, reduction: int = 1, beta: float = 1.0) -> Any:
    size = absolute(x - target)
    near = 0.5 * size * size / beta if beta else size
    return _reduced(jnp.where(size < beta, near, size - 0.5 * beta), reduction)


@TABLE.op("binary_cross_entropy")
def _binary_cross_entropy(x: Any, target: Any, weight: Any = None, reduction: int = 1) -> Any:
    loss = (target - 1) * _bounded_log(1 - x) - target * _bounded_log(x)
    return _reduced(loss if weight is None else loss * weight, reduction)


def _bounded_log(x: Any) -> Any:
    """The logarithm, or -100 if that is more, as torch bounds it; the gradient stays finite."""
    inside = x > jnp.exp(-100.0)
    return jnp.where(inside, jnp.log(jnp.where(inside, x, 1.0)), -100.0)


@TABLE.op("nll_loss_forward", "nll_loss2d_forward")
def _nll(x: Any, target: Any, weight: Any, reduction: int, ignore_index: int) -> Any:
    axis = min(1, x.ndim - 1)  # that of the classes
    ignored = target == ignore_index
    classes = jnp.where(ignored, 0, target)
    picked = jnp.take_along_axis(x, jnp.expand_dims(classes, axis), axis=axis)
    share = jnp.ones(classes.shape, x.dtype) if weight is None else weight[classes]
    share = jnp.where(ignored, 0.0, share)
    loss = -jnp.where(ignored, 0.0, jnp.squeeze(picked, axis)) * share
    total = jnp.sum(share)
    if reduction == 0:
        return loss, total
    return (jnp.sum(loss) / total if reduction == 1 else jnp.sum(loss)), total
