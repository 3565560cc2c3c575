"""Likelihoods that count for less: the density they make, and the choice by validation data."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from house import ROOT
from pyro_lebm import Series
from pyro_lebm.inference import LangevinGuide
from pyro_lebm.models import LatentODE
from pyro_lebm.programs.program import Program

sys.path.append(str(ROOT / "benchmarks"))
import tables_cell
import tables_kept
import tempered_likelihood as tempered
from tables_models import Cell
from tables_tasks import Data
from tables_train import Row

CELL = Cell("sines", "encoder", "extrapolation", seed=3, seconds=0.3, quick=True)


@pytest.mark.parametrize("power", [0.1, 1.0])
def test_the_likelihood_is_raised_and_the_prior_is_not(power: float) -> None:
    torch.manual_seed(0)
    model, series = LatentODE(3, 2), Series(torch.linspace(0, 1, 5), torch.randn(4, 5, 2))
    z = torch.randn(4, 3)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    with torch.no_grad():
        whole = Program.read(model, series).log_density(z)
        less = Program.read(tempered.tempered(model, power), series).log_density(z)
    torch.testing.assert_close(less, prior + power * (whole - prior), rtol=1e-5, atol=1e-4)


def test_trainings_are_taken_up_and_both_rows_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs/tables/sines_small_quick/seed3"
    folder.mkdir(parents=True)
    tables_cell.train(CELL, folder)
    tables_kept.tell(CELL, "train", folder)
    monkeypatch.chdir(tmp_path)
    arguments = ["", "sines", "--quick", "--powers", "1", "1e-4", "--json", "f.json"]
    monkeypatch.setattr(sys, "argv", arguments)
    tempered.main()
    report: dict[str, Any] = json.loads((tmp_path / "f.json").read_text())
    assert set(report["seeds"]) == {"3"} and set(report["seeds"]["3"]) == set(tempered.ROWS)
    printed = capsys.readouterr().out
    for name, by in report["seeds"]["3"].items():
        (found,) = by.values()
        # other data, and by powers so far apart other draws
        assert len({*found["validation"].values(), *found["test"].values()}) == 4
        assert any(line.startswith(f"| {name} ") for line in printed.splitlines())


def test_the_power_is_chosen_on_validation_data(monkeypatch: pytest.MonkeyPatch) -> None:
    test = CELL.data().test.values

    def errors(cell: Cell, power: Any, data: Data, share: float) -> dict[str, float]:
        if not isinstance(power, float):
            return {"mse": 9.0}  # the encoder's own
        return {"mse": power if torch.equal(data.test.values, test) else 1 / power}

    monkeypatch.setattr(tempered, "errors", errors)
    monkeypatch.setattr(tempered, "refined", lambda row, data, power: power)
    monkeypatch.setattr(tempered, "guide_of", lambda row, model, data: row.guide)
    row = Row(LatentODE(2, 1), LangevinGuide(LatentODE(2, 1), CELL.data().train), {})
    rows = dict.fromkeys(tempered.ROWS, row)
    seed = tempered.of_seed(CELL, rows, (0.5,), (0.5, 1.0, 2.0), lambda: None)
    for by in seed.values():
        assert by["0.5"]["chosen"] == "2" and by["0.5"]["encoder"] == 9.0
    text = tempered.rendered({"seeds": {"3": seed}})
    assert "| 50% | 900 | 100 | 200 | 2 |" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--powers", "0.5"], "positive numbers, 1 among them"),
        (["--powers", "1", "0"], "positive numbers, 1 among them"),
        ([], "expected trainings of this code; run tables.py sines first"),
    ],
)
def test_what_it_cannot_do_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["", "sines", *arguments])
    with pytest.raises(SystemExit) as stopped:
        tempered.main()
    assert message in f"{stopped.value}{capsys.readouterr().err}"
