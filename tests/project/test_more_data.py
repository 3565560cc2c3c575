"""More training sequences: what differs is their number."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from house import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import more_data
from more_data import Larger

CELL = Larger("sines", "encoder", "extrapolation", seed=3, seconds=0.2, quick=True)


@pytest.mark.parametrize("train", [20, 40])
def test_there_are_as_many_sequences_as_asked_for(train: int) -> None:
    assert len(replace(CELL, train=train).data().train) == train


def test_errors_of_all_rows_stand_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["", "sines", "--train", "20", "40", "--seconds", "0.2", "--quick"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--json", "f.json"])
    more_data.main()
    sizes = json.loads(Path("f.json").read_text())["sizes"]
    assert [*sizes] == ["20", "40"] and len(sizes["20"]) == 4
    errors = [[row["0.5"] for row in rows.values()] for rows in sizes.values()]
    assert all(a != b and a > 0 < b for a, b in zip(*errors, strict=True))
    line = next(x for x in capsys.readouterr().out.splitlines() if "latent_ode | 0.5" in x)
    assert f"{100 * sizes['40']['latent_ode']['0.5']:.3g}" in line


def test_no_sequences_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["", "sines", "--train", "0"])
    with pytest.raises(SystemExit):
        more_data.main()
    assert "--train: expected positive numbers, got 0" in capsys.readouterr().err
