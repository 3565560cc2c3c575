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
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from house import ROOT
from pyro_lebm import Series
from pyro_lebm.inference.scores import rate_r2

sys.path.append(str(ROOT / "benchmarks"))
import sequences_plain as plain
from sequences_render import render_into, report_of
from sequences_rows import Cell
from sequences_tasks import TASKS


def _smooth(n: int, points: int) -> Series:
    """Of a Gaussian process with unit variance, length 1 and noise of variance .04."""
    times = torch.arange(points) * 0.25
    kernel = RBF(1.0)(times[:, None].numpy()) + 0.04 * np.eye(points)
    root = torch.from_numpy(np.linalg.cholesky(kernel)).float()
    values = torch.randn(n, points, generator=torch.Generator().manual_seed(0)) @ root.T
    return Series(times, values[..., None])


def test_lines_are_drawn_between_what_is_given() -> None:
    times = torch.tensor([0.0, 1.0, 3.0, 4.0, 5.0])
    mask = torch.tensor([[False, True, True, False, True]])
    given = Series(times, torch.tensor([[[9.0], [1.0], [2.0], [9.0], [4.0]]]), mask)
    mean, draws = plain.interpolation(given)
    assert mean.flatten().tolist() == [1.0, 1.0, 2.0, 3.0, 4.0] and draws is None


def test_the_process_is_the_one_that_the_data_are_of() -> None:
    """Evidence of fresh data at most .02 nat a point below that of the true kernel."""
    kernel = plain.fitted_kernel(_smooth(60, 30))
    fresh = _smooth(160, 30)[torch.arange(60, 160)]
    true = ConstantKernel(1.0) * RBF(1.0) + WhiteKernel(0.04)
    evidence = []
    for each in (kernel, true):
        covariance = torch.from_numpy(each(fresh.times[:, None].numpy()))
        normal = torch.distributions.MultivariateNormal(torch.zeros(30).double(), covariance)
        evidence.append(float(normal.log_prob(fresh.values[..., 0].double()).mean()) / 30)
    assert evidence[0] > evidence[1] - 0.02


def test_a_process_predicts_observations_with_their_noise() -> None:
    given, kernel = _smooth(200, 30).hide(15), ConstantKernel(1.0) * RBF(1.0) + WhiteKernel(0.04)
    mean, draws = plain.gaussian_process(given, kernel=kernel, task=TASKS["spirals"], draws=50)
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
    rows = json.loads((tmp_path / "sequences_plain" / f"{task}_small.json").read_text())["seeds"]
    expected = {"smoothed"} if TASKS[task].counts else {"interpolation", "gaussian_process"}
    assert {*rows["0"]} == expected
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
    assert {*report_of(path)["seeds"]["0"]} == {"gru_vae", *expected}
    (tmp_path / "RESULTS.md").write_text("")
    render_into(path.parent, tmp_path / "RESULTS.md")
    assert all(f"| {name} |" in (tmp_path / "RESULTS.md").read_text() for name in expected)
