"""Log likelihoods of a slice of times and their derivatives by the emission's outputs, in place."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LOG_RATE_LIMIT = 20.0
HALF_LOG_TWO_PI = 0.9189385332046727

# (output, values, mask, scale) as (D, times, lead, N), broadcast; the log likelihoods' terms and
# the derivatives are written into the two places that follow, another one is for work
Compare = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], None]


def gaussian(
    out: Tensor, x: Tensor, mask: Tensor, scale: Tensor, terms: Tensor, g: Tensor, _: Tensor
) -> None:
    """Terms -r^2 / sigma^2, whose halves and a constant are the log likelihood."""
    torch.sub(x, out, out=terms).mul_(mask).div_(scale)
    torch.div(terms, scale, out=g)
    terms.square_().neg_()


def bernoulli(
    out: Tensor, x: Tensor, mask: Tensor, _: Tensor, terms: Tensor, g: Tensor, work: Tensor
) -> None:
    """Terms x l - log(1 + e^l) of logits l."""
    # log(1 + e^l) = max(l, 0) + log1p(exp(-|l|))
    torch.abs(out, out=work).neg_().exp_().log1p_().add_(torch.clamp(out, min=0.0, out=g))
    torch.mul(x, out, out=terms).sub_(work).mul_(mask)
    torch.sub(x, torch.sigmoid(out, out=work), out=g).mul_(mask)


def poisson(
    out: Tensor, x: Tensor, mask: Tensor, _: Tensor, terms: Tensor, g: Tensor, work: Tensor
) -> None:
    """Terms x l - e^l, but for log x!, of log rates l within +-20."""
    torch.clamp(out, -LOG_RATE_LIMIT, LOG_RATE_LIMIT, out=work)
    torch.exp(work, out=g)
    torch.mul(x, work, out=terms).sub_(g).mul_(mask)
    torch.sub(x, g, out=g).mul_(mask).mul_(torch.eq(work, out, out=work))


COMPARE: dict[str, Compare] = {"gaussian": gaussian, "bernoulli": bernoulli, "poisson": poisson}
