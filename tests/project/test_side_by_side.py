"""The driver of benchmarks whose rows are trained side by side."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from house import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import side_by_side
from sequences_rows import Cell
from side_by_side import Kept, complete


class Counted:
    """A worker that writes a figure, and how often it was called."""

    def __init__(self, kept: Kept) -> None:
        self.kept, self.calls = kept, 0

    def __call__(self, worker: Path, arguments: list[str], log: Path) -> int:
        cell = Cell(**json.loads(arguments[0]))
        self.calls += 1
        self.kept.tell(cell, Path(arguments[1]), {"figure": self.calls}, ["a warning"])
        return 0


def test_changed_code_trains_anew_and_other_settings_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "code.py").write_text("x = 1\n")
    kept = Kept("worker.py", ("code",), tmp_path)
    worker = Counted(kept)
    monkeypatch.setattr(side_by_side, "process", worker)
    cells = [Cell(row, "spirals", seed) for row in ("gru_vae", "latent_ode") for seed in (0, 1)]
    path, folder = tmp_path / "report.json", tmp_path / "runs"

    def figures(about: str = "a") -> list[int]:
        report = complete(kept, cells, {"told": about}, path, folder)
        assert report == json.loads(path.read_text())
        return [report["seeds"][str(cell.seed)][cell.row]["figure"] for cell in cells]

    first = figures()
    assert sorted(first) == [1, 2, 3, 4] and figures() == first and worker.calls == 4
    path.unlink()
    assert figures() == first and worker.calls == 4  # from what cells left
    (tmp_path / "code.py").write_text("x = 2\n")
    assert sorted(figures()) == [5, 6, 7, 8]
    (folder / f"{cells[0].name}.json").write_text("{ half")
    path.unlink()
    assert figures()[0] == 9 and worker.calls == 9
    figures("b")  # other settings: a report of its own, of cells that stand
    assert worker.calls == 9


def test_a_worker_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code.py").write_text("")
    (tmp_path / "worker.py").write_text("raise SystemExit(3)")
    kept = Kept("worker.py", ("code",), tmp_path)
    with pytest.raises(SystemExit, match=r"gru_vae_seed0 failed \(3\): see .*gru_vae_seed0.log"):
        complete(kept, [Cell("gru_vae", "co2", 0)], {}, tmp_path / "r.json", tmp_path)
