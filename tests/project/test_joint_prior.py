"""The joint prior's benchmark runs, at sizes whose figures mean nothing."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from house import ROOT
from pyro_lebm.models.datasets.colour import RECORD
from scripts import run_script

sys.path.append(str(ROOT / "benchmarks"))
from joint_data import images, patches
from joint_models import ABLATIONS, ROWS, Cell, model_of
from joint_render import render, render_into


def run(*arguments: str, folder: Path) -> dict[str, Any]:
    done = run_script(str(ROOT / "benchmarks/joint_prior.py"), "--quick", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    path = folder / done.stdout.strip().splitlines()[-1]
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_rows_are_trained_measured_and_told(tmp_path: Path) -> None:
    rows = ["joint_network", "conditional", "two_stage", "ode_joint"]
    options = ["--seeds", "1", "--seconds", "0.5", "--rows", *rows]
    found = run(*options, folder=tmp_path)
    told = found["seeds"]["0"]
    assert set(told) == set(rows)
    ode = told.pop("ode_joint")
    assert ode["mmd_drawn"] > 0 and math.isfinite(ode["evidence"]["estimate"])
    for row in told.values():
        assert row["fidelity"]["frechet"] > row["fidelity"]["frechet_floor"] > 0
        assert 0 <= row["anomalies"]["log joint"]["auroc"] <= 1
    joint = told["joint_network"]
    assert len(joint["profile"]["energy"]) == 5 and "10" in joint["steps"]
    assert set(joint["posterior"]["layers"]) == {"z1", "z2"}
    assert math.isfinite(joint["evidence"]["estimate"]) and "evidence" not in told["conditional"]
    text = render({**found, "seeds": {"0": {**told, "ode_joint": ode}}})
    assert all(name in text for name in rows) and "nan" not in text
    assert all("code" in row for row in found["seeds"]["0"].values())
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*_seed0.json")}
    run(*options, folder=tmp_path)  # taken up: nothing is trained again
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_colour_images_at_full_size_run_on_a_small_file(tmp_path: Path) -> None:
    """The command of the README, on a file of the published format."""
    rng = np.random.default_rng(0)
    for name in ("data_batch_1.bin", "test_batch.bin"):
        records = rng.integers(0, 256, (120, RECORD), dtype=np.uint8)
        records[:, 0] = np.arange(120) % 10
        records.tofile(tmp_path / name)
    options = ["--scale", "full", "--data", "cifar10", "--folder", str(tmp_path)]
    found = run(
        *options, "--seeds", "1", "--seconds", "0.5", "--rows", "two_stage", folder=tmp_path
    )
    assert found["about"]["data"] == "cifar10" and "two_stage" in found["seeds"]["0"]


@pytest.mark.parametrize("row", [*ROWS, *ABLATIONS])
def test_every_row_is_what_its_name_says(row: str) -> None:
    torch.manual_seed(0)
    model = model_of(Cell(row=row, seed=0, quick=True), (1, 8, 8))
    names = {name for name, _ in model.named_parameters()}
    energies = any(".energ" in name for name in names)
    assert energies == (not row.startswith("hvae") and row != "vae")
    assert model.generate(3).shape == (3, 64)
    layers = int(row[-1]) if row[-1].isdigit() else 1 if row[:4] in ("vae", "lebm") else 2
    assert len(model.latents) == layers


def test_a_class_is_held_out_and_patches_are_of_the_shape() -> None:
    found = images("digits", None, 1, validation=False)
    assert len(found.train) < 1078 and len(found.real) + len(found.anomalies) == 360
    assert found.others.shape == found.real.shape and 0.05 < float(found.others.std()) < 0.5
    other = images("digits", None, 1, validation=True)
    assert other.train.shape == found.train.shape and not torch.equal(
        other.real[:9], found.real[:9]
    )
    assert patches(7, torch.Size((3, 32, 32))).shape == (7, 3, 32, 32)


def test_sections_are_replaced_and_not_repeated(tmp_path: Path) -> None:
    row = {"fidelity": {"frechet": 1.0}, "made": {"hardware": "h", "torch": "t", "commit": "c"}}
    about = {"data": "digits", "scale": "small", "seconds": 1.0, "steps": 9, "learning_rate": 0.1}
    report = {"about": about, "seeds": {"0": {"vae": row}}}
    (tmp_path / "digits_small.json").write_text(json.dumps(report))
    tables = tmp_path / "RESULTS.md"
    tables.write_text("# Results\n\nBefore.\n")
    render_into(tmp_path, tables)
    first = tables.read_text()
    render_into(tmp_path, tables)
    assert tables.read_text() == first and first.startswith("# Results\n\nBefore.")
    assert first.count("begin joint digits_small") == 1


def test_rows_are_paired_by_the_seeds_that_both_have() -> None:
    def row(frechet: float) -> dict[str, Any]:
        made = {"hardware": "h", "torch": "t", "commit": "c"}
        return {"fidelity": {"frechet": frechet}, "made": made}

    about = {"data": "digits", "scale": "small", "seconds": 1.0, "steps": 9, "learning_rate": 0.1}
    seeds = {
        "0": {"hvae": row(10.0)},
        "1": {"hvae": row(50.0), "joint_network": row(20.0)},
        "2": {"hvae": row(60.0), "joint_network": row(30.0)},
    }
    text = render({"about": about, "seeds": seeds})
    assert "2 or 3 seeds" in text
    (line,) = (x for x in text.splitlines() if x.startswith("| joint_network less hvae"))
    assert line.split("|")[1:3] == [" joint_network less hvae (2 seeds) ", " -30 [-30, -30] "]
