"""Errors of the tables' rows, by each row's own inference, with its energy and without."""

from __future__ import annotations

from typing import Any

import torch
from tables_models import Cell
from tables_scores import finite, guide_of, model_without_energy
from tables_tasks import Data
from tables_train import Row
from torch import Tensor

from pyro_lebm.inference import EncoderGuide, RefinedGuide, posterior_predict
from pyro_lebm.inference.scores import crps
from pyro_lebm.prior import EnergyPrior
from pyro_lebm.series import Series

Figures = dict[str, Any]


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


def without_energy(cell: Cell, row: Row, data: Data) -> Figures:
    """The same row's errors when its prior is the base alone: what the energy is worth in them."""
    if not isinstance(row.model.prior, EnergyPrior) or isinstance(row.guide, EncoderGuide):
        return {}  # an encoder asks no prior
    model = model_without_energy(row)
    guide = guide_of(row, model, data)
    base = Row(model, RefinedGuide(guide) if isinstance(guide, EncoderGuide) else guide, {})
    return {f"without E {share:g}": errors(cell, base, data, share) for share in cell.of.given}
