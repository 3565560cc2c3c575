"""The benchmarks run, at sizes whose figures mean nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import arviz
import matplotlib.image
import pytest

from scripts import run_script

ROOT = Path(__file__).parents[2]
SCORES = {"mse_all", "mse_observed", "mse_unobserved", "crps", "coverage_50", "coverage_90"}
COMMON = SCORES | {"generation_mmd", "train_seconds", "iterations"}


def run(script: str, *arguments: str, folder: Path) -> str:
    done = run_script(str(ROOT / "benchmarks" / script), "--quick", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_the_demo_writes_what_it_promises_and_can_be_taken_up_again(tmp_path: Path) -> None:
    printed = run("irregular_sines.py", "--demo", "--seconds", "1", folder=tmp_path)
    folder = tmp_path / "runs/irregular_sines"
    found = read(folder / "metrics.json")
    assert 0 < found["mmd_floor"] < 0.1
    methods = found["methods"]
    assert set(methods) == {
        "latent_ode",
        "latent_ode_refined",
        "ode_lebm_langevin",
        "ode_lebm_refined",
    }
    for name, row in methods.items():
        assert set(row) >= COMMON and name in printed
        assert ({"energy_sd", "energy_grad", "generation_mmd_base"} <= set(row)) == name.startswith(
            "ode_lebm"
        )
    shared = ("train_seconds", "iterations", "generation_mmd")
    one, other = methods["latent_ode"], methods["latent_ode_refined"]
    assert all(one[key] == other[key] for key in shared) and one["mse_all"] != other["mse_all"]
    groups = set(arviz.from_netcdf(folder / "posterior.nc").groups())  # type: ignore[no-untyped-call]
    assert {"posterior", "sample_stats", "predictions", "log_likelihood", "prior"} <= groups
    pictures = sorted(folder.glob("*.png"))
    assert len(pictures) == 4
    assert all(matplotlib.image.imread(path).std() > 0.01 for path in pictures)
    again = run("irregular_sines.py", "--demo", "--seconds", "1", "--resume", folder=tmp_path)
    assert read(folder / "metrics.json") == found and "wrote" in again


def test_the_other_task_has_all_rows(tmp_path: Path) -> None:
    options = ["--task", "extrapolation", "--seconds", "0.5", "--json", "f.json"]
    run("irregular_sines.py", *options, folder=tmp_path)
    found = read(tmp_path / "f.json")
    assert found["settings"]["task"] == "extrapolation"
    assert set(found["mean"]) >= {"latent_ode", "ode_lebm_refined", "ode_lebm_short_run"}
    assert all(set(row) >= COMMON for row in found["mean"].values())


def test_the_trajectorys_benchmark_reports_errors_and_ratios(tmp_path: Path) -> None:
    run("trajectory.py", "--json", "f.json", folder=tmp_path)
    found = read(tmp_path / "f.json")
    for result, points in zip(found["results"], (100, 1000), strict=True):
        assert result["points"] == points
        assert 0 < result["error_ours"]["rms"] <= result["error_dopri5"]["rms"]
        assert result["speedup"]["dopri5, torch.nn"]["ratio"] > 0
    assert found["training_step"]["speedup"]["ratio"] > 0


def test_the_kernels_benchmark_sets_every_way_beside_its_peers(tmp_path: Path) -> None:
    printed = run("kernels.py", "--only", "schools", "--json", "f.json", folder=tmp_path)
    found = read(tmp_path / "f.json")
    result = found["results"]["schools"]
    assert result["disagreement"] < 1e-3  # nats, between the Pyro and the NumPyro program
    rows = result["rows"]
    assert set(rows) >= {"Pyro NUTS", "Pyro NUTS, jit", "NumPyro NUTS", "NumPyroMCMC", "MALA"}
    for name, row in rows.items():
        assert name in printed and row["ess"] > 0 and row["ess_per_gradient"] > 0
        assert row["with_warmup"] < row["ess_per_second"]
    ratio = rows["NumPyroMCMC"]["ratio"]["NumPyro NUTS"]["ess_per_second"]
    assert ratio[0] <= ratio[1] <= ratio[2]
    assert [v["wanted"] for v in found["wanted"]] == [0.8, 15, 10]


def test_the_engines_benchmark_reports_ratios_and_how_near_they_are(tmp_path: Path) -> None:
    printed = run("speed.py", "--json", "f.json", folder=tmp_path)
    found = read(tmp_path / "f.json")
    assert [(c["size"], c["points"]) for c in found["chains"]] == [("small", 100)]
    for result in [*found["chains"], found["step"]]:
        plain, own = {"vjp", "eager"}, {"eager, own networks"}
        everything = plain | own | {"native", "xla, own networks"}
        assert plain | own <= set(result["speedup"]) <= everything
        assert all(each["ratio"] > 0 for each in result["speedup"].values())
    for result in found["chains"]:
        assert result["error_ours"] <= result["error_dopri5"]
        assert result["gradient_gap"] < 1e-3
        assert ("diffrax" in result["milliseconds"]) == ("diffrax: skipped" not in printed)
    assert "of sgemm's peak" in printed and "training step" in printed


def test_the_benchmark_of_processes_compares_losses_and_throughput(tmp_path: Path) -> None:
    printed = run("scale.py", "--json", "f.json", folder=tmp_path)
    found = read(tmp_path / "f.json")
    assert [part["fifth"] for part in found["loss"]] == [1, 2, 3, 4, 5]
    assert all(part["low"] <= part["difference"] <= part["high"] for part in found["loss"])
    assert found["speedup"]["ratio"] > 0 and found["processes"] == 2
    assert "throughput" in printed


def test_the_chains_benchmark_sets_every_kind_of_steps_beside_mala(tmp_path: Path) -> None:
    run("chains.py", "--json", "f.json", folder=tmp_path)
    found = read(tmp_path / "f.json")
    assert {"MALA", "MALT", "BAOAB"} <= set(found["rows"]) == set(found["ratio_to_MALA"])
    for kind, rows in found["rows"].items():
        assert all(row["ess"] > 0 and row["climb"] > 0 for row in rows), kind
        low, ratio, high = found["ratio_to_MALA"][kind]["ess"]
        assert 0 < low <= ratio <= high


def test_the_benchmark_of_growth_fits_slopes_and_draws_them(tmp_path: Path) -> None:
    options = ["--only", "times", "chains", "--engine", "vjp", "eager"]
    printed = run("growth.py", *options, "--json", "f.json", "--picture", "f.png", folder=tmp_path)
    found = read(tmp_path / "f.json")["axes"]
    assert list(found) == ["times", "chains"]
    for lines in found.values():
        assert [line["engine"] for line in lines] == ["vjp", "eager"]
        for line in lines:
            costs = (line["milliseconds"], line["first_seconds"])
            assert all(len(cost) == 5 and min(cost) > 0 for cost in costs)
            assert not line["left_out"] and line["slope"]["time"]["error"] >= 0
            # a workspace of some kilobytes grows with the times: resident pages can tell
            assert min(line["megabytes"]) >= 0 and max(line["megabytes"]) < 50
    assert "times T" in printed and "worse than linear" in printed
    assert matplotlib.image.imread(tmp_path / "f.png").std() > 0.01


def test_slopes_are_those_of_powers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import growth

    sizes = [10, 20, 40, 80, 160, 320]
    # below the middle, sqrt(10 * 320), costs are anything
    square = growth.slope(sizes, [7.0, 7.0, 7.0, *(x**2 for x in sizes[3:])])
    line = growth.slope(sizes, [5.0 * x for x in sizes])
    assert square is not None and line is not None
    assert square.value == pytest.approx(2.0) and square.worse
    assert line.value == pytest.approx(1.0) and not line.worse
    assert growth.Slope(1.2, 0.05).worse and not growth.Slope(1.2, 0.1).worse
    assert growth.slope(sizes[:2], [1.0, 2.0]) is None


# In a process of its own, whose memory allocator it changes.
HELD = """
import torch
from growth_point import Memory

memory = Memory("cpu")
memory.give_back_at_once()
torch.ones(256 * 2**18).sum()  # a peak of earlier, to be forgotten
before = memory.held()
memory.reset()
torch.ones(64 * 2**18).sum()  # and gone
print(memory.peak() - before)
"""


def test_memory_is_what_a_chain_holds_beyond_its_data() -> None:
    folder = ROOT / "benchmarks"
    done = subprocess.run([sys.executable, "-c", HELD], cwd=folder, capture_output=True, check=True)
    assert int(done.stdout) == pytest.approx(64 * 2**20, rel=0.25)


def test_the_time_to_an_error_is_read_off_the_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from math import inf

    from time_to_error import ratio, reached, soonest

    seconds = [0.0, 1.0, 2.0, 4.0]
    assert reached(seconds, [1.0, 1.0, 1.0, 0.01], 0.1) == pytest.approx(3.0)
    # to stay there: what went up again has not arrived
    assert reached(seconds, [1.0, 0.01, 1.0, 0.01], 0.1) == pytest.approx(3.0)
    assert reached(seconds, [1.0, 0.01, 0.01, 1.0], 0.1) == inf
    assert reached(seconds, [1.0, 1.0, None, 0.01], 0.1) == 4.0
    assert reached(seconds, [0.1, 0.1, 0.1, 0.1], 0.1) == 1.0
    both = ratio([20.0, 40.0], [10.0, 10.0], (50.0, 50.0))
    assert both["kind"] == "exactly" and both["mean"] == pytest.approx(8**0.5)
    assert both["low"] < both["mean"] < both["high"]
    # who did not arrive took longer than it trained, however long that would have been
    assert ratio([20.0, inf], [10.0, 10.0], (50.0, 50.0))["kind"] == "at least"
    assert ratio([20.0, inf], [10.0, 10.0], (50.0, 50.0))["seeds"] == [2.0, 5.0]
    assert "low" not in ratio([20.0, inf], [10.0, 10.0], (50.0, 50.0))
    assert ratio([20.0], [inf], (50.0, 80.0)) == {
        "seeds": [0.25],
        "kinds": ["at most"],
        "kind": "at most",
        "mean": pytest.approx(0.25),
    }
    assert ratio([20.0, inf], [inf, 10.0], (50.0, 50.0))["mean"] is None
    # of several trainings the one that gets there first counts
    rows = [{"seconds": s, "own": e} for s, e in zip(seconds, [1.0, 1.0, 1.0, 0.01], strict=True)]
    late = {"rows": [{**row, "seconds": 2 * row["seconds"]} for row in rows]}
    assert soonest([{"rows": rows}, late], "own", 0.1) == pytest.approx(3.0)


def test_the_benchmark_of_time_to_an_error_can_be_taken_up_again(tmp_path: Path) -> None:
    printed = run("time_to_error.py", "--json", "f.json", folder=tmp_path)
    found = read(tmp_path / "f.json")
    methods = ["latent_ode", "ode_lebm_refined", "ode_lebm_langevin", "obvious"]
    assert list(found["curves"]) == methods
    for method, ((shorter, result),) in found["curves"].items():
        rows = result["rows"]
        assert 2 * shorter["run"]["seconds"] == result["run"]["seconds"]
        assert method in printed and rows[0]["iterations"] == 0
        assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)
        assert all(0 < row[way] < 10 for row in rows for way in ("own", "annealed"))
    for way in ("own", "annealed"):
        end = found["curves"]["latent_ode"][0][-1]["validation"][way]
        assert found[way]["target"] == pytest.approx(1.05 * end)
        assert set(found[way]["ratio"]["ode_lebm_refined"]) == {"latent_ode", "obvious"}
    again = run("time_to_error.py", "--resume", "--json", "g.json", folder=tmp_path)
    assert read(tmp_path / "g.json") == found and "iterations a second" in again
