"""ATen operations that act on each element."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import jax.scipy.special as jsp
from jax import lax, nn

from .aten_entries import Entries, Function, cast, scaled

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
    "sign",
    "floor",
    "ceil",
    "trunc",
    "isnan",
    "isinf",
    "logical_not",
    "logical_and",
    "logical_or",
    "logical_xor",
    "maximum",
    "minimum",
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
    "floor_divide": jnp.floor_divide,
    "copysign": jnp.copysign,
    "sinc": jnp.sinc,
    "deg2rad": jnp.deg2rad,
    "rad2deg": jnp.rad2deg,
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
    "hypot": jnp.hypot,
    "logaddexp": jnp.logaddexp,
    "where": jnp.where,
    "fmax": jnp.fmax,
    "fmin": jnp.fmin,
}
for _torch, _jax in _RENAMED.items():
    TABLE.plain(_jax, _torch)
TABLE.plain(
    lambda x, *args, **kwargs: x,
    "alias",
    "detach",
    "clone",
    "lift_fresh",
    "lift_fresh_copy",
    "_conj",
)


@TABLE.op("add")
def _add(a: Any, b: Any, *, alpha: Any = 1) -> Any:
    return jnp.add(a, scaled(b, alpha))


@TABLE.op("sub")
def _sub(a: Any, b: Any, *, alpha: Any = 1) -> Any:
    return jnp.subtract(a, scaled(b, alpha))


@TABLE.op("rsub")
def _rsub(a: Any, b: Any, alpha: Any = 1) -> Any:
    return jnp.subtract(b, scaled(a, alpha))


@TABLE.op("div")
def _div(a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode == "floor":
        return jnp.floor_divide(a, b)
    if rounding_mode is None:
        return jnp.true_divide(a, b)
    return jnp.trunc(jnp.true_divide(a, b)).astype(jnp.result_type(a, b))


# Where these have a kink, JAX's own gradients are not torch's.


@TABLE.op("abs")
def absolute(x: Any) -> Any:
    """The gradient at zero is zero."""
    return jnp.where(x == 0, 0, jnp.abs(jnp.where(x == 0, 1, x)))


@TABLE.op("clamp", "clamp_min")
def _clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    x = x if min is None else jnp.where(x < min, min, x)
    return x if max is None else jnp.where(x > max, max, x)


@TABLE.op("clamp_max")
def _clamp_max(x: Any, max: Any) -> Any:
    return _clamp(x, None, max)


@TABLE.op("hardtanh")
def _hardtanh(x: Any, low: Any = -1.0, high: Any = 1.0) -> Any:
    return jnp.where(x <= low, low, jnp.where(x >= high, high, x))


@TABLE.op("hardsigmoid")
def _hardsigmoid(x: Any) -> Any:
    return _hardtanh(x, -3.0, 3.0) / 6 + 0.5


@TABLE.op("hardswish")
def _hardswish(x: Any) -> Any:
    return jnp.where(x <= -3, 0.0, jnp.where(x >= 3, x, x * (x + 3) / 6))


@TABLE.op("leaky_relu")
def _leaky_relu(x: Any, slope: Any = 0.01) -> Any:
    return jnp.where(x > 0, x, slope * x)


@TABLE.op("logit")
def _logit(x: Any, eps: Any = None) -> Any:
    return jsp.logit(x if eps is None else _clamp(x, eps, 1 - eps))


def _floating(function: Function) -> Function:
    """Of arguments of one floating type: JAX's own gradients refuse whole numbers."""

    def mixed(a: Any, b: Any) -> Any:
        to = jnp.result_type(a, b, float)
        return function(jnp.asarray(a, to), jnp.asarray(b, to))

    return mixed


TABLE.plain(_floating(jsp.xlogy), "xlogy")
TABLE.plain(_floating(jsp.xlog1py), "special_xlog1py")


@TABLE.op("nan_to_num")
def _nan_to_num(x: Any, nan: Any = None, posinf: Any = None, neginf: Any = None) -> Any:
    return jnp.nan_to_num(x, nan=0.0 if nan is None else nan, posinf=posinf, neginf=neginf)


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


@TABLE.op("glu")
def _glu(x: Any, dim: int = -1) -> Any:
    value, gate = jnp.split(x, 2, axis=dim)
    return value * nn.sigmoid(gate)


@TABLE.op("gelu")
def _gelu(x: Any, *, approximate: str = "none") -> Any:
    return nn.gelu(x, approximate=approximate == "tanh")


TABLE.plain(lambda x, alpha=1.0: _elu(x, alpha, 1.0, 1 / alpha), "celu")
TABLE.plain(lambda x: x * jnp.tanh(nn.softplus(x)), "mish")
TABLE.plain(lambda x, p: jsp.multigammaln(x, p), "mvlgamma")
TABLE.plain(lambda x: x - jnp.trunc(x), "frac")
TABLE.plain(lambda x: (nn.log_sigmoid(x), None), "log_sigmoid_forward")
TABLE.plain(lambda n, x: jsp.polygamma(n, x), "polygamma")
TABLE.plain(lambda x, weight: jnp.where(x > 0, x, weight * x), "_prelu_kernel")
TABLE.plain(lambda x, mask, value: jnp.where(mask, value, x), "masked_fill")
TABLE.plain(lambda a, b, weight: a + weight * (b - a), "lerp")
TABLE.plain(lambda x, a, b, *, value=1: x + value * a * b, "addcmul")
TABLE.plain(lambda x, a, b, *, value=1: x + value * a / b, "addcdiv")
TABLE.plain(lambda x, *, dtype=None, **_: cast(x, dtype), "_to_copy")
