"""What the joint prior's benchmark tells of a trained row."""

from __future__ import annotations

import copy
import math
import time
import warnings
from typing import Any

import pyro
import torch
from joint_chains import against_chains, prior_chains
from joint_data import Images
from joint_models import Cell
from joint_train import Row
from pyro import poutine
from torch import Tensor

from pyro_lebm.inference import BottomUpGuide, log_evidence, posterior_predict
from pyro_lebm.inference.draws import Draws
from pyro_lebm.inference.scores import ClassifierFeatures, classifier_features, detection, fidelity
from pyro_lebm.learned import LearnedDensity
from pyro_lebm.models.datasets import image_series
from pyro_lebm.partition import log_z
from pyro_lebm.series import Series

Figures = dict[str, Any]
STEPS = (10, 20, 40, 80, 160)
REPEATS = 5  # sets of generated images, each as large as the real ones


def measure(cell: Cell, row: Row, found: Images) -> Figures:
    """All figures of a row."""
    features = features_of(cell, found)
    told: Figures = {**row.trained, "features_accuracy": float(features.accuracy)}
    told["fidelity"] = _fidelity(cell, row, found, features)
    told["reconstruction"] = _reconstruction(row, found)
    told |= _strange(cell, row, found)
    told["scale"] = float(row.model.emission.scale)
    prior = energy_prior(row)
    if prior is not None:
        told["steps"] = _steps(cell, row, prior, found, features)
        told |= prior_chains(cell, prior)
    if cell.row != "conditional":
        told["evidence"] = _evidence(cell, row, found)
    if isinstance(row.guide, BottomUpGuide) and cell.row != "conditional":
        told["posterior"] = against_chains(cell, row, found)
    return told


def features_of(cell: Cell, found: Images) -> ClassifierFeatures:
    """The same network for all rows and seeds: its images are of all classes."""
    epochs = 1 if cell.quick else 40
    return classifier_features(*found.labelled, epochs=epochs, seed=0)


def energy_prior(row: Row) -> LearnedDensity | None:
    """The one energy of the row, of all layers or of the one there is."""
    modules = [m for m in row.model.prior.modules() if isinstance(m, LearnedDensity)]
    apart = any(hasattr(m, "context_dim") for m in row.model.prior.modules())
    return modules[0] if modules and not apart else None


# Generation


@torch.no_grad()
def generated(row: Row, n: int) -> Tensor:
    """Means of ``n`` images given their layers, ``(n, pixels)``."""
    with poutine.block(), poutine.trace() as trace:
        row.model(n=n)
    fn: Any = trace.trace.nodes["x_new"]["fn"]
    mean: Tensor = fn.mean[:, 0]
    return mean.clamp(0, 1).cpu()


def _fidelity(cell: Cell, row: Row, found: Images, features: ClassifierFeatures) -> Figures:
    sets = [generated(row, len(found.real)) for _ in range(1 if cell.quick else REPEATS)]
    return _compared(sets, found, features)


def _compared(sets: list[Tensor], found: Images, features: ClassifierFeatures) -> Figures:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fidelity: .* images are few")  # told in the text
        each = [fidelity(x, found.train, found.real, features) for x in sets]
    return {
        "frechet": sum(x.frechet for x in each) / len(each),
        "kernel": sum(x.kernel for x in each) / len(each),
        "frechet_floor": each[0].frechet_floor,
        "kernel_floor": each[0].kernel_floor,
    }


def _steps(
    cell: Cell, row: Row, prior: LearnedDensity, found: Images, features: ClassifierFeatures
) -> Figures:
    """Images of short runs from the base, by their length: what quality costs."""
    told: Figures = {}
    model, before = row.model, (prior.sampler, prior.steps)
    for steps in STEPS[:1] if cell.quick else STEPS:
        prior.sampler, prior.steps = "short_run", steps
        begin = time.process_time()
        images = generated(Row(model, row.guide, {}), len(found.real))
        spent = time.process_time() - begin
        told[str(steps)] = {**_compared([images], found, features), "cpu_seconds": spent}
    prior.sampler, prior.steps = before
    return told


# Of given images


def _draws(cell: Cell, row: Row, series: Series) -> Draws:
    return row.guide.posterior(series, draws=4 if cell.quick else 20)


def _reconstruction(row: Row, found: Images) -> float:
    """Mean squared error of a pixel, of the posterior's mean image."""
    series = image_series(found.real).to(_device(row))
    draws = row.guide.posterior(series, draws=20)
    mean = posterior_predict(row.model, draws, series, mean=True).mean((0, 1))
    return float((mean - series.values).square().mean())


def _device(row: Row) -> torch.device:
    return next(row.model.parameters()).device


def _strange(cell: Cell, row: Row, found: Images) -> Figures:
    """How the class held out, and images of another kind, are told from the familiar ones."""
    scores = {
        name: _scores(cell, row, image_series(images).to(_device(row)))
        for name, images in zip(
            ("familiar", "anomalies", "others"),
            (found.real, found.anomalies, found.others),
            strict=True,
        )
    }
    return {
        kind: {
            score: detection(scores["familiar"][score], scores[kind][score])._asdict()
            for score in scores["familiar"]
        }
        for kind in ("anomalies", "others")
    }


@torch.no_grad()
def _scores(cell: Cell, row: Row, series: Series) -> dict[str, Tensor]:
    """Higher where stranger: those of the papers, the unnormalised joint, and its two parts."""
    draws = _draws(cell, row, series)
    values = {name: draws.flat(name) for name in draws.sites}
    size = draws.num_chains * draws.num_draws
    conditioned = poutine.condition(row.model, data=values)
    with poutine.block(), pyro.plate("_draws", size, dim=-2):
        trace = poutine.trace(conditioned).get_trace(series)
    trace.compute_log_prob()
    parts: dict[str, Tensor] = {"x": torch.zeros(()), "z": torch.zeros(()), "tilt": torch.zeros(())}
    for name, node in trace.nodes.items():
        if node["type"] == "sample" and name != "sequences" and name != "_draws":
            kind = name if name in ("x", "tilt") else "z"
            parts[kind] = parts[kind] + node["log_prob"]
    joint = parts["x"] + parts["z"] + parts["tilt"]
    found = {
        "log joint": -joint.amax(0),
        "prior": -(parts["z"] + parts["tilt"]).mean(0),
        "reconstruction": -parts["x"].mean(0),
    }
    if parts["tilt"].ndim:
        found["energy"] = -parts["tilt"].mean(0)
    return {name: score.cpu() for name, score in found.items()}


def _evidence(cell: Cell, row: Row, found: Images) -> Figures:
    """log p(x) of test images from both sides, in nats an image."""
    model, prior = row.model, energy_prior(row)
    if prior is not None:
        rungs = 6 if cell.quick else 200
        told = log_z(prior, rungs=rungs, particles=64, repeats=4)
        constant = {"log_z": float(told.estimate), "log_z_gap": float(told.gap)}
    else:
        constant = {}
    few = image_series(found.real[: 6 if cell.quick else 50]).to(_device(row))
    ratio = log_evidence(
        copy.copy(row.guide), few, particles=8, repeats=2, rungs=6 if cell.quick else 100
    )
    assert model is row.guide.program.model
    return {
        **constant,
        "estimate": float(ratio.estimate.mean()),
        "each": ratio.estimate.tolist(),
        "gap": float(ratio.gap.median()),
        "nats_a_pixel": float(ratio.estimate.mean()) / math.prod(found.shape),
    }
