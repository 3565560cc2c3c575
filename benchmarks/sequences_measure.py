"""What the sequences' benchmark says of a trained row."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from sequences_rows import Cell, Trained
from sequences_tasks import MISSING, NOISE, Data, centre, fresh_counts
from torch import Tensor

from pyro_lebm.inference import posterior_predict
from pyro_lebm.inference.scores import (
    bits_per_spike,
    correlation,
    crps,
    interval_calibration,
    median_bandwidth,
    mmd,
    mse,
    rate_r2,
    seconds_per_sequence,
)
from pyro_lebm.series import Series

Figures = dict[str, Any]
LEVELS = (0.5, 0.9)
LIMIT = 1e6  # what is not finite, or further out, counts as this


def measure(cell: Cell, data: Data, row: Trained) -> Figures:
    """All figures of a row."""
    begin = time.perf_counter()
    found: Figures = {
        "iterations": row.iterations,
        "trained_seconds": row.seconds,
        "parameters": sum(p.numel() for p in row.model.parameters()),
        **errors(cell, data, row),
        "noise": {f"{share:g}": _corrupted(cell, data, row, noise=share) for share in NOISE},
        "missing": {f"{share:g}": _corrupted(cell, data, row, missing=share) for share in MISSING},
        **generation(cell, data, row),
    }
    return {**found, "measured_seconds": time.perf_counter() - begin}


def errors(cell: Cell, data: Data, row: Trained) -> Figures:
    """Of what the task asks."""
    task, whole = cell.of, data.whole
    given = task.cut(data, whole, _generator(cell))
    means, values = predicted(cell, row, given, cell.sizes.draws, observations=task.predictive)
    mean, scored = means.mean(0), task.scored(whole, given)
    found: Figures = _errors(mean, data, scored)
    if task.counts:
        found |= _spikes(cell, data, mean)
    # Of what was given there is a copy: intervals are of what was not.
    hidden = scored & ~given.mask if task.predictive else scored
    target = whole.filled if task.predictive else data.truth
    calibration = interval_calibration(values, target, LEVELS, hidden)
    found |= {f"coverage {level:g}": x for level, x in calibration.coverage.items()}
    found |= {"miss": calibration.miss, "crps": data.factor * crps(values, target, hidden)}
    return found


def _errors(mean: Tensor, data: Data, scored: Tensor) -> Figures:
    shown = scored.any(0).any(0)  # features
    mean, truth, mask = mean[..., shown], data.truth[..., shown], scored[..., shown]
    return {
        "mse": data.factor**2 * mse(mean, truth, mask),
        "correlation": correlation(mean, truth, mask),
    }


def _spikes(cell: Cell, data: Data, mean: Tensor) -> Figures:
    neurons = cell.of.neurons
    rates, truth = neurons(mean).clamp(1e-6), neurons(data.truth)
    counts, null = fresh_counts(truth, cell.seed), neurons(data.null)
    return {
        "bits": bits_per_spike(rates, counts, null),
        "true_bits": bits_per_spike(truth, counts, null),
        "rate_r2": rate_r2(rates, truth),
    }


def _corrupted(cell: Cell, data: Data, row: Trained, **how: float) -> Figures:
    """Errors where another share is missing, or what is given has more noise."""
    few = torch.arange(min(cell.sizes.corrupted, len(data.whole)))
    task, whole = cell.of, data.whole[few]
    given = task.cut(data, whole, _generator(cell), **how)
    means, _ = predicted(cell, row, given, cell.sizes.corrupted_draws, observations=False)
    part = replace(data, whole=whole, truth=data.truth[few])
    return _errors(means.mean(0), part, task.scored(whole, None))


def predicted(
    cell: Cell, row: Trained, given: Series, draws: int, *, observations: bool
) -> tuple[Tensor, Tensor]:
    """Draws of the observations' means and, if asked for, of observations: ``(S, N, T, D)``."""
    given, level = centre(given, cell.of.centred)
    torch.manual_seed(cell.seed)
    z = row.guide.posterior(given, draws=draws, **row.options)
    means = _finite(posterior_predict(row.model, z, given, mean=True, batch_size=10)) + level
    if not observations:
        return means, means
    values = posterior_predict(row.model, z, given, batch_size=10)
    return means, _finite(values) + level


def _finite(x: Tensor) -> Tensor:
    """``(S, N, T, D)``, without numbers that no score could take."""
    return torch.nan_to_num(x.flatten(0, 1), nan=LIMIT, posinf=LIMIT).clamp(-LIMIT, LIMIT)


def generation(cell: Cell, data: Data, row: Trained) -> Figures:
    """What it costs to generate sequences, and how like fresh ones they are."""
    torch.manual_seed(cell.seed)
    whole = data.whole
    real = data.real
    times = whole.times
    grid = times if times.dim() == 1 else times[0]
    seconds = seconds_per_sequence(
        lambda n: row.model.generate(n, grid), cell.sizes.generated, repeats=3
    )
    drawn = _finite(row.model.generate(len(whole), times)[None, None])[0]
    seen = data.train.filled[: len(real)]  # what the best generator would be like, were it fresh
    width = median_bandwidth(real)
    return {
        "seconds_per_1000": 1000 * seconds,
        "mmd": mmd(drawn, real, width),
        "mmd_floor": mmd(seen, real, width),
    }


def _generator(cell: Cell) -> torch.Generator:
    """The same for all rows of a seed."""
    return torch.Generator().manual_seed(50 + cell.seed)
