"""RecurrentGenerator: PyTorch's unit, driven by noise, gaps and covariates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pyro_lebm.models import GaussianEmission, RecurrentGenerator


def test_a_step_is_that_of_pytorchs_unit() -> None:
    model = RecurrentGenerator(4, 2, noise=3, covariates=2, unit=0.5)
    other = nn.GRUCell(6, 4)
    with torch.no_grad():
        other.weight_ih.copy_(model.cell.inward.weight)
        other.bias_ih.copy_(model.cell.inward.bias)
        other.weight_hh.copy_(model.cell.across.weight)
        other.bias_hh.copy_(model.cell.across.bias)
    z, noise, u, gap = torch.randn(7, 4), torch.randn(7, 3), torch.randn(7, 2), torch.rand(7, 1)
    expected = other(torch.cat([noise, 2 * gap, u], -1), z)
    assert torch.allclose(model.step(z, gap, noise, u), expected, atol=1e-6)
    # one gap for all, and particles
    expected = other(torch.cat([noise, torch.full((7, 1), 0.6), u], -1), z)
    many = model.step(z.expand(3, 7, 4), torch.tensor([0.3]), noise, u)
    assert torch.allclose(many, expected.expand(3, 7, 4), atol=1e-6)


def test_weights_start_as_pytorchs() -> None:
    cell = RecurrentGenerator(100, 2).cell
    for parameter in cell.parameters():
        assert 0.09 < float(parameter.detach().abs().max()) <= 0.1
        # uniform between: five standard errors of 300 or more, a false alarm in 1.7e6
        assert abs(float(parameter.detach().mean())) < 5 * 0.1 / 3**0.5 / 300**0.5


def test_defaults_and_bad_sizes() -> None:
    model = RecurrentGenerator(4, 2)
    assert model.noise == 4 and isinstance(model.emission, GaussianEmission)
    for name in ("state", "observed", "noise"):
        sizes = {"state": 4, "observed": 2, name: 0}
        with pytest.raises(ValueError, match=f"{name}: expected a size of at least 1, got 0"):
            RecurrentGenerator(**sizes)
        with pytest.raises(TypeError, match=f"{name}: expected a whole number, got 2.5"):
            RecurrentGenerator(**sizes | {name: 2.5})
    wrong: Any = "a"
    with pytest.raises(TypeError, match="unit: expected a number, got 'a'"):
        RecurrentGenerator(4, 2, unit=wrong)
