"""LatentODE and its solver: covariates by the adjoint, integer times, rollback, the saved base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import rotations
from pyro_lebm.checkpoint import CheckpointError
from pyro_lebm.energy import MLPEnergy
from pyro_lebm.inference.training.fit import fit
from pyro_lebm.models import LatentODE
from pyro_lebm.prior import EnergyPrior
from pyro_lebm.series import Series
from small_programs import QUIET, Encoder, Linear, data


def driven(**solver: Any) -> LatentODE:
    torch.manual_seed(0)
    return LatentODE(2, 1, covariates=1, **solver)


@pytest.mark.parametrize("adjoint", [False, True])
def test_adaptive_methods_train_a_field_with_covariates(adjoint: bool) -> None:
    times, z0 = torch.linspace(0, 1, 5), torch.randn(3, 2)
    # Without kinks, over which torchdiffeq's tolerance of 1e-3 costs the gradient up to a tenth.
    u = torch.randn(3, 1, 1) + torch.randn(3, 1, 1) * times[:, None]
    found = []
    for model in (driven(tolerance=1e-5), driven(method="dopri5", adjoint=adjoint)):
        model.path(z0, times, u).square().sum().backward()
        found.append([p.grad for p in model.field.parameters()])
    for exact, got in zip(*found, strict=True):
        assert exact is not None and got is not None and bool(exact.any())
        assert torch.allclose(got, exact, atol=1e-2 * float(exact.abs().max()))


def test_the_adjoint_method_loses_no_gradient_of_covariates() -> None:
    u = torch.randn(3, 5, 1, requires_grad=True)
    with pytest.raises(ValueError, match="covariates: expected none that require gradients"):
        driven(method="dopri5", adjoint=True).path(torch.randn(3, 2), torch.linspace(0, 1, 5), u)


def test_a_driven_field_keeps_the_models_parameters() -> None:
    model = driven()
    names = [name for name, _ in model.named_parameters()]
    model.path(torch.randn(3, 2), torch.linspace(0, 1, 5), torch.randn(3, 5, 1))
    assert [name for name, _ in model.named_parameters()] == names


def test_integer_times_start_at_t0() -> None:
    model = rotations.rotating(t0=0.5)
    z0, times = torch.randn(2, 2), torch.arange(1, 4)
    exact = rotations.design(times - 0.5, rotations.TRUTH[0], 1.0) @ z0.unsqueeze(-1)
    assert torch.allclose(model.path(z0, times)[..., :1], exact, atol=2e-3)
    assert model.generate(2, times).shape == (2, 3, 1)


class Stiff(Linear):
    """Its field can no longer be solved when the second epoch begins."""

    epochs = 0

    def refresh(self, series: Series) -> None:
        self.epochs += 1
        if self.epochs == 2:
            times = torch.linspace(0, 1, 300)
            rotations.rotating(2e3).refresh(Series(times, torch.zeros(1, 300, 1)))


def test_training_rolls_back_when_the_field_turns_stiff() -> None:
    with pytest.warns(RuntimeWarning, match=r"tolerance: expected to reach .*; back to step"):
        history = fit(Stiff(), Encoder(), data(), max_steps=8, snapshot_every=2, **QUIET)
    assert history.column("step").tolist() == list(range(1, 9))


class Base(nn.Module):
    """Independent coordinates, without a parameter or buffer."""

    kind: Any = dist.Normal

    def forward(self) -> Any:
        return self.kind(torch.zeros(2), torch.ones(2)).to_event(1)


class Laplace(Base):
    kind = dist.Laplace


def test_another_base_of_the_prior_is_refused(tmp_path: Path) -> None:
    def model(base: nn.Module) -> LatentODE:
        return LatentODE(2, 1, prior=EnergyPrior(MLPEnergy(2), base, num_chains=4))

    model(Base()).save(tmp_path / "model.pt")
    model(Base()).load(tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"prior\.base: expected Laplace.*, got Base"):
        model(Laplace()).load(tmp_path / "model.pt")
