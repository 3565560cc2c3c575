"""How far draws are from a density known by its gradient alone."""

from __future__ import annotations

import torch
from torch import Tensor


def kernel_stein_discrepancy(draws: Tensor, gradients: Tensor, *, scale: float = 1.0) -> float:
    r"""Squared kernel Stein discrepancy of draws from a density p, which need not be normalised.

    .. math:: \frac{1}{n (n - 1)} \sum_{i \ne j} u(x_i, x_j), \quad
              u(x, y) = s(x)^T s(y)\, k + s(x)^T \nabla_y k + s(y)^T \nabla_x k
              + \mathrm{tr}\, \nabla_x \nabla_y k

    with :math:`s = \nabla \log p` and the inverse multiquadric kernel
    :math:`k = (c^2 + \|x - y\|^2)^{-1/2}`, which tells convergence (Gorham & Mackey 2017, arXiv
    1703.01717; Liu, Lee & Jordan 2016, arXiv 1602.03253). It is unbiased: of independent draws of p
    itself it is 0 on average, and may come out below. A missed mode, far from all draws, it does
    not see.

    Args:
        draws: ``(n, dim)``, n >= 2, in coordinates of about unit scale.
        gradients: :math:`\nabla \log p` at each, ``(n, dim)``.
        scale: c of the kernel, in the unit of the draws.

    Raises:
        ValueError: for other shapes, fewer than two draws, values that are not finite, or a scale
            that is not positive.

    Example:
        >>> x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
        >>> kernel_stein_discrepancy(x, -x) < kernel_stein_discrepancy(x + 1, -(x + 1))
        True
    """
    if not scale > 0:
        raise ValueError(f"scale: expected a positive number, got {scale}")
    if draws.ndim != 2 or len(draws) < 2 or gradients.shape != draws.shape:
        raise ValueError(
            "draws, gradients: expected two of shape (n, dim), n at least 2, got "
            f"{tuple(draws.shape)} and {tuple(gradients.shape)}"
        )
    x, s = draws.detach().double(), gradients.detach().double()
    if not bool(torch.isfinite(x).all() & torch.isfinite(s).all()):
        raise ValueError("draws, gradients: expected finite numbers, got NaN or inf")
    n, dim = x.shape
    distance = (x[:, None] - x).square().sum(-1)
    inverse = 1 / (scale**2 + distance)
    kernel = inverse.sqrt()
    # s(x)^T (x - y) and s(y)^T (x - y): gradients of the kernel lie along x - y
    along = (s * x).sum(-1)
    at_x = along[:, None] - s @ x.T
    at_y = (s @ x.T).T - along
    u = (s @ s.T) * kernel + (at_x - at_y) * inverse * kernel
    u = u + dim * inverse * kernel - 3 * distance * inverse**2 * kernel
    return float((u.sum() - u.diagonal().sum()) / (n * (n - 1)))
