"""The trainings of the tables: what pairs share is trained once, and each branch to the same end.

A branch has had as many seconds of a processor as if it had been trained alone.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from tables_models import Cell, Group, encoder_guide, latent_ode, with_energy
from tables_tasks import Data
from torch import Tensor

from pyro_lebm.base import FullNormal
from pyro_lebm.inference import (
    EncoderGuide,
    LangevinGuide,
    RefinedGuide,
    fit,
    fit_prior,
)
from pyro_lebm.inference.guides.guide import Guide
from pyro_lebm.models import LatentODE

STEM, COMMON = 0.9, 0.6  # shares of the time before a branch: with an encoder, without
REFINED = 0.4  # share of the last tenth that chains run before the energy is fitted
DRAWING = 0.25  # share, at most, of what is then left, that is spent on draws to fit it to
FLOOR = 0.02  # of a learning rate at the end, of that at the start


Spent = dict[str, float]


@dataclass(frozen=True)
class Row:
    """A trained row: what it says of sequences, by which inference.

    Attributes:
        trained: seconds of a processor, of the wall's clock, and iterations.
    """

    model: LatentODE
    guide: Guide
    trained: Spent


class Watch:
    """Seconds and iterations since a training began."""

    def __init__(self, before: Spent | None = None) -> None:
        self.since = (time.process_time(), time.perf_counter())
        self.before = before or {}
        self.iterations = 0

    def fit(self, *args: Any, **options: Any) -> None:
        self.iterations += len(fit(*args, clock=time.process_time, **options))

    def told(self) -> Spent:
        now = (time.process_time(), time.perf_counter())
        spent = [b - a for a, b in zip(self.since, now, strict=True)]
        found = {"cpu_seconds": spent[0], "seconds": spent[1], "iterations": self.iterations}
        return {name: value + self.before.get(name, 0) for name, value in found.items()}


# With an encoder


def train_encoder(cell: Cell, data: Data) -> dict[str, Row]:
    """Latent ODE and ODE-LEBM, by the encoder and by refined draws."""
    watch = Watch()
    model = latent_ode(cell)
    stem = encoder_guide(cell, model, data)
    _elbo(watch, cell, model, stem, data)
    before = watch.told()
    return {
        "latent_ode": _further(cell, stem, data, before),
        "ode_lebm_encoder": _encoded(cell, stem, data, before),
        "latent_ode_refined": _refined(cell, stem, data, before, energy=False),
        "ode_lebm_refined": _refined(cell, stem, data, before, energy=True),
    }


def train_whole(cell: Cell, data: Data) -> dict[str, Row]:
    """The latent ODE without a split into static and dynamic latents."""
    watch = Watch()
    model = latent_ode(cell, static=0)
    stem = encoder_guide(cell, model, data)
    _elbo(watch, cell, model, stem, data)
    return {"latent_ode_whole": _further(cell, stem, data, watch.told())}


def train_background(cell: Cell, data: Data) -> dict[str, Row]:
    """The latent ODE of sequences with noise, for the likelihood ratio (Ren et al. 2019)."""
    noise = 0.3 * data.train.values.std()
    noisy = data.train.values + noise * torch.randn_like(data.train.values)
    data = replace(data, train=type(data.train)(data.train.times, noisy))
    watch = Watch()
    model = latent_ode(cell)
    stem = encoder_guide(cell, model, data)
    _elbo(watch, cell, model, stem, data)
    return {"background": Row(model, stem, watch.told())}


def _elbo(watch: Watch, cell: Cell, model: LatentODE, guide: EncoderGuide, data: Data) -> None:
    watch.fit(
        model,
        guide,
        data.train,
        max_seconds=STEM * cell.seconds,
        learning_rate=cell.learning_rate,
        kl_warmup=0.1,
        horizon_warmup=cell.of.horizon,
        final_rate=FLOOR,
        seed=cell.seed,
        **_common(),
    )


def _common() -> dict[str, Any]:
    return {"batch_size": 50, "betas": (0.9, 0.95)}


def _late(cell: Cell, share: float) -> dict[str, Any]:
    """Settings of the last tenth: at the learning rate with which the others ended."""
    rate = FLOOR * cell.learning_rate
    return {"max_seconds": share * cell.seconds, "learning_rate": rate, "final_rate": 0.5}


def _moved(
    guide: EncoderGuide, model: LatentODE, data: Data, cell: Cell
) -> tuple[LatentODE, EncoderGuide]:
    """The encoder of a guide, copied, as a guide of a copied model."""
    model = copy.deepcopy(model)
    return model, EncoderGuide(
        model, data.train, copy.deepcopy(guide.encoder), view=partial(cell.of.view, cell.protocol)
    )


def _further(cell: Cell, stem: EncoderGuide, data: Data, before: Spent) -> Row:
    watch = Watch(before)
    model, guide = _moved(stem, stem.program.model, data, cell)
    late = _late(cell, 1 - STEM)
    watch.fit(model, guide, data.train, seed=cell.seed + 1, **late, **_common())
    return Row(model, guide, watch.told())


def _encoded(cell: Cell, stem: EncoderGuide, data: Data, before: Spent) -> Row:
    watch = Watch(before)
    base = FullNormal(cell.sizes.static + cell.sizes.latent)
    twin = with_energy(cell, stem.program.model, base, **NEGATIVES)
    model, guide = _moved(stem, twin, data, cell)
    with torch.no_grad():
        drawn = torch.cat([guide.propose(data.train).sample() for _ in range(8)])
    _fit_energy(watch, cell, model, drawn)
    return Row(model, guide, watch.told())


NEGATIVES: dict[str, Any] = {"num_chains": 1024, "refresh": 10, "steps": 3}


def _refined(cell: Cell, stem: EncoderGuide, data: Data, before: Spent, *, energy: bool) -> Row:
    watch = Watch(before)
    model, encoder = _moved(stem, stem.program.model, data, cell)
    guide = RefinedGuide(encoder, refine_from=0.0)
    share = (1 - STEM) * (REFINED if energy else 1.0)
    late = _late(cell, share)
    watch.fit(model, guide, data.train, seed=cell.seed + 1, **late, **_common())
    if energy:
        drawn = _visits(guide, data, DRAWING * _left(watch, cell))
        base = FullNormal(cell.sizes.static + cell.sizes.latent)
        model, encoder = _moved(encoder, with_energy(cell, model, base, **NEGATIVES), data, cell)
        chains = guide.chains
        guide = RefinedGuide(encoder, refine_from=0.0)
        guide.chains = chains
        _fit_energy(watch, cell, model, drawn)
    return Row(model, guide, watch.told())


def _visits(guide: Guide, data: Data, seconds: float) -> Tensor:
    """The chains go on: a third of the visits is to forget where they were, the rest are draws.

    There are twelve, or as many as fit in the seconds: a visit to videos takes one by itself.
    """
    begin, drawn = time.process_time(), list[Tensor]()
    guide.train()
    while len(drawn) < 12 and (len(drawn) < 2 or time.process_time() - begin < seconds):
        drawn.append(guide.draw(data.train))
    guide.eval()
    return torch.cat(drawn[len(drawn) // 3 :])


def _fit_energy(watch: Watch, cell: Cell, model: LatentODE, drawn: Tensor) -> None:
    """In what is left of the row's seconds, as drawing took some too; counted in no iterations."""
    fit_prior(
        model.prior,
        drawn,
        4e-3,
        max_seconds=max(_left(watch, cell), 0.01 * cell.seconds),
        clock=time.process_time,
        batch_size=400,
        final_rate=FLOOR,
        seed=cell.seed + 2,
    )


def _left(watch: Watch, cell: Cell) -> float:
    """Seconds of the row's."""
    return cell.seconds - watch.told()["cpu_seconds"]


# Without one


def train_langevin(cell: Cell, data: Data) -> dict[str, Row]:
    """Latent ODE and ODE-LEBM by persistent Langevin chains alone."""
    watch = Watch()
    model = latent_ode(cell, fine=True)
    stem = LangevinGuide(model, data.train, hot_until=0.25 / COMMON)
    at_branch = FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * COMMON)) / 2  # of one long cosine
    watch.fit(
        model,
        stem,
        data.train,
        max_seconds=COMMON * cell.seconds,
        learning_rate=cell.learning_rate,
        final_rate=at_branch,
        seed=cell.seed,
        **_alone(),
    )
    rows, before = {}, watch.told()
    for name in ("latent_ode_langevin", "ode_lebm_langevin"):
        further = Watch(before)
        twin = copy.deepcopy(model)
        if name.startswith("ode_lebm"):
            twin = with_energy(cell, model, cell.sizes.static + cell.sizes.latent)
        guide = LangevinGuide(twin, data.train, hot_until=0.0)
        guide.chains = copy.deepcopy(stem.chains)
        further.fit(
            twin,
            guide,
            data.train,
            max_seconds=(1 - COMMON) * cell.seconds,
            learning_rate=at_branch * cell.learning_rate,
            learning_rates={"prior.": 1e-3} if name.startswith("ode_lebm") else None,
            final_rate=FLOOR / at_branch,
            seed=cell.seed + 1,
            **_alone(),
        )
        rows[name] = Row(twin, guide, further.told())
    return rows


def _alone() -> dict[str, Any]:
    """What Langevin from scratch does better with: larger batches, whole series at once."""
    return _common() | {"batch_size": 100}


def train_short_run(cell: Cell, data: Data) -> dict[str, Row]:
    """The settings of the energy-prior papers (Pang et al. 2020): nothing persists, sigma .3."""
    watch = Watch()
    short: dict[str, Any] = {"negatives": "short_run", "sampler": "short_run"}
    size = cell.sizes.static + cell.sizes.latent
    plain = latent_ode(cell, fine=True, scale=0.3, learn_scale=False)
    model = with_energy(cell, plain, size, steps=60, step_size=0.4, **short)
    guide = LangevinGuide(
        model,
        data.train,
        steps=20,
        step_size=cell.of.short_step,
        hot_until=0.0,
        adjusted=False,
        restart=True,
    )
    watch.fit(
        model,
        guide,
        data.train,
        max_seconds=cell.seconds,
        learning_rate=cell.learning_rate,
        learning_rates={"prior.": 2e-5},
        final_rate=FLOOR,
        seed=cell.seed,
        **_alone(),
    )
    return {"ode_lebm_short_run": Row(model, guide, watch.told())}


TRAININGS: dict[Group, Callable[[Cell, Data], dict[str, Row]]] = {
    "encoder": train_encoder,
    "langevin": train_langevin,
    "short_run": train_short_run,
    "whole": train_whole,
    "background": train_background,
}
