"""What the tables say of a trained row."""

from __future__ import annotations

from typing import Any

import torch
from tables_chains import mixing
from tables_errors import errors, without_energy
from tables_models import Cell
from tables_scores import Effort, effort_of, evidence, generation, meaning, strange
from tables_tasks import Data
from tables_train import Row
from torch import Tensor

from pyro_lebm.partition import log_z
from pyro_lebm.prior import EnergyPrior

Figures = dict[str, Any]
GAP = 0.1  # nats, wanted between the two sides of log Z
GAUSSIAN = 0.1  # nats, below which an energy is Gaussian in effect


def measure(cell: Cell, row: Row, data: Data, background: dict[str, Tensor] | None) -> Figures:
    """All figures of a row; those of its model where that is trained, some under one protocol."""
    effort = effort_of(cell)
    found: Figures = dict(row.trained)
    for share in cell.of.given:
        found[f"errors {share:g}"] = errors(cell, row, data, share)
    found |= without_energy(cell, row, data)
    if cell.trained_as != cell:
        return found
    found |= _prior(row, effort)
    if cell.protocol == "interpolation":
        found["generation"] = generation(row, data, effort)
        found["evidence"] = evidence(cell, row, data, effort)
        found["strange"] = strange(row, data, effort, background)
        if data.known is not None:
            found["meaning"] = meaning(row, data.known, effort)
    found["chains"] = mixing(row, data, effort)
    return found


def _prior(row: Row, effort: Effort) -> Figures:
    """The energy's strength, and log Z from both sides."""
    prior = row.model.prior
    if not isinstance(prior, EnergyPrior):
        return {}
    z = prior().sample((1000,)).requires_grad_(True)
    energy = prior.energy(z)
    (slope,) = torch.autograd.grad(energy.sum(), z)
    for rungs in (effort.prior_rungs, 4 * effort.prior_rungs):
        ratio = log_z(prior, particles=64, rungs=rungs)
        if abs(float(ratio.gap)) < GAP:
            break
    prior.log_z = ratio  # however good it is, which the table tells
    sd = float(energy.detach().std())
    return {
        "energy_sd": sd,
        "energy_slope": float(slope.norm(dim=-1).mean()),
        "gaussian_in_effect": sd < GAUSSIAN,
        "log_z": {
            "forward": float(ratio.estimate),
            "reverse": float(ratio.reverse),
            "gap": float(ratio.gap),
            "effective": float(ratio.effective),
            "rungs": rungs,
        },
    }
