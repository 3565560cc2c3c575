"""The sequences' benchmark runs, at sizes whose figures mean nothing; its scores are right."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from house import ROOT
from pyro_lebm import Series
from pyro_lebm.models import datasets
from pyro_lebm.models.datasets import lorenz_system

sys.path.append(str(ROOT / "benchmarks"))
import implicit
import sequences
import sequences_bound
import sequences_cell
import sequences_measure
import side_by_side
from sequences_picture import picture
from sequences_render import NAMES, PAIRS, render, render_implicit, render_into
from sequences_rows import ROWS, Cell, guide_of, model_of
from sequences_tasks import MISSING, NOISE, TASKS, centre

QUICK = ["--quick", "--seconds", "0.2", "--seeds", "1"]


@pytest.fixture
def within(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """Workers are called here, one at a time; yields the cells that were trained."""
    trained: list[str] = []

    def process(worker: Path, arguments: list[str], log: Path) -> int:
        assert worker.name == "sequences_cell.py"
        trained.append(Cell(**json.loads(arguments[0])).name)
        threads = torch.get_num_threads()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("default")
                sequences_cell.main(arguments)
        finally:
            torch.set_num_threads(threads)
        return 0

    monkeypatch.setattr(side_by_side, "process", process)
    monkeypatch.setattr(side_by_side, "WORKERS", 1)
    monkeypatch.chdir(tmp_path)
    yield trained


def test_a_task_is_trained_measured_taken_up_again_and_drawn(
    within: list[str], tmp_path: Path
) -> None:
    command = ["spirals", *QUICK, "--rows", "latent_ode", "ldidp_diffusion", "--json", "found"]
    sequences.main([*command, "--picture", "drawn.png"])
    path = tmp_path / "found" / "spirals_small.json"
    report = json.loads(path.read_text())
    rows = report["seeds"]["0"]
    assert set(rows) == {"latent_ode", "ldidp_diffusion"} == {x[:-6] for x in within}
    for row in rows.values():
        assert row["iterations"] > 0 and row["trained_seconds"] > 0 and row["parameters"] > 10
        assert 0 < row["mse"] < 10 and -1 <= row["correlation"] <= 1
        assert 0 <= row["coverage 0.5"] <= row["coverage 0.9"] <= 1 and row["crps"] > 0
        assert row["seconds_per_1000"] > 0 and row["mmd_floor"] > 0 and "bits" not in row
        assert [float(x) for x in row["noise"]] == [*NOISE]
        assert [float(x) for x in row["missing"]] == [*MISSING]
        # no noise, half missing: the same sequences, given alike in both
        assert row["noise"]["0"]["mse"] == pytest.approx(row["missing"]["0.5"]["mse"])
    assert (tmp_path / "drawn.png").stat().st_size > 5000
    kept = json.loads(next((tmp_path / "runs").rglob("latent_ode_seed0.json")).read_text())
    assert kept["row"]["mse"] == rows["latent_ode"]["mse"]

    within.clear()
    sequences.main(command)
    assert json.loads(path.read_text()) == report and not within  # taken up: nothing is trained
    path.unlink()
    sequences.main(command)
    assert json.loads(path.read_text())["seeds"] == report["seeds"] and not within


def test_spikes_are_scored_and_positions_hidden(within: list[str], tmp_path: Path) -> None:
    sequences.main(["reaching", *QUICK, "--rows", "gru_vae", "--json", "found"])
    report = json.loads((tmp_path / "found" / "reaching_small.json").read_text())
    row = report["seeds"]["0"]["gru_vae"]
    assert row["true_bits"] > row["bits"] and row["rate_r2"] < 1 and row["correlation"] < 1


@pytest.mark.parametrize("row", [*ROWS])
def test_every_row_is_what_its_name_says(row: str) -> None:
    cell = Cell(row, "lorenz", 0, quick=True)
    data = cell.data()
    torch.manual_seed(0)
    model = model_of(cell, data)
    guide: Any = guide_of(cell, data, model)
    kind = type(model).__name__
    names = {"ldidp": "DiffusionProcess", "langevin": "LangevinFlow", "gru": "RecurrentGenerator"}
    assert kind == names.get(row.split("_")[0], "LatentODE")
    assert model.generate(3, data.whole.times).shape == (3, 12, 5)
    if row.startswith("ldidp"):
        assert (model.stochasticity > 0) == ("diffusion" in row) == guide.targets
    if hasattr(model, "step"):
        # what the first observation says reaches the end by the history alone
        values = data.whole.values.clone()
        values[:, 0] += 1
        features = [guide.encoder(x)[:, -1] for x in (data.whole, data.whole._with(values=values))]
        assert torch.equal(*features) == row.endswith("markov")


def test_rates_begin_at_the_mean_counts() -> None:
    cell = Cell("gru_vae", "reaching", 0, quick=True)
    data = cell.data()
    spikes = model_of(cell, data).emission.emissions["spikes"]
    assert torch.allclose(spikes.network.layers[-1].bias.exp(), data.null[:5], rtol=1e-5)


# Tasks


@pytest.mark.parametrize("name", [*TASKS])
def test_what_is_given_is_as_the_task_says(name: str) -> None:
    cell = Cell("gru_vae", name, 1, quick=True)
    task, data = cell.of, cell.data()

    def cut(**how: float) -> Series:
        return task.cut(data, data.whole, torch.Generator().manual_seed(3), **how)

    given = cut()
    points, every = given.mask.any(-1).sum(1), data.whole.mask.any(-1).sum(1)
    assert torch.equal(points, (every * task.given).round().long())
    assert torch.equal(cut(missing=1 - task.given, noise=0.0).mask, given.mask)
    fewer = cut(missing=0.9).mask.any(-1).sum(1)
    assert torch.equal(fewer, (every * 0.1).round().clamp(min=1).long())
    if name == "reaching":
        assert not given.mask[..., -2:].any() and not task.view(data.train).mask[..., -2:].any()
    scored = task.scored(data.whole, given)
    if task.errors == "hidden":
        assert not (scored & given.mask).any()
        assert torch.equal(scored | given.mask, data.whole.mask)
    noisy = cut(noise=1.0)
    assert torch.equal(noisy.mask, given.mask)
    added = (noisy.values - data.whole.values)[noisy.mask]
    assert float(added.std()) > 0 and bool((added >= 0).all()) == task.counts


def test_added_noise_is_of_the_size_that_it_says() -> None:
    cell = Cell("gru_vae", "spirals", 0)
    data = cell.data()
    noisy = cell.of.cut(data, data.whole, torch.Generator().manual_seed(0), noise=0.3)
    added = (noisy.values - data.whole.values).flatten(0, 1).std(0) / data.sd
    # 5,000 draws a feature: the share's standard deviation is .003; 5 of these fail once in 10^6
    assert torch.allclose(added, torch.full((2,), 0.3), atol=0.015)


@pytest.mark.parametrize("name", ["spirals", "lorenz", "reaching"])
def test_seeds_and_splits_share_no_sequences(name: str) -> None:
    first, chosen, other = (
        Cell("", name, seed, validation=validation, quick=True).data()
        for seed, validation in ((0, False), (0, True), (1, False))
    )
    sets = [first.train, first.whole, chosen.whole, other.train, other.whole]
    rows = [tuple(x.tolist()) for series in sets for x in series.values.flatten(1)]
    rows += [tuple(x.tolist()) for x in first.real.flatten(1)]
    assert len({*rows}) == len(rows)
    assert torch.equal(first.train.values, chosen.train.values)


def test_the_real_series_is_split_by_date_and_centred_by_what_is_given() -> None:
    tested, chosen = (Cell("", "co2", 0, validation=v).data() for v in (False, True))
    series, known = datasets.co2(window=52, stride=13, truth=True)
    seen, start = series.mask.any(-1).float().mean(-1) > 0.5, known["start"]
    assert len(tested.whole) == int((seen & (start >= 1992)).sum()) > 10
    within = seen & (start >= 1985) & (start + float(series.times[-1]) < 1992)
    assert len(chosen.whole) == int(within.sum()) > 10
    # ppm: seasons of some 6 on a level; late years lie higher
    assert 1.0 < tested.factor < 4.0
    given = tested.whole.hide(0.5, torch.Generator().manual_seed(0))
    low, level = centre(given, True)
    sums = (low.filled * low.mask).sum(1)
    assert torch.allclose(sums, torch.zeros_like(sums), atol=1e-3)
    back = (low.values + level)[low.mask]
    assert torch.allclose(back, given.values[low.mask], atol=1e-5)
    assert float(level.std()) > 1.0  # the level itself is nobody's to learn


def test_intervals_are_of_what_was_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell("latent_ode", "spirals", 0, quick=True)
    data = cell.data()

    def copied(cell: Cell, row: Any, given: Series, draws: int, **_: Any) -> tuple[Any, Any]:
        noise = 0.01 * torch.randn(draws, *given.mask.shape)
        values = torch.where(given.mask, given.filled, 50.0) + noise
        return values, values

    monkeypatch.setattr(sequences_measure, "predicted", copied)
    found = sequences_measure.errors(cell, data, None)  # type: ignore[arg-type]
    assert found["coverage 0.9"] == 0.0 and found["miss"] == pytest.approx(0.7)


# What is rendered


def _row(mse: float, **more: Any) -> dict[str, Any]:
    made = {"hardware": "h", "torch": "t", "commit": "c"}
    robust = {
        "noise": {f"{x:g}": {"mse": mse + x} for x in NOISE},
        "missing": {f"{x:g}": {"mse": mse + x} for x in MISSING},
    }
    return {"mse": mse, "iterations": 7, "made": made, "code": "", **robust, **more}


def _report(task: str) -> dict[str, Any]:
    about = {"task": task, "seconds": 70.0, "scale": "small"}
    seeds = {
        str(seed): {
            "gru_vae": _row(0.010 + 0.001 * seed, rate_r2=0.90, bits=1.0),
            "langevin_flow": _row(0.008 + 0.001 * seed, rate_r2=0.98, bits=1.2),
        }
        for seed in range(3)
    }
    return {"about": about, "seeds": seeds}


def test_what_is_rendered_has_the_means_the_pairs_and_the_bound() -> None:
    best = {"rate_r2": {"mean": 1.0}, "bits": {"mean": 1.25}}
    text = render(_report("lorenz"), {"seeds": {str(seed): best for seed in range(3)}})
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line[:1] == "|"}
    # of .010, .011, .012: the mean .011, t(2) .001 / sqrt 3 = .00248
    assert any("| gru_vae |" in line and "11 ± 2.48" in line for line in text.splitlines())
    pair = lines["langevin_flow less gru_vae (3 seeds)"]
    assert pair.split("|")[2].strip() == "-2 [-2, -2]" and "0.2 [0.2, 0.2]" in pair
    assert "| langevin_flow | 0.98 (reached) | 0.96 (reached) |" in text
    assert "| gru_vae | 0.9 | 0.8 |" in text
    assert text.count("| langevin_flow less gru_vae (3 seeds) |") == 2  # and of robustness
    assert "90% missing" in text and "912 ± 2.48" not in text and "911 ± 2.48" in text
    assert "CRPS" not in text and "nan" not in text and "3 seeds" in text
    assert {name for pair in PAIRS for name in pair} == {*NAMES} and len({*PAIRS}) == len(PAIRS)
    assert {*ROWS} < {*NAMES}
    assert "| langevin_flow | LangevinFlow, counts decoded by a Transformer |" in text


def test_rows_without_a_training_tell_where_they_are_from() -> None:
    """What chose the windows is told where there are windows; nothing where no such row is."""
    report = {**_report("co2"), "plain": {"commit": "abc123"}}
    assert "abc123" not in render(report) and "training budget" not in render(_report("co2"))
    process, window = "Rows without a training budget: gaussian_process", "favours them"
    for seed, rows in report["seeds"].items():
        rows["gaussian_process"] = _row(0.006 + 0.001 * int(seed))
    text = render(report)
    assert process in text and "commit abc123." in text and window not in text
    # of seeds .008, .009, .010 less .006, .007, .008
    assert "| langevin_flow less gaussian_process (3 seeds) | 0.002 [0.002, 0.002] |" in text
    assert "less interpolation" not in text and "smoothed" not in text
    for rows in report["seeds"].values():
        rows["smoothed"] = rows.pop("gaussian_process")
    (told,) = (line for line in render(report).splitlines() if window in line)
    assert "smoothed, by `python benchmarks/sequences_plain.py`, commit abc123; valid" in told
    assert "known rates and positions" in told and process not in told


def test_sections_are_replaced_and_the_picture_is_of_all_tasks(tmp_path: Path) -> None:
    folder = tmp_path / "sequences"
    folder.mkdir()
    for task in TASKS:
        (folder / f"{task}_small.json").write_text(json.dumps(_report(task)))
    tables = tmp_path / "RESULTS.md"
    tables.write_text("# Results\n\nBefore.\n")
    render_into(folder, tables)
    first = tables.read_text()
    render_into(folder, tables)
    assert tables.read_text() == first and first.startswith("# Results\n\nBefore.")
    assert all(first.count(f"begin sequences {task}_small") == 1 for task in TASKS)
    assert picture([folder], tmp_path / "p.png").stat().st_size > 20_000
    with pytest.raises(SystemExit, match="picture: expected reports"):
        picture([tmp_path], tmp_path / "none.png")


# The bound, and few steps beside many


def test_the_bound_is_exact_smoothing() -> None:
    """Draws taken in parts weigh as all at once, each state with the states after it."""
    system = lorenz_system(4, points=6)
    generator = torch.Generator().manual_seed(0)
    counts = torch.poisson(system.rates(system.path(system.sample_initial(2, generator))))
    found = sequences_bound.smoothed(system, counts, paths=3, length=500, seed=5)
    twice = sequences_bound.Smoothing(system, counts)
    z = system.sample_initial(3, torch.Generator().manual_seed(5))
    longer = lorenz_system(4, points=506)
    path = longer.path(z)[:, :-1]
    twice.take(path[:, :255])  # 250 draws, then the others
    twice.take(path[:, 250:])
    draws = path.unfold(1, 6, 1).transpose(-1, -2).flatten(0, 1)
    assert len(draws) == 1500
    rates = system.rates(draws)
    fit = torch.distributions.Poisson(rates).log_prob(counts[:, None]).sum((-1, -2))
    weight = fit.softmax(-1)
    mean = torch.einsum("np,ptd->ntd", weight, rates)
    for each in (found, twice):
        assert torch.allclose(each.mean, mean, rtol=1e-6)
        assert torch.allclose(each.effective, 1 / weight.square().sum(-1), rtol=1e-6)


def test_the_bound_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bound.json"
    sequences_bound.main(["--quick", "--seeds", "1", "--json", str(path)])
    found = json.loads(path.read_text())["seeds"]["0"]
    for name in ("rate_r2", "bits"):
        assert found[name]["low"] <= found[name]["mean"] <= found[name]["high"]
        assert f"{name} {found[name]['mean']:.4f}" in capsys.readouterr().out or name == "bits"
    assert 0 < found["bits"]["mean"] < 1.2 * found["true_bits"]
    assert found["effective"]["median"] >= found["effective"]["least"] >= 1


def test_samplers_are_compared_in_one_run(tmp_path: Path) -> None:
    path = tmp_path / "implicit.json"
    threads = torch.get_num_threads()
    try:
        implicit.main(["--quick", "--seeds", "2", "--json", str(path)])
    finally:
        torch.set_num_threads(threads)
    report = json.loads(path.read_text())
    told = report["summary"]
    assert [*report["seeds"]] == ["0", "1"] and all(len(x) == 2 for x in report["seeds"].values())
    rows = [row for rows in report["seeds"].values() for row in rows]
    ratios = [
        row["ancestral"]["seconds_per_1000"] / row["implicit"]["seconds_per_1000"] for row in rows
    ]
    assert told["ancestral"]["times_slower"]["low"] == pytest.approx(min(ratios))
    more = told["ancestral"]["mmd_more"]
    assert more["low"] <= more["mean"] <= more["high"]
    text = render_implicit(report)
    assert "ancestral" in text and "annealed Langevin" in text and "nan" not in text


def test_the_training_asks_for_the_exact_denoiser() -> None:
    """Of a point, from any noise, whose own denoiser says the same of every value."""
    x = torch.tensor([[0.7, -0.4, 0.2]]).expand(64, 3)
    denoise, steps = implicit.trained(x, 0.8, 0)
    assert steps > 50
    start = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    drawn = implicit.samplers(False)["implicit"][1](denoise, start)
    # where the network begins the draws' distance from it is that of the noise, 1 or more
    assert float((drawn - x[0]).square().mean().sqrt()) < 0.4 < float((start - x[0]).std())
