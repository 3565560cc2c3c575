"""The kernel Stein discrepancy, against quadrature."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_lebm.inference.scores import kernel_stein_discrepancy


def expected(mean: float, sd: float, scale: float) -> float:
    """Of draws of N(mean, sd^2) for p = N(0, 1), by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    x = torch.tensor(mean + sd * nodes, dtype=torch.float64)
    w = torch.tensor(weights / math.sqrt(2 * math.pi), dtype=torch.float64)
    a, b = (y.clone().requires_grad_(True) for y in torch.meshgrid(x, x, indexing="ij"))
    k = (scale**2 + (a - b) ** 2) ** -0.5
    (k_a,) = torch.autograd.grad(k.sum(), a, create_graph=True)
    (k_b,) = torch.autograd.grad(k.sum(), b, create_graph=True)
    (k_ab,) = torch.autograd.grad(k_a.sum(), b)
    u = a * b * k - a * k_b - b * k_a + k_ab
    return float(w @ u.detach() @ w)


@pytest.mark.parametrize(("mean", "sd", "scale"), [(0, 1, 1), (0.8, 1, 1), (0, 0.6, 2)])
def test_it_is_that_of_quadrature(mean: float, sd: float, scale: float) -> None:
    """Over 20 independent sets of draws, five standard errors: a false alarm in 1e-4."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(20):
        x = mean + sd * torch.randn(400, 1, generator=generator, dtype=torch.float64)
        found.append(kernel_stein_discrepancy(x, -x, scale=scale))
    error = float(np.std(found, ddof=1)) / math.sqrt(20)
    assert abs(float(np.mean(found)) - expected(mean, sd, scale)) < 5 * error


def test_dimensions_count_alike() -> None:
    """Of two independent coordinates turned, it is the same."""
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    s = -x * torch.tensor([1.0, 4.0]).double() + 0.3
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]]).double()
    assert kernel_stein_discrepancy(x @ turn, s @ turn) == pytest.approx(
        kernel_stein_discrepancy(x, s)
    )


BAD: dict[str, tuple[Tensor, Tensor, Any, str]] = {
    "one": (torch.zeros(1, 2), torch.zeros(1, 2), {}, "n at least 2"),
    "shapes": (torch.zeros(3, 2), torch.zeros(3, 1), {}, "draws, gradients: expected two of shape"),
    "nan": (torch.zeros(3, 2), torch.zeros(3, 2) / 0, {}, "expected finite"),
    "scale": (torch.zeros(3, 2), torch.zeros(3, 2), {"scale": 0.0}, "scale: expected a positive"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_draws_are_refused(case: str) -> None:
    draws, gradients, options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        kernel_stein_discrepancy(draws, gradients, **options)
