"""ATen operations that act on each element."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import jax.scipy.special as jsp
from jax import lax, nn

from .aten_entries import Entries, Function, cast

TABLE = Entries()

for _name in [
    "exp",
    "expm1",
    "log",
    "log1p",
    "log2",
    "log10",
    "sqrt",
    "sin",
    "cos",
    "tan",
    "sinh",
    "cosh",
    "tanh",
    "abs",
    "sign",
    "floor",
    "ceil",
    "trunc",
    "isnan",
    "isinf",
    "isfinite",
    "logical_not",
    "logical_and",
    "logical_or",
    "logical_xor",
    "maximum",
    "minimum",
    "square",
    "exp2",
]:
    TABLE.plain(getattr(jnp, _name), _name)
_RENAMED: dict[str, Function] = {
    "asin": jnp.arcsin,
    "acos": jnp.arccos,
    "atan": jnp.arctan,
    "atan2": jnp.arctan2,
    "asinh": jnp.arcsinh,
    "acosh": jnp.arccosh,
    "atanh": jnp.arctanh,
    "neg": jnp.negative,
    "reciprocal": jnp.reciprocal,
    "rsqrt": lax.rsqrt,
    "round": jnp.round,
    "sgn": jnp.sign,
    "remainder": jnp.mod,
    "fmod": jnp.fmod,
    "bitwise_and": jnp.bitwise_and,
    "bitwise_or": jnp.bitwise_or,
    "bitwise_not": jnp.bitwise_not,
    "bitwise_xor": jnp.bitwise_xor,
    "eq": jnp.equal,
    "ne": jnp.not_equal,
    "lt": jnp.less,
    "le": jnp.less_equal,
    "gt": jnp.greater,
    "ge": jnp.greater_equal,
    "mul": jnp.multiply,
    "pow": jnp.power,
    "sigmoid": nn.sigmoid,
    "relu": nn.relu,
    "silu": nn.silu,
    "erf": jsp.erf,
    "erfc": jsp.erfc,
    "erfinv": jsp.erfinv,
    "lgamma": jsp.gammaln,
    "digamma": jsp.digamma,
    "i0": jsp.i0,
    "special_log_ndtr": jsp.log_ndtr,
    "special_ndtri": jsp.ndtri,
    "special_i0e": jsp.i0e,
    "special_i1": jsp.i1,
    "special_i1e": jsp.i1e,
    "special_xlog1py": jsp.xlog1py,
    "xlogy": jsp.xlogy,
    "hypot": jnp.hypot,
    "logaddexp": jnp.logaddexp,
    "where": jnp.where,
    "fmax": jnp.fmax,
    "fmin": jnp.fmin,
    "nan_to_num": jnp.nan_to_num,
}
for _torch, _jax in _RENAMED.items():
    TABLE.plain(_jax, _torch)
TABLE.plain(
    lambda x, *args, **kwargs: x,
    "alias",
    "detach",
    "clone",
    "contiguous",
    "lift_fresh",
    "lift_fresh_copy",
    "_conj",
    "positive",
)


@TABLE.op("add")
def _add(a: Any, b: Any, *, alpha: Any = 1) -> Any:
    return jnp.add(a, b if alpha == 1 else alpha * b)


@TABLE.op("sub")
def _sub(a: Any, b: Any, *, alpha: Any = 1) -> Any:
    return jnp.subtract(a, b if alpha == 1 else alpha * b)


@TABLE.op("rsub")
def _rsub(a: Any, b: Any, alpha: Any = 1) -> Any:
    return jnp.subtract(b, a if alpha == 1 else alpha * a)


@TABLE.op("div")
def _div(a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode == "floor":
        return jnp.floor_divide(a, b)
    return jnp.true_divide(a, b) if rounding_mode is None else jnp.trunc(jnp.true_divide(a, b))


@TABLE.op("clamp", "clamp_min", "clamp_max", "clip")
def _clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    return jnp.clip(x, min, max)


TABLE.plain(lambda x, top: jnp.minimum(x, top), "clamp_max")


@TABLE.op("softplus")
def _softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    scaled = beta * x
    # the inner `where` keeps the gradient finite where the branch is not taken
    soft = jnp.log1p(jnp.exp(jnp.where(scaled > threshold, 0.0, scaled))) / beta
    return jnp.where(scaled > threshold, x, soft)


@TABLE.op("elu")
def _elu(x: Any, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Any:
    negative = alpha * jnp.expm1(jnp.where(x > 0, 0.0, x * input_scale))
    return scale * jnp.where(x > 0, x, negative)


@TABLE.op("gelu")
def _gelu(x: Any, *, approximate: str = "none") -> Any:
    return nn.gelu(x, approximate=approximate == "tanh")


TABLE.plain(lambda x, slope=0.01: nn.leaky_relu(x, slope), "leaky_relu")
TABLE.plain(lambda x: (nn.log_sigmoid(x), None), "log_sigmoid_forward")
TABLE.plain(lambda x, low=-1.0, high=1.0: jnp.clip(x, low, high), "hardtanh")
TABLE.plain(lambda n, x: jsp.polygamma(n, x), "polygamma")
TABLE.plain(lambda x, eps=None: jsp.logit(x if eps is None else jnp.clip(x, eps, 1 - eps)), "logit")
TABLE.plain(lambda x, weight: jnp.where(x > 0, x, weight * x), "prelu", "_prelu_kernel")
TABLE.plain(lambda x, mask, value: jnp.where(mask, value, x), "masked_fill")
TABLE.plain(lambda a, b, weight: a + weight * (b - a), "lerp")
TABLE.plain(lambda x, a, b, *, value=1: x + value * a * b, "addcmul")
TABLE.plain(lambda x, a, b, *, value=1: x + value * a / b, "addcdiv")
TABLE.plain(lambda x, *, dtype=None, **_: cast(x, dtype), "_to_copy", "to")
