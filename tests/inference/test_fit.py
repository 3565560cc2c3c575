"""fit: what it trains, where the numbers end up, and which settings it refuses."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

from pyro_lebm.inference.training.fit import fit
from pyro_lebm.inference.training.history import History
from pyro_lebm.series import Series
from small_programs import QUIET, Encoder, Linear, changed, data, weights


def test_reaches_the_maximum_likelihood_in_the_modules_own_parameters() -> None:
    series = data(256)
    torch.manual_seed(0)
    model, guide = Linear(), Encoder()
    held = dict(model.named_parameters())
    history = fit(
        model, guide, series, max_steps=800, learning_rate=0.03, final_rate=0.01, seed=1, **QUIET
    )
    x = series.values[..., 0]
    # Exact: principal component of the covariance, noise variance known to be 1.
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    weight = vectors[:, -1] * (values[-1] - 1).sqrt()
    assert all(p is held[name] for name, p in model.named_parameters())
    fitted = model.net.weight.detach().flatten()
    assert torch.allclose(fitted * fitted.sum().sign(), weight * weight.sum().sign(), atol=0.1)
    assert torch.allclose(model.net.bias.detach(), x.mean(0), atol=0.1)
    assert guide.scale.item() == pytest.approx((1 / values[-1]).sqrt().item(), abs=0.05)
    loss = history.column("loss")
    assert loss[-50:].mean() < 0.8 * loss[:10].mean()
    assert not model.training and not guide.training


def test_each_epoch_visits_every_sequence_once() -> None:
    visits: list[Tensor] = []

    class Watched(Linear):
        refreshed = 0

        def refresh(self, series: Series) -> None:
            assert len(series) == 50
            self.refreshed += 1

        def forward(self, series: Series) -> None:
            assert series.total == 50
            visits.append(series.index)
            super().forward(series)

    model = Watched()
    history = fit(model, Encoder(), data(50), max_steps=8, **QUIET)
    assert [len(v) for v in visits[1:5]] == [16, 16, 16, 2]
    for epoch in (visits[1:5], visits[5:9]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(50))
    assert not torch.equal(visits[1], visits[5])
    assert history.column("epoch").tolist() == [0.0] * 4 + [1.0] * 4
    assert model.refreshed == 2


def test_looking_for_parameters_leaves_no_trace() -> None:
    class Counting(Encoder):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("visits", torch.zeros(64), persistent=False)

        def forward(self, series: Series) -> None:
            self.visits[series.index] += 1
            torch.randn(3)
            super().forward(series)

    guide = Counting()
    fit(Linear(), guide, data(), max_steps=3, **QUIET)
    assert guide.visits.sum() == 3 * 16


def test_equal_names_in_two_fits_stay_apart() -> None:
    torch.manual_seed(0)
    first, second = Linear(), Linear()
    pyro.get_param_store().clear()
    fit(first, Encoder(), data(mean=5.0), max_steps=200, learning_rate=0.05, **QUIET)
    after_first = weights(first)
    start = weights(second)
    fit(second, Encoder(), data(mean=-5.0), max_steps=1, learning_rate=1e-6, **QUIET)
    assert not changed(first, after_first)
    assert all(torch.allclose(p, start[name], atol=1e-5) for name, p in second.named_parameters())
    fit(second, Encoder(), data(mean=-5.0), max_steps=200, learning_rate=0.05, **QUIET)
    assert not changed(first, after_first)
    assert first.net.bias.mean() > 1 and second.net.bias.mean() < -1
    assert not list(pyro.get_param_store().keys())


def test_the_global_store_is_neither_read_nor_written() -> None:
    store = pyro.get_param_store()
    store.clear()
    store["net$$$weight"] = torch.full((2, 1), 7.0)
    try:
        model = Linear()
        fit(model, Encoder(), data(), max_steps=3, **QUIET)
        assert list(store.keys()) == ["net$$$weight"]
        assert torch.equal(store["net$$$weight"].detach(), torch.full((2, 1), 7.0))
        assert bool((model.net.weight.abs() < 3).all())
    finally:
        store.clear()


def test_plain_modules_with_pyro_module_statements_are_trained_too() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(2))
            # Not contiguous: Pyro's store would train a copy of it.
            self.weight = nn.Parameter(torch.ones(3, 2).t())

        def forward(self, series: Series) -> None:
            pyro.module("plain", self)
            loc = self.bias + self.weight.sum(-1)
            with pyro.plate("sequences", series.total, subsample=series.index):
                x = dist.Normal(loc.unsqueeze(-1), 1.0).to_event(2)
                pyro.sample("x", x, obs=series.values)

    class Nothing(nn.Module):
        def forward(self, series: Series) -> None: ...

    model = Plain()
    before = weights(model)
    history = fit(model, Nothing(), data(mean=9.0), max_steps=300, learning_rate=0.1, **QUIET)
    assert changed(model, before) == {"bias", "weight"}
    assert torch.allclose(
        (model.bias + model.weight.sum(-1)).detach(), data(mean=9.0).values.mean(0)[:, 0], atol=0.2
    )
    assert history.loss_name == "negative ELBO"


@pytest.mark.parametrize("batch_size", [8, 16])  # full batches too must find their own locations
def test_an_autoguide_works_as_it_is(batch_size: int) -> None:
    model = Linear()
    guide = AutoNormal(
        model,
        create_plates=lambda series: pyro.plate("sequences", series.total, subsample=series.index),
    )
    series = data(16)
    fit(
        model,
        guide,
        series,
        max_steps=300,
        batch_size=batch_size,
        learning_rate=0.1,
        seed=0,
        progress=False,
    )
    located = guide.locs.z0.detach().flatten() * model.net.weight.detach().sum().sign()
    truth = series.values.mean(1).flatten()
    assert torch.corrcoef(torch.stack([located, truth]))[0, 1] > 0.95


def test_a_seed_reproduces_a_run() -> None:
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        runs.append(fit(Linear(), Encoder(), data(), max_steps=5, seed=seed, **QUIET))
    losses = [run.column("loss").tolist() for run in runs]
    assert losses[0] == losses[1] != losses[2]


def test_trained_modules_pickle() -> None:
    model = Linear()
    fit(model, Encoder(), data(), max_steps=2, **QUIET)
    copy = pickle.loads(pickle.dumps(model.net))
    assert torch.equal(copy.weight, model.net.weight)


def test_time_ends_a_run() -> None:
    history = fit(Linear(), Encoder(), data(), max_seconds=0.3, **QUIET)
    assert len(history) > 2
    assert 0.2 < history.column("seconds")[-1] < 3.0
    assert history.column("learning_rate")[-1] < 0.5 * history.column("learning_rate")[0]


def test_the_clock_may_be_another() -> None:
    ticks = iter(range(1000))
    history = fit(Linear(), Encoder(), data(), max_seconds=40, clock=lambda: next(ticks), **QUIET)
    seconds = history.column("seconds").tolist()
    assert seconds == sorted(seconds) and 35 < seconds[-1] <= 40
    assert history.column("learning_rate")[-1] < 0.2 * history.column("learning_rate")[0]


def test_the_bar_shows_loss_and_acceptance(capsys: pytest.CaptureFixture[str]) -> None:
    class Reporting(Encoder):
        def statistics(self) -> dict[str, float]:
            return {"acceptance": 0.25}

    history = fit(Linear(), Reporting(), data(), max_steps=3, progress=True)
    shown = capsys.readouterr().err
    assert "loss=" in shown and "acceptance=0.25" in shown and "3/3" in shown
    assert history.column("acceptance").tolist() == [0.25] * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_steps": None}, "max_steps, max_seconds: expected at least one of them"),
        ({"max_steps": 0}, "max_steps: expected a whole number of at least 1, got 0"),
        ({"max_seconds": -1.0}, "max_seconds: expected a positive number"),
        ({"batch_size": 0}, "batch_size: expected a whole number"),
        ({"learning_rate": 0.0}, "learning_rate: expected a positive number"),
        ({"learning_rates": {"net.": -1.0}}, r"learning_rates\['net.'\]: expected a number"),
        ({"learning_rates": {"net": 1e-3, "energy.": 1e-3}}, "prefix 'energy.' matches no param"),
        ({"final_rate": 1.5}, "final_rate: expected a fraction"),
        ({"rate_warmup": -0.1}, "rate_warmup: expected a fraction"),
        ({"kl_warmup": math.nan}, "kl_warmup: expected a fraction"),
        ({"horizon_warmup": -0.1}, "horizon_warmup: expected a fraction"),
        ({"betas": (0.9, 1.0)}, "betas: expected two numbers in"),
        ({"energy_from": -0.1}, "energy_from: expected a fraction"),
        ({"clip_norm": 0.0}, "clip_norm: expected a positive number"),
        ({"snapshot_every": 0}, "snapshot_every: expected a whole number"),
        ({"max_rollbacks": -1}, "max_rollbacks: expected a whole number of at least 0"),
        ({"checkpoint_every": 0}, "checkpoint_every: expected a positive number"),
        ({"resume": True}, "resume: expected a checkpoint to resume from, got checkpoint=None"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    model = Linear()
    before = weights(model)
    with pytest.raises(ValueError, match=message):
        fit(model, Encoder(), data(), **{"max_steps": 1, **QUIET, **settings})
    assert not changed(model, before)


def test_programs_must_be_modules() -> None:
    with pytest.raises(TypeError, match=r"guide: expected a torch\.nn\.Module, got function"):
        fit(Linear(), lambda series: None, data(), max_steps=1)


def test_the_history_is_a_table() -> None:
    history = History("negative ELBO")
    history.append({"step": 1, "loss": 3.0})
    history.append({"step": 2, "loss": 2.0, "acceptance": 0.5})
    copy = History.from_state(history.to_state())
    for table in (history, copy):
        assert list(table.frame.columns)[:4] == ["step", "epoch", "seconds", "loss"]
        assert table.frame["loss"].tolist() == [3.0, 2.0]
        assert table.frame["acceptance"].isna().tolist() == [True, False]
        assert table.loss_name == "negative ELBO"
        assert repr(table) == "History(2 steps, last negative ELBO 2)"
    with pytest.raises(ValueError, match=r"name: expected one of .*'loss'.*, got 'accuracy'"):
        history.column("accuracy")


def test_the_bar_shows_no_number_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    class Hot(Encoder):
        """Chains that are hot accept all, and report no acceptance."""

        steps = 0

        def statistics(self) -> dict[str, float]:
            self.steps += 1
            return {"acceptance": math.nan if self.steps < 3 else 0.75}

    def told(steps: int) -> str:
        fit(Linear(), Hot(), data(), max_steps=steps, **{**QUIET, "progress": True})
        return capsys.readouterr().err

    hot = told(2)
    assert "loss=" in hot and "nan" not in hot and "acceptance" not in hot
    assert "acceptance=0.75" in told(3)
