"""What the sequences' tasks come to without a network: the least that one has to beat.

    python benchmarks/sequences_plain.py [TASK ...] [--seeds 3] [--json FOLDER] [--quick]

The tests, what they give, and the errors are those of ``sequences.py``. Of numbers: linear
interpolation, and scikit-learn's Gaussian process. Its kernel is smooth, or that with an
oscillation, whichever gives all training data the greater marginal likelihood. Of spikes: their
mean over a Gaussian window, on the first principal components of the training data's, and positions
by ridge regression on windows of several widths, around a bin, before it and after it. Widths,
components and the ridge are chosen on validation data, whose true rates and positions are known to
the choice, which favours these rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from irregular_sines import write_json
from scipy.optimize import minimize
from sequences_measure import LEVELS, _errors, _generator, _spikes
from sequences_rows import Cell
from sequences_tasks import MISSING, NOISE, POSITION, TASKS, Data, Task, centre
from sklearn.decomposition import PCA
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import (
    RBF,
    ConstantKernel,
    Hyperparameter,
    Kernel,
    Matern,
    NormalizedKernelMixin,
    StationaryKernelMixin,
    WhiteKernel,
)
from sklearn.linear_model import Ridge
from tables_kept import made
from torch import Tensor
from tqdm import tqdm

from pyro_lebm.inference.scores import crps, interval_calibration, mse, rate_r2
from pyro_lebm.series import Series

PLAIN = {
    "interpolation": "linear, between what is given",
    "gaussian_process": "a Gaussian process each feature, the likelier of two kernels",
    "smoothed": "spikes in windows, on principal components; positions by ridge regression",
}
RESULTS = Path(__file__).parent / "results" / "sequences_plain"
PERIODS = (1.0, 0.5, 0.25, 0.125)  # of an oscillation to begin with, shares of a sequence's time
WIDTHS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # standard deviations of windows, bins
SIDED = (1.5, 3.0, 6.0, 12.0)  # of windows before and after a bin
COMPONENTS = (2, 3, 4, 6, 10)
RIDGES = (1e-1, 1.0, 1e1, 1e2, 1e3)
# Means (N, T, D), and from those rows that have any, draws (S, N, T, D) of observations
Found = tuple[Tensor, Tensor | None]
Predict = Callable[[Series], Found]


# Numbers


def interpolation(given: Series) -> Found:
    """Linear; before the first and after the last point that is given, as there."""
    found = torch.zeros_like(given.values)
    for i, k, t, seen in _each(given):
        y = given.values[i, seen, k]
        found[i, :, k] = torch.from_numpy(np.interp(t, t[seen], y)).to(found)
    return found, None


def gaussian_process(given: Series, *, kernel: Kernel, task: Task, draws: int) -> Found:
    """Posterior means, and draws of observations, each point on its own."""
    given, level = centre(given, task.centred)
    mean, sd = torch.zeros_like(given.values), torch.zeros_like(given.values)
    for i, k, t, seen in _each(given):
        process = GaussianProcessRegressor(kernel, optimizer=None)
        process.fit(t[seen, None], given.values[i, seen, k].numpy())
        found = process.predict(t[:, None], return_std=True)  # the noise's variance is in it
        mean[i, :, k], sd[i, :, k] = (torch.from_numpy(x).to(mean) for x in found)
    source = torch.Generator().manual_seed(0)
    noise = torch.randn((draws, *mean.shape), generator=source)
    return mean + level, mean + level + sd * noise


class Cosine(StationaryKernelMixin, NormalizedKernelMixin, Kernel):  # type: ignore[misc]
    """An oscillation, ``cos(2 pi (t - s) / period)``, of which scikit-learn has none."""

    def __init__(
        self, period: float = 1.0, period_bounds: tuple[float, float] = (1e-5, 1e5)
    ) -> None:
        self.period, self.period_bounds = period, period_bounds

    @property
    def hyperparameter_period(self) -> Any:
        """As scikit-learn asks for it."""
        return Hyperparameter("period", "numeric", self.period_bounds)

    def __call__(self, t: Any, s: Any = None, eval_gradient: bool = False) -> Any:
        """Of times ``(T, 1)``; the gradient is that by the period's logarithm."""
        phase = 2 * np.pi * (t - (t if s is None else s).T) / self.period
        value = np.cos(phase)
        return (value, (phase * np.sin(phase))[..., None]) if eval_gradient else value

    def __repr__(self) -> str:
        return f"Cosine(period={self.period:.3g})"


def fitted_kernel(train: Series) -> Kernel:
    """Of the candidates, each fitted, that by which the marginal likelihood is greatest."""
    data = _alike(train)
    fitted = (_fitted(kernel, data) for kernel in _candidates(train))
    return max(fitted, key=lambda x: x[0])[1]


def _candidates(train: Series) -> list[Kernel]:
    """Kernels to begin from: a smooth one, and with it oscillations, whose likelihood has peaks."""
    gap = float(train.times.diff(dim=-1).median())
    span = float((train.times[..., -1] - train.times[..., 0]).median())
    lengths = (gap, 1e3 * gap)
    rough = ConstantKernel(0.1) * Matern(10 * gap, lengths, nu=1.5)
    smooth = ConstantKernel() * RBF(20 * gap, lengths) + rough + WhiteKernel(0.01)
    waves = (Cosine(share * span, (2 * gap, 4 * span)) for share in PERIODS)
    return [smooth, *(ConstantKernel() * RBF(span, lengths) * wave + smooth for wave in waves)]


def _alike(train: Series) -> list[tuple[Any, Any]]:
    """Times ``(T, 1)``, and all values ``(T, K)`` given at just these: of one covariance."""
    found: dict[bytes, tuple[Any, list[Any]]] = {}
    for i, k, t, seen in _each(train):
        at = t[seen, None]
        found.setdefault(at.tobytes(), (at, []))[1].append(train.values[i, seen, k].numpy())
    return [(t, np.stack(values, -1)) for t, values in found.values() if len(t)]


def _fitted(kernel: Kernel, data: list[tuple[Any, Any]]) -> tuple[float, Kernel]:
    """The greatest marginal log likelihood that is found, and the kernel that has it."""
    processes = [GaussianProcessRegressor(kernel, optimizer=None).fit(*each) for each in data]

    def loss(theta: Any) -> tuple[float, Any]:
        how: dict[str, Any] = {"eval_gradient": True, "clone_kernel": False}
        found = [x.log_marginal_likelihood(theta, **how) for x in processes]
        return -sum(value for value, _ in found), -sum(slope for _, slope in found)

    best = minimize(loss, kernel.theta, jac=True, method="L-BFGS-B", bounds=kernel.bounds)
    return -float(best.fun), kernel.clone_with_theta(best.x)


def _each(series: Series) -> list[tuple[int, int, Any, Any]]:
    """Sequence, feature, its times, and which of them are seen."""
    n, _, features = series.values.shape
    times = series.times.double().expand(n, -1).numpy()
    mask = series.mask.numpy()
    return [(i, k, times[i], mask[i, :, k]) for i in range(n) for k in range(features)]


# Spikes


def windowed(counts: Tensor, mask: Tensor, width: float, side: int = 0) -> Tensor:
    """Means over the observed of a Gaussian window, ``(N, T, D)``.

    With ``side`` -1 it ends with the bin itself, with 1 it begins there.
    """
    at = torch.arange(counts.shape[1], dtype=counts.dtype)
    ahead = at - at[:, None]
    weight = (-0.5 * (ahead / width).square()).exp() * (ahead * side >= 0)
    seen = mask.to(counts)
    return (weight @ (counts * seen)) / (weight @ seen).clamp(min=1e-6)


def smoothed(given: Series, *, task: Task, rates: Any, position: Any = None) -> Found:
    """Rates and, where there are any, positions."""
    counts, mask = task.neurons(given.filled), task.neurons(given.mask)
    found = rates(counts, mask)
    if position is not None:
        found = torch.cat([found, position(counts, mask)], -1)
    return found, None


def _projected(train: Tensor, width: float, components: int) -> Callable[[Tensor, Tensor], Tensor]:
    every = windowed(train, torch.ones_like(train, dtype=torch.bool), width)
    space = PCA(min(components, train.shape[-1])).fit(every.flatten(0, 1).numpy())

    def rates(counts: Tensor, mask: Tensor) -> Tensor:
        x = windowed(counts, mask, width)
        back = space.inverse_transform(space.transform(x.flatten(0, 1).numpy()))
        return torch.from_numpy(back).to(x).view_as(x).clamp(min=1e-3)

    return rates


def _bank(counts: Tensor, mask: Tensor) -> Any:
    """Windows ``(N T, ...)``: what is before less what is after also tells of velocities."""
    bank = [windowed(counts, mask, width) for width in WIDTHS]
    bank += [windowed(counts, mask, width, side) for width in SIDED for side in (-1, 1)]
    return torch.cat(bank, -1).flatten(0, 1).double().numpy()


def _decoders(train: Tensor, position: Tensor) -> list[Callable[[Tensor, Tensor], Tensor]]:
    """Of each penalty."""
    bank = _bank(train, torch.ones_like(train, dtype=torch.bool))
    target = position.flatten(0, 1).double().numpy()

    def decode(counts: Tensor, mask: Tensor, *, fitted: Ridge) -> Tensor:
        found = torch.from_numpy(fitted.predict(_bank(counts, mask)))
        return found.to(counts).view(*counts.shape[:2], -1)

    every = (Ridge(ridge, solver="cholesky").fit(bank, target) for ridge in RIDGES)
    return [partial(decode, fitted=fitted) for fitted in every]


def chosen(task: Task, data: Data, validation: Data) -> dict[str, Any]:
    """The widths, components and ridge that are best on validation data."""
    train, whole = task.neurons(data.train.filled), validation.whole
    counts, mask = task.neurons(whole.filled), task.neurons(whole.mask)
    tried = (_projected(train, *each) for each in product(WIDTHS, COMPONENTS))
    truth = task.neurons(validation.truth)
    found = {"rates": max(tried, key=lambda rates: rate_r2(rates(counts, mask), truth))}
    if task.kind == "mixed":
        position = data.train.filled[..., -POSITION:]
        decoders = _decoders(train, position)
        target = validation.truth[..., -POSITION:]
        found["position"] = min(decoders, key=lambda decode: mse(decode(counts, mask), target))
    return found


# Figures


def rows_of(cell: Cell, data: Data) -> dict[str, Predict]:
    """What a task is tried with."""
    task = cell.of
    if task.counts:
        validation = replace(cell, validation=True).data()
        return {"smoothed": partial(smoothed, task=task, **chosen(task, data, validation))}
    kernel = fitted_kernel(data.train)
    process = partial(gaussian_process, kernel=kernel, task=task, draws=cell.sizes.draws)
    return {"interpolation": interpolation, "gaussian_process": process}


def settings(predict: Predict) -> dict[str, str]:
    """The kernel that was kept, of the row that has one."""
    options = predict.keywords if isinstance(predict, partial) else {}
    return {"kernel": str(options["kernel"])} if "kernel" in options else {}


def figures(cell: Cell, data: Data, predict: Predict) -> dict[str, Any]:
    """As of the rows that are trained, less what only these have."""
    task, whole = cell.of, data.whole
    given = task.cut(data, whole, _generator(cell))
    mean, values = predict(given)
    scored = task.scored(whole, given)
    found: dict[str, Any] = {**settings(predict), **_errors(mean, data, scored)}
    if task.counts:
        found |= _spikes(cell, data, mean)
    if values is not None:
        hidden = scored & ~given.mask
        told = interval_calibration(values, whole.filled, LEVELS, hidden)
        found |= {f"coverage {level:g}": x for level, x in told.coverage.items()}
        found |= {"miss": told.miss, "crps": data.factor * crps(values, whole.filled, hidden)}
    few = torch.arange(min(cell.sizes.corrupted, len(whole)))
    part = replace(data, whole=whole[few], truth=data.truth[few])

    def corrupted(**how: float) -> dict[str, Any]:
        given = task.cut(data, part.whole, _generator(cell), **how)
        return _errors(predict(given)[0], part, task.scored(part.whole, None))

    found["noise"] = {f"{share:g}": corrupted(noise=share) for share in NOISE}
    found["missing"] = {f"{share:g}": corrupted(missing=share) for share in MISSING}
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tasks", choices=[*TASKS, []], nargs="*", metavar="TASK")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny: a check that it runs")
    parser.add_argument("--json", type=Path, help=f"folder; default results/{RESULTS.name}")
    args = parser.parse_args(arguments)
    if args.seeds < 1:
        parser.error(f"--seeds: expected at least 1, got {args.seeds}")
    folder = args.json or (None if args.quick else RESULTS)
    for task in args.tasks or TASKS:
        report: dict[str, Any] = {"made": made(Cell("", task, 0)), "seeds": {}}
        for seed in tqdm(range(args.seeds), desc=task, unit="seed", leave=False):
            cell = Cell("", task, seed, quick=args.quick)
            data = cell.data()
            rows = rows_of(cell, data)
            report["seeds"][str(seed)] = {name: figures(cell, data, f) for name, f in rows.items()}
        for name in rows:
            told = [f"{seed[name]['mse']:.4g}" for seed in report["seeds"].values()]
            print(f"{task}: {name}, mean squared errors of {len(told)} seeds {', '.join(told)}")
        if folder is not None:
            write_json(folder / f"{task}_small.json", report)
            print(folder / f"{task}_small.json")


if __name__ == "__main__":
    main()
