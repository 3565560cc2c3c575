"""Metrics: linear maps to coordinates in which a target is round, learned from a warm-up.

Steps know nothing of preconditioning: a chain under a metric is a chain on the mapped target.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .langevin import LogDensity, State

# Draws for which no correlation counts, beside those of a window.
PRIOR_DRAWS = 5.0


class Metric(NamedTuple):
    r"""White coordinates y of a position: :math:`z = m + L y`.

    ``centre`` is m, ``(dim,)``; ``factor`` is L: ``(dim,)`` where it is diagonal, else
    ``(dim, dim)``.

    Example:
        >>> metric = Metric(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 10.0]))
        >>> metric.position(torch.ones(2))
        tensor([ 2., 12.])
        >>> metric.white(torch.tensor([2.0, 12.0]))
        tensor([1., 1.])
    """

    centre: Tensor
    factor: Tensor

    @property
    def dense(self) -> bool:
        """Whether directions are mixed."""
        return self.factor.ndim == 2

    def position(self, white: Tensor) -> Tensor:
        """z of y, ``(*chains, dim)``."""
        return self.centre + (white @ self.factor.mT if self.dense else white * self.factor)

    def white(self, position: Tensor) -> Tensor:
        """y of z, ``(*chains, dim)``."""
        gap = position - self.centre
        return _solved(self.factor, gap) if self.dense else gap / self.factor

    def target(self, log_density: LogDensity) -> LogDensity:
        """The target in white coordinates, up to a constant."""
        return lambda white: log_density(self.position(white))

    def state(self, state: State) -> State:
        """A state of z as one of y; the target is not evaluated."""
        gradient = state.gradient @ self.factor if self.dense else state.gradient * self.factor
        return State(self.white(state.position), state.log_density, gradient)

    def unwhitened(self, state: State) -> State:
        """A state of y as one of z; the target is not evaluated."""
        gradient = state.gradient
        gradient = _solved(self.factor.mT, gradient) if self.dense else gradient / self.factor
        return State(self.position(state.position), state.log_density, gradient)


def _solved(matrix: Tensor, vectors: Tensor) -> Tensor:
    found: Tensor = torch.linalg.solve(matrix, vectors.unsqueeze(-1)).squeeze(-1)
    return found


def unit_metric(like: Tensor, dense: bool) -> Metric:
    """The metric that changes nothing, for positions like ``(*chains, dim)``."""
    zero = torch.zeros_like(like.reshape(-1, like.shape[-1])[0])
    return Metric(zero, torch.diag(zero + 1) if dense else zero + 1)


class Moments(NamedTuple):
    """Running means ``(dim,)`` and scatters of positions and of gradients, in double precision.

    A scatter is ``(dim, dim)``, or ``(dim,)`` where coordinates are taken alone.
    """

    total: int
    mean: Tensor
    scatter: Tensor
    slope: Tensor
    slope_scatter: Tensor


def no_moments(like: Tensor, dense: bool) -> Moments:
    """Of nothing yet, for positions like ``(*chains, dim)``."""
    dim = like.shape[-1]
    zero = torch.zeros(dim, dtype=torch.float64, device=like.device)
    scatter = zero.new_zeros((dim, dim) if dense else (dim,))
    return Moments(0, zero, scatter, zero, scatter)


def add(moments: Moments, position: Tensor, gradient: Tensor) -> Moments:
    """Pool in a batch ``(*chains, dim)`` of positions and gradients (Chan, Golub & LeVeque 1979).

    Example:
        >>> x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
        >>> moments = add(add(no_moments(x, True), x[:40], -x[:40]), x[40:], -x[40:])
        >>> torch.allclose(moments.scatter / 99, x.double().T.cov(), atol=1e-6)
        True
    """
    dim = position.shape[-1]
    old = (moments.mean, moments.scatter), (moments.slope, moments.slope_scatter)
    batches = position.reshape(-1, dim).double(), gradient.reshape(-1, dim).double()
    (mean, scatter), (slope, slope_scatter) = (
        _pooled(moments.total, *was, x) for was, x in zip(old, batches, strict=True)
    )
    return Moments(moments.total + len(batches[0]), mean, scatter, slope, slope_scatter)


def _pooled(count: int, mean: Tensor, scatter: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    n, total, batch_mean = len(x), count + len(x), x.mean(0)
    r, gap = x - batch_mean, batch_mean - mean
    inside, between = (
        (r.T @ r, torch.outer(gap, gap)) if scatter.ndim == 2 else ((r * r).sum(0), gap * gap)
    )
    return mean + gap * (n / total), scatter + inside + between * (count * n / total)


def learned(metric: Metric, moments: Moments) -> Metric:
    r"""The metric that makes draws and gradients alike, seen in the white coordinates of `metric`.

    With X the covariance of the positions and G that of the gradients of log p, the new
    :math:`M = L L^T` solves :math:`M G M = X`, their geometric mean :math:`M = X \# G^{-1}`
    (Seyboldt, Carlson & Carpenter 2026, arXiv 2603.18845; diagonal:
    :math:`M_{ii} = \sqrt{X_{ii} / G_{ii}}`). On a Gaussian it is the covariance as soon as there
    are more draws than dimensions, wherever the draws came from: gradients know the curvature
    before the chains have crossed the target.
    Directions that no draw has seen stay as they were in `metric`.

    Returns:
        the new metric; `metric` itself where positions or gradients did not move or are not finite.
    """
    n = moments.total
    if n < 2:
        return metric
    dense = metric.dense
    X, G = moments.scatter / (n - 1), moments.slope_scatter / (n - 1)
    x, g = (X.diagonal(), G.diagonal()) if dense else (X, G)
    smallest = torch.finfo(metric.factor.dtype).tiny
    if not bool(torch.isfinite(X).all() & torch.isfinite(G).all()):
        return metric
    if not bool((x > smallest).all() & (g > smallest).all()):
        return metric
    scale = (x / g) ** 0.25
    if dense:
        root = _geometric_mean(_shrunk(X, x, n), _shrunk(G, g, n), scale)
        factor = metric.factor.double() @ root
    else:
        factor = metric.factor.double() * scale
    centre = metric.position(moments.mean.to(metric.centre))
    found = Metric(centre, factor.to(metric.factor))
    return found if bool(torch.isfinite(found.factor).all()) else metric


def _shrunk(covariance: Tensor, variance: Tensor, n: int) -> Tensor:
    """Towards no correlation, by as much as few draws say little of it."""
    # squared: what many draws say is to be believed to the last digits, or ill-conditioned targets
    # stay so; directions without draws stay as they were whatever the weight
    weight = (PRIOR_DRAWS / (n + PRIOR_DRAWS)) ** 2
    return (1 - weight) * covariance + weight * variance.diag()


def _geometric_mean(X: Tensor, G: Tensor, scale: Tensor) -> Tensor:
    """A factor of :math:`X # G^{-1}`, computed where both have the same variances."""
    both = scale[:, None] * scale
    chol = torch.linalg.cholesky(X / both)
    # M = C (C' G C)^(-1/2) C' solves M G M = C C'.
    values, vectors = torch.linalg.eigh(chol.mT @ (G * both) @ chol)
    values = values.clamp(min=1e-14 * float(values.max()))
    factor: Tensor = scale[:, None] * (chol @ vectors) * values**-0.25
    return factor
