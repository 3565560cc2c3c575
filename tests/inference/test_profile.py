"""Where the time of a run goes: the parts, their sum, and nothing where nobody asked."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import rotations
from pyro_lebm import EnergyPrior, MLPEnergy
from pyro_lebm.clock import Clock, timed
from pyro_lebm.inference import EncoderGuide, LangevinGuide, RefinedGuide, fit
from pyro_lebm.inference.training.profile import Profile
from pyro_lebm.models import LatentODE
from scalars import Scalars, scalars


def trained(kind: str = "langevin", **options: Any) -> Any:
    torch.manual_seed(0)
    series = rotations.swings(8)
    model = LatentODE(2, 1, prior=EnergyPrior(MLPEnergy(2, (16,)), 2, num_chains=32))
    encoder = EncoderGuide(model, series)
    guide = (
        LangevinGuide(model, series, steps=4, hot_until=0.0)
        if kind == "langevin"
        else RefinedGuide(encoder, steps=2, refine_from=0.0)
    )
    return fit(model, guide, series, progress=False, seed=0, **{"max_steps": 4, **options})


@pytest.mark.parametrize("kind", ["langevin", "refined"])
def test_the_parts_are_named_and_add_up(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    begin = time.perf_counter()
    history = trained(kind, profile=True, snapshot_every=2)
    whole = time.perf_counter() - begin
    table = history.profile
    assert set(table.index) == {
        "posterior chains",
        "prior chains",
        "guide and model",
        "parameters' gradient",
        "optimiser",
        "solver step",
        "snapshots",
        "everything else",
    }
    steps = history.column("seconds")
    assert float(steps[-1] - steps[0]) * 0.95 < table["seconds"].sum() < whole
    assert table["share"].sum() == pytest.approx(1)
    assert bool((table["seconds"] > 0).all())
    assert table["calls"]["posterior chains"] == table["calls"]["prior chains"] == 4
    assert table["calls"]["guide and model"] == 4
    assert table["calls"]["snapshots"] == 2 and table["calls"]["everything else"] == 1
    assert table["ms_per_step"].sum() == pytest.approx(1e3 * table["seconds"].sum() / 4)
    assert "posterior chains" in capsys.readouterr().out


def test_measuring_changes_no_number_and_none_is_kept_unasked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain, profiled = trained(), trained(profile=True)
    assert plain.profile is None
    assert torch.equal(plain.column("loss"), profiled.column("loss"))
    capsys.readouterr()
    trained()
    assert not capsys.readouterr().out


def test_checkpoints_and_validation_are_parts_too(tmp_path: Path) -> None:
    series, model = scalars(20), Scalars()
    history = fit(
        model,
        EncoderGuide(model, series),
        series,
        max_steps=3,
        profile=True,
        checkpoint=tmp_path / "run.pt",
        checkpoint_every=1,
        progress=False,
    )
    assert history.profile is not None
    assert history.profile["calls"]["checkpoint"] == 4 and "posterior chains" not in history.profile


def test_a_trace_has_the_parts_by_name(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "trace.json"
    history = trained(profile=file, max_steps=6)
    assert history.profile is not None
    names = {event.get("name") for event in json.loads(file.read_text())["traceEvents"]}
    assert {"posterior chains", "prior chains", "optimiser"} <= names


def test_a_run_too_short_for_a_trace_says_so(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    with pytest.warns(RuntimeWarning, match=r"more than 2 steps, .*trace\.json was not written"):
        trained(profile=file, max_steps=2)
    trained(profile=file, max_steps=3)
    assert file.exists()


def test_recording_a_trace_is_no_part_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(profiler: Any, path: str) -> None:
        time.sleep(0.5)

    monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", write)
    for steps in (3, 6):  # written at the run's end, and after the fifth step
        table = trained(profile=tmp_path / "trace.json", max_steps=steps).profile
        assert table["seconds"]["everything else"] < 0.4
    with Profile(tmp_path / "other" / "trace.json", torch.device("cpu"), rank=1).running():
        pass
    assert not (tmp_path / "other").exists()


def test_a_part_in_another_thread_is_counted() -> None:
    def negatives() -> None:
        with timed("negatives"):
            time.sleep(0.05)

    clock = Clock()
    with clock.running("rest"):
        thread = threading.Thread(target=negatives)
        thread.start()
        thread.join()
        with clock.stopped():
            time.sleep(0.2)
    assert clock.seconds["negatives"] >= 0.05 and clock.total < 0.2


def test_a_part_inside_another_is_not_counted_twice() -> None:
    clock = Clock()
    with clock.running("rest"):
        for _ in range(2):
            with timed("outer"):
                time.sleep(0.02)
                with timed("inner"):
                    time.sleep(0.05)
                with pytest.raises(KeyError), timed("inner"):
                    raise KeyError
    with timed("later"):  # nobody asks any more
        pass
    assert clock.calls == {"rest": 1, "outer": 2, "inner": 4}
    assert clock.seconds["inner"] >= 0.1 and clock.seconds["outer"] >= 0.04
    assert clock.total < 0.1 + clock.seconds["outer"] + 0.5 and clock.seconds["rest"] < 0.5
    assert clock.seconds["outer"] < 0.1  # it would be .14 with what is inside


def test_a_part_costs_next_to_nothing_where_no_clock_runs() -> None:
    begin = time.perf_counter()
    for _ in range(1000):
        with timed("part"):
            pass
    assert time.perf_counter() - begin < 0.05  # 50 microseconds each, at the very worst
