"""Saving a fitted model: the same in another process, and refused by any other model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_lebm.checkpoint import CheckpointError
from pyro_lebm.energy import MLPEnergy
from pyro_lebm.models import (
    BernoulliEmission,
    GaussianEmission,
    LatentODE,
    MLPField,
    PoissonEmission,
)
from pyro_lebm.prior import EnergyPrior

LOAD = """
import sys, torch
from pyro_lebm.models import LatentODE
model = LatentODE(3, 2, t0=-1.0).load(sys.argv[1])
torch.save(model.path(torch.ones(1, 3), torch.linspace(-1, 4, 9)), sys.argv[2])
"""


def test_a_saved_model_is_the_same_in_another_process(tmp_path: Path) -> None:
    model = LatentODE(3, 2, t0=-1.0)
    expected = model.path(torch.ones(1, 3), torch.linspace(-1, 4, 9))
    model.save(tmp_path / "model.pt")
    files = [str(tmp_path / "model.pt"), str(tmp_path / "path.pt")]
    subprocess.run([sys.executable, "-c", LOAD, *files], check=True, timeout=120)
    assert torch.equal(torch.load(files[1], weights_only=True), expected)


def test_chains_are_not_saved_with_the_weights(tmp_path: Path) -> None:
    few, many = (LatentODE(2, 1, prior=EnergyPrior(MLPEnergy(2), 2, num_chains=n)) for n in (8, 9))
    few.save(tmp_path / "model.pt")
    many.load(tmp_path / "model.pt")
    assert not any("chains" in name for name in few.state_dict())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            lambda: LatentODE(3, 1),
            r"another model: field\.layers\.0\.weight: .*\[100, 3\]",
        ),
        (lambda: LatentODE(2, 1).double(), "another model: .*expected float64.*got float32"),
        (lambda: LatentODE(2, 1, t0=1.0), "another model: t0: expected 1, got 0"),
        (
            lambda: LatentODE(2, 1, emission=GaussianEmission(2, 1, per_feature=True)),
            r"another model: emission\.log_scale",
        ),
        (
            lambda: LatentODE(2, 1, field=MLPField(2, activation="elu")),
            "field: .* elu, .* tanh",
        ),
        (
            lambda: LatentODE(2, 1, prior=EnergyPrior(MLPEnergy(2), 2, num_chains=4)),
            r"another model: prior\.energy\.net\.0\.weight: expected .*, got nothing",
        ),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, other: Any, message: str) -> None:
    LatentODE(2, 1).save(tmp_path / "model.pt")
    model = other()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        model.load(tmp_path / "model.pt")
    after = model.state_dict()
    assert all(torch.equal(after[n].nan_to_num(), v.nan_to_num()) for n, v in before.items())


def test_equal_weights_of_another_emission_are_refused(tmp_path: Path) -> None:
    LatentODE(2, 1, emission=BernoulliEmission(2, 1)).save(tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"emission: expected Poisson.*, got Bern"):
        LatentODE(2, 1, emission=PoissonEmission(2, 1)).load(tmp_path / "model.pt")
