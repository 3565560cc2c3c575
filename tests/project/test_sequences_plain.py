"""The sequences' rows that need no training are what their names say, and stand in the tables."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Kernel, WhiteKernel

from house import ROOT
from pyro_lebm import Series
from pyro_lebm.inference.scores import rate_r2

sys.path.append(str(ROOT / "benchmarks"))
import sequences_plain as plain
from sequences_render import render_into, report_of
from sequences_rows import Cell
from sequences_tasks import TASKS

SMOOTH = ConstantKernel(1.0) * RBF(1.0) + WhiteKernel(0.04)
WAVE = ConstantKernel(1.0) * RBF(6.0) * plain.Cosine(0.9) + WhiteKernel(0.04)


def _drawn(kernel: Kernel, n: int, points: int) -> Series:
    """Sequences of a Gaussian process."""
    times = torch.arange(points) * 0.25
    root = torch.from_numpy(np.linalg.cholesky(kernel(times[:, None].numpy()))).float()
    values = torch.randn(n, points, generator=torch.Generator().manual_seed(0)) @ root.T
    return Series(times, values[..., None])


def _evidence(kernel: Kernel, series: Series) -> float:
    """Nats a point."""
    covariance = torch.from_numpy(kernel(series.times[:, None].double().numpy()))
    normal = torch.distributions.MultivariateNormal(torch.zeros(len(covariance)), covariance)
    return float(normal.log_prob(series.values[..., 0].double()).mean()) / len(covariance)


def test_lines_are_drawn_between_what_is_given() -> None:
    times = torch.tensor([0.0, 1.0, 3.0, 4.0, 5.0])
    mask = torch.tensor([[False, True, True, False, True]])
    given = Series(times, torch.tensor([[[9.0], [1.0], [2.0], [9.0], [4.0]]]), mask)
    mean, draws = plain.interpolation(given)
    assert mean.flatten().tolist() == [1.0, 1.0, 2.0, 3.0, 4.0] and draws is None


@pytest.mark.parametrize("true", [SMOOTH, WAVE], ids=["smooth", "oscillating"])
def test_the_process_is_the_one_that_the_data_are_of(true: Kernel) -> None:
    """Evidence of fresh data at most .02 nat a point below that of the true kernel.

    Some points are hidden in training, and what stands there is not of the process.
    """
    every = _drawn(true, 140, 30)
    train, fresh = every[torch.arange(60)], every[torch.arange(60, 140)]
    mask = train.mask.clone()
    mask[::2, 3::5] = False
    train = train._with(values=train.values.where(mask, 9.0), mask=mask)
    kernel = plain.fitted_kernel(train)
    assert _evidence(kernel, fresh) > _evidence(true, fresh) - 0.02
    if true is WAVE:  # which what is smooth cannot be near
        smooth = plain._fitted(plain._candidates(train)[0], plain._alike(train))[1]
        assert _evidence(kernel, fresh) > _evidence(smooth, fresh) + 0.1
        period = next(x for name, x in kernel.get_params().items() if name.endswith("__period"))
        assert period == pytest.approx(0.9, rel=0.02)


def test_of_the_kernels_that_with_the_greater_likelihood_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever comes first."""
    train = _drawn(WAVE, 20, 30)
    for kernels in ([SMOOTH, WAVE], [WAVE, SMOOTH]):
        monkeypatch.setattr(plain, "_candidates", lambda _, kernels=kernels: kernels)
        assert "Cosine" in str(plain.fitted_kernel(train))


def test_likelihoods_are_those_of_all_that_is_given() -> None:
    """Of sequences on one grid or on their own, of which some points are hidden."""
    series = _drawn(SMOOTH, 8, 12).hide(9, torch.Generator().manual_seed(1))
    for times in (series.times, series.times + 0.1 * torch.rand(8, 12)):
        train = Series(times, series.values.expand(-1, -1, 2), series.mask.expand(-1, -1, 2))
        found, kernel = plain._fitted(SMOOTH, plain._alike(train))
        total = 0.0
        for t, y, seen in zip(times.expand(8, -1), series.values, series.mask, strict=True):
            t, y, seen = t.double(), y.double()[..., 0], seen[..., 0]
            covariance = torch.from_numpy(kernel(t[seen, None].numpy()))
            normal = torch.distributions.MultivariateNormal(torch.zeros_like(y[seen]), covariance)
            total += 2 * float(normal.log_prob(y[seen]))
        assert found == pytest.approx(total, rel=1e-5)


def test_an_oscillation_has_its_covariance_and_gradient() -> None:
    kernel, t = plain.Cosine(0.7), np.array([[0.0], [0.35], [1.4], [2.0]])
    value, slope = kernel(t, eval_gradient=True)
    assert value[0, 1] == pytest.approx(-1.0) and value[0, 2] == pytest.approx(1.0)
    assert np.allclose(kernel(t, t[:2]), value[:, :2]) and np.allclose(kernel.diag(t), 1.0)
    step = 1e-6
    more, less = (kernel.clone_with_theta(kernel.theta + x)(t) for x in (step, -step))
    assert slope.shape == (4, 4, 1) and np.allclose(slope[..., 0], (more - less) / (2 * step))
    assert str(kernel) == "Cosine(period=0.7)"


def test_a_process_predicts_observations_with_their_noise() -> None:
    given = _drawn(SMOOTH, 200, 30).hide(15)
    mean, draws = plain.gaussian_process(given, kernel=SMOOTH, task=TASKS["spirals"], draws=50)
    assert draws is not None and torch.allclose(draws.mean(0), mean, atol=0.8)
    hidden = ~given.mask
    error = (given.values - mean)[hidden]
    # 3,000 points, in some 400 independent pieces: false alarms below 1e-4 at .3
    scale = error / draws.std(0)[hidden]
    assert float(scale.square().mean()) == pytest.approx(1.0, abs=0.3)


def test_windows_leave_out_what_is_hidden() -> None:
    counts, mask = torch.full((1, 9, 2), 3.0), torch.ones(1, 9, 2, dtype=torch.bool)
    counts[0, 4], mask[0, 4] = 100.0, False
    assert torch.allclose(plain.windowed(counts, mask, 1.5), torch.tensor(3.0))


@pytest.mark.parametrize("side", [-1, 1])
def test_windows_of_one_side_see_only_that_and_the_bin(side: int) -> None:
    counts, every = torch.zeros(1, 9, 1), torch.ones(1, 9, 1, dtype=torch.bool)
    counts[0, 4] = 1.0
    found = plain.windowed(counts, every, 2.0, side)[0, :, 0]
    sees = torch.arange(9) >= 4 if side < 0 else torch.arange(9) <= 4
    assert bool((found[sees] > 0).all()) and bool((found[~sees] == 0).all())
    # at the sequence's end, whose window ends with it: exp(-.5 (k / 2)^2) of k = 4, over their sum
    weight = torch.exp(-0.5 * (torch.arange(9.0) / 2).square())
    assert float(found[8 if side < 0 else 0]) == pytest.approx(float(weight[4] / weight.sum()))


def test_positions_are_told_by_how_spikes_change() -> None:
    """The position is the rate's slope, which windows around a bin alone do not have.

    The neuron fires by a wave, of which the slope is the wave a quarter of a period later.
    """
    source = torch.Generator().manual_seed(0)
    phase = 2 * torch.pi * torch.rand(80, 1, 1, generator=source)
    angle = phase + 2 * torch.pi * torch.arange(40.0)[None, :, None] / 20
    counts, position = 5 + 4 * angle.sin(), angle.cos()
    counts = torch.poisson(counts, source)
    every = torch.ones_like(counts, dtype=torch.bool)
    first, rest = torch.arange(60), torch.arange(60, 80)
    assert plain._bank(counts, every).shape[-1] == len(plain.WIDTHS) + 2 * len(plain.SIDED)
    for decode in plain._decoders(counts[first], position[first])[:3]:
        told = decode(counts[rest], every[rest])
        # of variance .5, of which windows around a bin alone leave all
        assert float((told - position[rest]).square().mean()) < 0.1


def test_rates_that_stay_are_smoothed_widely_and_projected() -> None:
    """The rates of a trial differ by one factor: components take off more of the noise."""
    cell = Cell("", "lorenz", 0, quick=True)
    data = cell.data()
    source = torch.Generator().manual_seed(0)
    rates = 2 * torch.rand(200, 1, 1, generator=source).expand(200, 12, 5)
    counts = torch.poisson(rates, source)
    whole = Series(torch.arange(12.0), counts)
    told = replace(data, train=whole, whole=whole, truth=rates)
    predict = plain.chosen(cell.of, told, told)["rates"]
    best, _ = plain.smoothed(whole, task=cell.of, rates=predict)
    widest = plain.windowed(counts, whole.mask, plain.WIDTHS[-1])
    assert rate_r2(best, rates) > rate_r2(widest, rates) > 0.5


@pytest.mark.parametrize("task", [*TASKS])
def test_figures_stand_beside_those_of_the_trained(task: str, tmp_path: Path) -> None:
    plain.main([task, "--quick", "--seeds", "1", "--json", str(tmp_path / "sequences_plain")])
    found = json.loads((tmp_path / "sequences_plain" / f"{task}_small.json").read_text())
    rows, plain_made = found["seeds"], found["made"]
    expected = {"smoothed"} if TASKS[task].counts else {"interpolation", "gaussian_process"}
    assert {*rows["0"]} == expected
    kernels = {name for name, row in rows["0"].items() if "kernel" in row}
    assert kernels == expected & {"gaussian_process"}
    for row in rows["0"].values():
        assert 0 < row["mse"] < 100 and row["noise"]["0"]["mse"] < row["noise"]["1"]["mse"]
        assert ("bits" in row) == TASKS[task].counts
    trained: dict[str, Any] = {"mse": 1.0, "made": {"hardware": "h", "torch": "t", "commit": "c"}}
    like = next(iter(rows["0"].values()))
    for how in ("noise", "missing"):
        trained[how] = {key: {"mse": 1.0} for key in like[how]}
    about = {"task": task, "scale": "small", "seconds": 1.0}
    path = tmp_path / "sequences" / f"{task}_small.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"about": about, "seeds": {"0": {"gru_vae": trained}}}))
    report = report_of(path)
    assert {*report["seeds"]["0"]} == {"gru_vae", *expected} and report["plain"] == plain_made
    (tmp_path / "RESULTS.md").write_text("")
    render_into(path.parent, tmp_path / "RESULTS.md")
    assert all(f"| {name} |" in (tmp_path / "RESULTS.md").read_text() for name in expected)
