"""Trainings of the joint prior's benchmark, each for the same seconds of a processor."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any

import torch
from joint_data import Images
from joint_models import Cell, guide_of, joint_of, model_of
from torch import Tensor, nn

from pyro_lebm.inference import BottomUpGuide, LangevinGuide, fit, fit_prior
from pyro_lebm.inference.guides.guide import Guide
from pyro_lebm.models import HierarchicalGenerator
from pyro_lebm.models.datasets import image_series

STAGE = 0.75  # share of the time that the hierarchy has before its energy, in two stages
ENERGY_FROM = 0.2  # of a training, before which energies are held at nothing
# of an energy, in terms of the others' rate: of .3 and 1 what did better on validation images;
# energies of a layer given another run away at both
ENERGY_RATES = {"lebm": 1.0, "joint": 0.3, "conditional": 0.1, "ode": 0.3}
FLOOR = 0.05  # of a learning rate at the end, of that at the start


@dataclass(frozen=True)
class Row:
    """A trained model and what infers its layers.

    Attributes:
        trained: seconds of a processor, of the wall's clock, and iterations.
    """

    model: HierarchicalGenerator
    guide: Guide
    trained: dict[str, float]


class Watch:
    """Seconds and iterations since a training began."""

    def __init__(self) -> None:
        self.since, self.iterations = (time.process_time(), time.perf_counter()), 0

    def fit(self, *args: Any, **options: Any) -> None:
        self.iterations += len(fit(*args, clock=time.process_time, progress=False, **options))

    def told(self) -> dict[str, float]:
        now = (time.process_time(), time.perf_counter())
        cpu, wall = (b - a for a, b in zip(self.since, now, strict=True))
        return {"cpu_seconds": cpu, "seconds": wall, "iterations": self.iterations}


def train(cell: Cell, found: Images) -> Row:
    """The row, trained."""
    torch.manual_seed(cell.seed)
    if cell.row == "two_stage":
        return _two_stage(cell, found)
    watch, model = Watch(), model_of(cell, found.shape)
    series = image_series(found.train).to(cell.device)
    guide: Guide = guide_of(cell, model, found)
    options: dict[str, Any] = {"kl_warmup": 0.1, "energy_from": ENERGY_FROM}
    if cell.row.endswith("langevin"):
        guide, options = LangevinGuide(model, series, hot_until=0.25), {"energy_from": ENERGY_FROM}
    langevin = isinstance(guide, LangevinGuide)  # fits closer, and so too close sooner
    options |= common(cell, cell.seconds) | {
        "max_steps": cell.steps // 2 if langevin else cell.steps,
        "learning_rates": rates(cell, model),
    }
    watch.fit(model, guide, series, **options)
    return Row(model, guide, watch.told())


def common(cell: Cell, seconds: float) -> dict[str, Any]:
    """What all trainings share."""
    return {
        "max_seconds": seconds,
        "batch_size": 100,
        "learning_rate": cell.learning_rate,
        "final_rate": FLOOR,
        "betas": (0.9, 0.99),
        "seed": cell.seed,
    }


def rates(cell: Cell, model: nn.Module) -> dict[str, float]:
    """Of the energies, by their parameters' prefixes."""
    rate = cell.learning_rate * ENERGY_RATES.get(cell.row.split("_")[0], 1.0)
    return {f"{name}.": rate for name, _ in model.named_modules() if name.endswith(".energy")}


def _two_stage(cell: Cell, found: Images) -> Row:
    """A hierarchical VAE, then the energy of its layers' posterior draws, all else as it is."""
    watch, model = Watch(), model_of(_like(cell, "hvae"), found.shape)
    series = image_series(found.train).to(cell.device)
    stem = guide_of(cell, model, found)
    options = common(cell, STAGE * cell.seconds) | {"max_steps": cell.steps}
    watch.fit(model, stem, series, kl_warmup=0.1, **options)
    drawn = layers_of(stem, series)
    joint = joint_of(cell, model)
    fit_prior(
        joint.prior,
        drawn,
        cell.learning_rate,
        max_seconds=max(cell.seconds - watch.told()["cpu_seconds"], 0.01 * cell.seconds),
        max_steps=cell.steps // 2,
        clock=time.process_time,
        batch_size=400,
        final_rate=FLOOR,
        progress=False,
        seed=cell.seed + 1,
    )
    guide = BottomUpGuide(joint, series, stem.encoder, layers=[*stem.layers])
    return Row(joint, guide, watch.told())


def _like(cell: Cell, row: str) -> Cell:
    found = copy.copy(cell)
    object.__setattr__(found, "row", row)
    return found


def layers_of(guide: BottomUpGuide, series: Any, draws: int = 8) -> dict[str, Tensor]:
    """Posterior draws of all sequences together, ``(draws * n, size)`` of each layer."""
    found = guide.posterior(series, draws=draws)
    return {name: found[name].flatten(0, 2) for name in found.sites}
