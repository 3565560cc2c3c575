"""The tables: a task at sizes whose figures mean nothing, taken up again, and what is rendered."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import warnings
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from house import ROOT
from pyro_lebm import Series
from scripts import run_script

sys.path.append(str(ROOT / "benchmarks"))
import tables_cell
import tables_kept
from tables import cells, jobs, needs, told_warnings
from tables_kept import Stage, key
from tables_pairs import differences
from tables_render import render, render_all
from tables_tasks import PROTOCOLS, TASKS

ROWS = {
    "latent_ode",
    "latent_ode_refined",
    "latent_ode_langevin",
    "ode_lebm_encoder",
    "ode_lebm_refined",
    "ode_lebm_langevin",
}
SECONDS = "0.5"
STAGES: tuple[Stage, ...] = ("train", "measure")
SETTINGS = {
    "seconds": 1.0,
    "scale": "small",
    "device": "cpu",
    "encoder": "gru",
    "emission": "mlp",
    "learning_rate": 1e-2,
    "validation": False,
    "quick": True,
    "groups": None,
}


@pytest.mark.parametrize("protocols", [PROTOCOLS, ("extrapolation",)])
@pytest.mark.parametrize("task", ["sines", "hopper"])
def test_what_a_job_needs_comes_before_it(task: str, protocols: tuple[str, ...]) -> None:
    of = cells(Namespace(task=task, protocol=protocols, **SETTINGS), seed=3)
    order = jobs(of)
    assert len({*order}) == len(order)
    assert {cell for cell, stage in order if stage == "measure"} == {*of}
    background = next((cell for cell in of if cell.group == "background"), None)
    assert (background is None) == ("interpolation" not in protocols)
    for place, job in enumerate(order):
        assert all(order.index(other) < place for other in needs(job, background))
    measured = [needs(job, background) for job in order if job[1] == "measure"]
    assert all((cell.trained_as, "train") in n for cell, n in zip(of, measured, strict=True))
    assert sum((background, "measure") in n for n in measured) == (len(of) - 1) * bool(background)


def test_what_is_kept_is_that_of_one_cell() -> None:
    of = cells(Namespace(task="sines", protocol=PROTOCOLS, **SETTINGS), seed=3)
    keys = [json.dumps(key(cell, stage)) for cell in of for stage in STAGES]
    assert len({*keys}) == len(keys)


def test_what_is_kept_stands_while_the_code_that_made_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in (ROOT / "benchmarks").glob("tables_*.py"):
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(tables_kept, "HERE", tmp_path)
    cell = cells(Namespace(task="sines", protocol=PROTOCOLS, **SETTINGS), seed=3)[0]
    tables_kept.tell(cell, "train", tmp_path)
    tables_kept.tell(cell, "measure", tmp_path, rows={})

    def stands() -> list[bool]:
        return [tables_kept.told(cell, stage, tmp_path) is not None for stage in STAGES]

    assert stands() == [True, True]
    for changed, left in (("tables_chains", [True, False]), ("tables_train", [False, False])):
        path = tmp_path / f"{changed}.py"
        path.write_text(path.read_text() + "# changed\n")
        assert stands() == left


def test_what_a_process_warned_of_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands in no log that somebody would read."""
    cell = cells(Namespace(task="sines", protocol=PROTOCOLS, **SETTINGS), seed=3)[0]

    def train(*_: object) -> None:
        warnings.warn("most is left out", stacklevel=1)

    monkeypatch.setattr(tables_cell, "train", train)
    monkeypatch.setattr(sys, "argv", ["", json.dumps(asdict(cell)), str(tmp_path), "train"])
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        tables_cell.main()
    found = told_warnings((cell, "train"), tmp_path)
    assert found == [f"{cell.name}, seed 3, train: most is left out"]


def test_extrapolation_is_scored_beyond_what_is_given_alone() -> None:
    whole, task = Series(torch.arange(12.0), torch.randn(5, 12, 14)), TASKS["hopper"]
    given = task.cut("extrapolation", whole, 0.5, torch.Generator().manual_seed(0))
    assert given.mask[:, :4].any() and not given.mask[:, 4:].any()
    scored = task.scored("extrapolation", whole)
    assert scored[:, 4:].all() and not scored[:, :4].any()  # nor what was hidden of the first third
    assert task.scored("interpolation", whole).all()


def run(*arguments: str, folder: Path) -> str:
    done = run_script(str(ROOT / "benchmarks/tables.py"), *arguments, cwd=folder)
    logs = [path.read_text()[-1500:] for path in folder.rglob("*.log")]
    assert done.returncode == 0, f"{done.stderr[-1500:]}\n{logs}"
    return done.stdout


def test_a_task_is_scored_taken_up_again_and_rendered(tmp_path: Path) -> None:
    # one test: what it takes a minute to make is made once, however many processes test
    report = made(tmp_path)
    check_pairs_had_the_same_seconds_and_every_row_its_scores(report)
    check_a_table_has_as_many_cells_in_each_line(report)
    check_what_is_rendered_stands_between_its_marks(report, tmp_path)


def made(folder: Path) -> dict[str, Any]:
    options = ["--quick", "--seconds", SECONDS, "--groups", "encoder", "langevin"]
    options += ["--protocol", "interpolation"]
    run("digits", *options, "--json", "f.json", folder=folder)
    found: dict[str, Any] = json.loads((folder / "f_interpolation.json").read_text())
    # finished trainings and scores are read, in which time nothing could be trained
    before = {p: p.stat().st_mtime_ns for p in folder.glob("runs/**/*_interpolation.*.json")}
    run("digits", *options, "--json", "again.json", folder=folder)
    assert before and before == {p: p.stat().st_mtime_ns for p in before}
    again = json.loads((folder / "again_interpolation.json").read_text())
    assert again["seeds"] == found["seeds"]
    return found


def check_pairs_had_the_same_seconds_and_every_row_its_scores(report: dict[str, Any]) -> None:
    rows = report["seeds"]["0"]
    assert set(rows) == ROWS
    for name, row in rows.items():
        energy = name.startswith("ode_lebm")
        assert ("energy_sd" in row) == ("log_z" in row) == energy
        assert float(SECONDS) <= row["cpu_seconds"] < float(SECONDS) + 8  # a step at each end
        assert row["errors 0.5"]["mse_hidden"] > 0 and len(row["errors 0.5"]["each"]) == 12
        assert (
            row["errors 0.5"]["mse_beyond"] > 0
            and row["errors 0.5"]["outside_mse"] > 0 < row["errors 0.5"]["mse_few"]
        )
        assert ("without E 0.5" in row) == (name in ("ode_lebm_refined", "ode_lebm_langevin"))
        assert {"mmd_drawn", "auc_drawn", "mmd_floor"} <= set(row["generation"])
        assert row["made"]["commit"] == row["trained"]["commit"] != ""
        assert ("base_estimate" in row["evidence"]) == ("mmd_base" in row["generation"]) == energy
        told = row["strange"]["digits left out"]
        assert {"log joint", "evidence", "reconstruction", "input complexity"} <= set(told)
        assert ("energy" in told) == energy
        assert set(row["meaning"]["blocks"]) == {"static", "dynamic"}
        assert "posterior" in row["chains"] and ("prior" in row["chains"]) == energy


def check_what_is_rendered_stands_between_its_marks(report: dict[str, Any], tmp_path: Path) -> None:
    results, tables = tmp_path / "results", tmp_path / "RESULTS.md"
    results.mkdir()
    tables.write_text("# Results\n\nBefore.\n")
    content = dict(report)
    content["seeds"] = {"0": content["seeds"]["0"], "1": content["seeds"]["0"]}
    (results / "digits_interpolation_small.json").write_text(json.dumps(content))
    render_all(results, tables)
    first = tables.read_text()
    assert first.startswith("# Results\n\nBefore.\n") and "ode_lebm_refined" in first
    tables.write_text(first + "\nAfter.\n")
    content["seeds"]["0"]["latent_ode"]["errors 0.5"]["mse"] = 98765.0
    content["seeds"]["0"]["ode_lebm_refined"]["without E 0.5"]["mse"] = 5.0
    content["seeds"]["1"]["ode_lebm_refined"]["without E 0.5"]["mse"] = 5.0
    (results / "digits_interpolation_small.json").write_text(json.dumps(content))
    render_all(results, tables)
    again = tables.read_text()
    assert again.endswith("\nAfter.\n") and again.count("begin digits_interpolation") == 1
    assert "98765" in again and "98765" not in first
    assert "| ode_lebm_refined, without E | 5" in again  # errors of the base alone
    assert "| ode_lebm_refined - ode_lebm_refined, without E | log p(x) |" in again


def check_a_table_has_as_many_cells_in_each_line(report: dict[str, Any]) -> None:
    text = render(report)
    for table in re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE):
        assert len({line.count("|") for line in table.strip().splitlines()}) == 1


def test_figures_that_came_do_not_mark_a_commit_as_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "benchmarks"
    (here / "results").mkdir(parents=True)
    figures = [here / "results" / "sines.json", here / "RESULTS.md"]
    code = tmp_path / "model.py"
    for file in (*figures, code):
        file.write_text("before")

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        command = ["git", *who, *arguments]
        return subprocess.run(command, cwd=here, check=True, capture_output=True, text=True).stdout

    git("init", "-q", "..")
    git("add", "..")
    git("commit", "-qm", "all")
    commit = git("rev-parse", "--short", "HEAD").strip()
    monkeypatch.setattr(tables_kept, "HERE", here)
    for file in figures:
        file.write_text("after")
    assert tables_kept._commit() == commit
    code.write_text("after")
    assert tables_kept._commit() == f"{commit}-dirty"


def test_one_lost_sequence_does_not_hide_what_the_others_gain() -> None:
    def row(gain: float, lost: float) -> dict[str, Any]:
        estimate = [1.0 + gain] * 4 + [1.0 + lost]
        return {"errors 0.5": {"mse": 0.1}, "evidence": {"estimate": estimate}}

    rows = {
        "ode_lebm_refined": [row(0.02, -9.0), row(0.04, -5.0)],
        "latent_ode": [row(0.0, 0.0), row(0.0, 0.0)],
    }
    lines = differences(rows, "sines", ["errors 0.5"]).splitlines()
    (mean,) = (line for line in lines if "| log p(x) |" in line)
    (median,) = (line for line in lines if "median over sequences" in line)
    assert float(mean.split("|")[3]) < -1
    assert float(median.split("|")[3]) == pytest.approx(100 * 0.03)
