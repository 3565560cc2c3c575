"""What the tables say of a trained model: generation, evidence, strangeness, meaning."""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from tables_models import Cell
from tables_tasks import MORE, Data, Known
from tables_train import Row
from torch import Tensor

from pyro_lebm.inference import EncoderGuide, LangevinGuide, RefinedGuide, log_evidence, strangeness
from pyro_lebm.inference.draws import Draws
from pyro_lebm.inference.guides.guide import Guide
from pyro_lebm.inference.scores import (
    block_r2,
    classifier_auc,
    dci,
    detection,
    median_bandwidth,
    mmd,
    mutual_information_gap,
    sap,
)
from pyro_lebm.models import LatentODE
from pyro_lebm.prior import EnergyPrior
from pyro_lebm.series import Series

Figures = dict[str, Any]
COMPONENTS = 30  # that the classifier of generated sequences sees
CLOSED = 1.0  # nats, within which both estimates of log p(x) of a sequence agree


@dataclass(frozen=True)
class Effort:
    """How much computing the scores are worth."""

    generated: int = 500
    rungs: int = 100
    prior_rungs: int = 400
    chain: int = 500
    population: int = 100  # draws of each independent annealing
    told: int = 50  # sequences of each kind that scores are to tell apart
    annealed: int = 16  # draws of each
    factors: int = 100  # that latents are asked about, of those that stand still and that move


FULL, QUICK = Effort(), Effort(20, 6, 6, 20, 4, 6, 4, 1)


def effort_of(cell: Cell) -> Effort:
    """That of a cell. A draw of a video costs more than ten of other sequences."""
    effort = FULL if cell.of.image is None else replace(FULL, population=25)
    return QUICK if cell.quick else effort


def finite(x: Tensor) -> Tensor:
    """A path that ran away is wrong by a lot, and not unknown."""
    return torch.nan_to_num(x, nan=1e3, posinf=1e3, neginf=-1e3).clamp(-1e3, 1e3)


def generation(row: Row, data: Data, effort: Effort) -> Figures:
    """Unconditional sequences against fresh data, with and without the energy, and the floor."""
    n, times = effort.generated, data.train.times
    real, more = (data.fresh(n, seed) for seed in MORE)
    width = median_bandwidth(real)
    samples = {"drawn": row.model.generate(n, times), "floor": more}
    if isinstance(row.model.prior, EnergyPrior):
        samples["base"] = model_without_energy(row).generate(n, times)
    found = {}
    for name, x in samples.items():
        x = finite(x.cpu())
        found[f"mmd_{name}"] = mmd(x, real, width)
        found[f"auc_{name}"] = classifier_auc(x, real, components=COMPONENTS)
    return found


def model_without_energy(row: Row) -> LatentODE:
    """The same model with its prior's base alone: what the energy has to do better than."""
    model, prior = copy.deepcopy(row.model), row.model.prior
    assert isinstance(prior, EnergyPrior)
    model.prior = prior.base
    return model


def evidence(cell: Cell, row: Row, data: Data, effort: Effort) -> Figures:
    """log p(x) of test sequences, nats a number observed, from both sides; also of the base."""
    series = data.familiar[torch.arange(cell.sizes.scored)]
    found = _evidence(cell, row.guide, series, effort)
    if isinstance(row.model.prior, EnergyPrior):
        base = _evidence(cell, guide_of(row, model_without_energy(row), data), series, effort)
        found |= {f"base_{name}": figure for name, figure in base.items()}
    return found


def guide_of(row: Row, model: LatentODE, data: Data) -> Guide:
    """A guide of another model, with the row's encoder if it has one."""
    of = row.guide.guide if isinstance(row.guide, RefinedGuide) else row.guide
    if isinstance(of, EncoderGuide):
        return EncoderGuide(model, data.train, of.encoder)
    return LangevinGuide(model, data.train)


def _evidence(cell: Cell, guide: Guide, series: Series, effort: Effort) -> Figures:
    ratio = log_evidence(
        guide, series, particles=cell.sizes.particles, repeats=2, rungs=effort.rungs
    )
    numbers = int(series.mask[0].sum())
    return {
        "estimate": (ratio.estimate / numbers).tolist(),
        "reverse": (ratio.reverse / numbers).tolist(),
        "gap": float(ratio.gap.median()),
        "closed": float((ratio.gap.abs() < CLOSED).double().mean()),
        "effective": float(ratio.effective.median()),
    }


def strange(
    row: Row, data: Data, effort: Effort, background: dict[str, Tensor] | None
) -> dict[str, dict[str, list[float]]]:
    """How well each score tells sequences of another kind: AUROC, AUPRC, FPR95."""
    scores, seen = {}, data.train.values
    limits = (float(seen.min()), float(seen.max()))
    for name, series in _kinds(data, effort).items():
        draws = _quickly_annealed(row, series, effort)
        known = None if background is None else background[name]
        log_p = draws.stats["log_evidence"][0, 0]
        scores[name] = strangeness(
            row.guide, series, draws=draws, log_p=log_p, background=known, limits=limits
        )
    return {
        name: {
            score: list(detection(_told(scores[""][score]), _told(each[score]))) for score in each
        }
        for name, each in scores.items()
        if name
    }


def _told(score: Tensor) -> Tensor:
    """A score that is no number is of a sequence that the model knows nothing of."""
    return torch.nan_to_num(score, nan=math.inf, posinf=math.inf, neginf=-math.inf)


def background_log_p(row: Row, data: Data, effort: Effort) -> dict[str, Tensor]:
    """log p(x) by a background model, of what `strange` tells apart."""
    return {
        name: _quickly_annealed(row, series, effort).stats["log_evidence"][0, 0]
        for name, series in _kinds(data, effort).items()
    }


def _kinds(data: Data, effort: Effort) -> dict[str, Series]:
    """The familiar ones, whose name is empty, and the strange ones."""
    few = torch.arange(min(effort.told, len(data.test)))
    return {name: x[few] for name, x in {"": data.familiar, **data.strange}.items()}


def _quickly_annealed(row: Row, series: Series, effort: Effort) -> Draws:
    """In steps as large as a ranking allows: the way to a strange sequence is long."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "annealed_smc: the target was not reached")
        return row.guide.annealed(series, effort.annealed, keep=0.3, moves=2)


def meaning(row: Row, known: Known, effort: Effort) -> Figures:
    """Which latents know what, of the posterior means of whole sequences."""
    z = _quickly_annealed(row, known.series, effort).flat("z0").mean(0)
    kinds = known.static, known.moving
    factors = {name: kind[name] for kind in kinds for name in [*kind][: effort.factors]}
    s = row.model.static
    found: Figures = {
        "mig": mutual_information_gap(z, factors),
        "sap": sap(z, factors),
        "dci": dict(dci(z, factors)._asdict()),
    }
    blocks = {"static": z[:, :s], "dynamic": z[:, s:]} if s else {"all": z}
    found["blocks"] = block_r2(blocks, factors)
    return found
