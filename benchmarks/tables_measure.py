"""What the tables say of a trained row: errors, its energy, and what is measured of its model."""

from __future__ import annotations

from typing import Any

import torch
from tables_chains import mixing
from tables_models import Cell
from tables_scores import Effort, effort_of, evidence, finite, generation, meaning, strange
from tables_tasks import Data
from tables_train import Row
from torch import Tensor

from pyro_lebm.inference import posterior_predict
from pyro_lebm.inference.scores import crps
from pyro_lebm.partition import log_z
from pyro_lebm.prior import EnergyPrior
from pyro_lebm.series import Series

Figures = dict[str, Any]
GAP = 0.1  # nats, wanted between the two sides of log Z
GAUSSIAN = 0.1  # nats, below which an energy is Gaussian in effect


def measure(cell: Cell, row: Row, data: Data, background: dict[str, Tensor] | None) -> Figures:
    """All figures of a row; those of its model where that is trained, some under one protocol."""
    effort = effort_of(cell)
    found: Figures = dict(row.trained)
    for share in cell.of.given:
        found[f"errors {share:g}"] = errors(cell, row, data, share)
    if cell.trained_as != cell:
        return found
    found |= _prior(row, effort)
    if cell.protocol == "interpolation":
        found["generation"] = generation(row, data, effort)
        found["evidence"] = evidence(cell, row, data, effort)
        found["strange"] = strange(row, data, effort, background)
        if data.known is not None:
            found["meaning"] = meaning(row, data.known, effort)
    found["chains"] = mixing(row, data, effort.chain)
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


def errors(cell: Cell, row: Row, data: Data, share: float) -> Figures:
    """Errors of the posterior mean by the row's own inference; per sequence too, for pairing."""
    found = _errors(cell, row, data.familiar, data.test, share)
    few = torch.arange(cell.sizes.scored)
    if cell.of.few is not None and cell.protocol == "interpolation":
        sparse = _errors(cell, row, data.familiar[few], data.test[few], cell.of.few)
        found["mse_few"] = sparse["mse"]
    if data.outside is not None:
        outside = data.outside[few].cut(float(data.train.times[-1]))
        other = _errors(cell, row, outside, data.outside[few], share)
        found |= {f"outside_{name}": other[name] for name in ("mse", "mse_beyond")}
    return found


def _errors(cell: Cell, row: Row, whole: Series, longer: Series, share: float) -> Figures:
    generator = torch.Generator().manual_seed(cell.seed)
    given = cell.of.cut(cell.protocol, whole, share, generator)
    draws = row.guide.posterior(given, draws=cell.sizes.draws)
    args = (row.model, draws, given, longer.times)
    mean = finite(posterior_predict(*args, mean=True, batch_size=4).flatten(0, 1)).mean(0)
    scored, hidden = cell.of.scored(cell.protocol, whole), whole.without(given).mask
    hidden = hidden & scored  # of a part that is given, gaps are not extrapolated
    until = whole.length
    square = (mean - longer.values).square()
    values = finite(posterior_predict(row.model, draws, given, batch_size=4))
    return {
        "mse": float(square[:, :until][scored].mean()),
        "mse_hidden": float(square[:, :until][hidden].mean()),
        "mse_beyond": float(square[:, until:].mean()) if longer.length > until else None,
        "crps": crps(values, whole.values, hidden),
        "each": _masked_mean(square[:, :until], scored).tolist(),
    }


def _masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Of each sequence."""
    return (x * mask).sum((1, 2)) / mask.sum((1, 2))
