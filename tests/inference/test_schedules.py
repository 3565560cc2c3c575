"""Learning rates, clipping and KL warm-up."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import nn

from pyro_lebm.inference.training.fit import fit
from pyro_lebm.inference.training.warmup import LatentScale
from pyro_lebm.series import Series
from small_programs import QUIET, Encoder, Linear, data, weights


def test_rates_by_prefix_the_longest_wins() -> None:
    model, guide = Linear(), Encoder()
    before = {**weights(model), **weights(guide)}
    rates = {"net.": 0.0, "net.bias": 1e-3, "enc": 1e-5}
    fit(model, guide, data(), max_steps=1, learning_rate=0.1, learning_rates=rates, **QUIET)
    after = {**weights(model), **weights(guide)}
    # Adam's first step is the learning rate in each coordinate.
    moved = {n: (after[n] - before[n]).abs().max().item() for n in before}
    assert moved["net.weight"] == 0
    assert moved["net.bias"] == pytest.approx(1e-3, rel=1e-2)
    assert moved["encoder.weight"] == pytest.approx(1e-5, rel=5e-2)
    assert moved["scale_unconstrained"] == pytest.approx(0.1, rel=1e-2)


def test_rates_follow_a_cosine() -> None:
    history = fit(
        Linear(), Encoder(), data(), max_steps=10, learning_rate=0.2, final_rate=0.5, **QUIET
    )
    expected = [0.2 * (0.5 + 0.25 * (1 + math.cos(math.pi * k / 10))) for k in range(10)]
    assert history.column("learning_rate").tolist() == pytest.approx(expected)


def test_rates_warm_up_to_the_cosine() -> None:
    history = fit(Linear(), Encoder(), data(), max_steps=10, rate_warmup=0.4, **QUIET)
    plain = fit(Linear(), Encoder(), data(), max_steps=10, **QUIET)
    ratio = history.column("learning_rate") / plain.column("learning_rate")
    assert ratio.tolist() == pytest.approx([1e-3, 0.25, 0.5, 0.75] + [1.0] * 6)


def test_clipping_bounds_each_group_of_parameters() -> None:
    class Seen(Linear):
        def forward(self, series: Series) -> None:
            super().forward(series)
            self.net.weight.grad = None

    norms: dict[str, float] = {}
    step = torch.optim.Adam.step

    def spy(self: torch.optim.Adam, closure: Any = None) -> Any:
        for p in self.param_groups[0]["params"]:
            norms[str(pyro.get_param_store().param_name(p))] = float(p.grad.norm())
        return step(self, closure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", spy)
        kwargs: dict[str, Any] = {"max_steps": 1, "learning_rates": {"net.": 1e-3}, **QUIET}
        torch.manual_seed(0)
        fit(Linear(), Encoder(), data(), clip_norm=0.01, **kwargs)
        clipped = dict(norms)
        torch.manual_seed(0)
        fit(Linear(), Encoder(), data(), **kwargs)
    net, rest = ["net$$$weight", "net$$$bias"], ["encoder$$$weight", "encoder$$$bias", "scale"]
    for group in (net, rest):
        assert math.hypot(*(clipped[n] for n in group)) == pytest.approx(0.01 * 64, rel=1e-4)
        assert math.hypot(*(norms[n] for n in group)) > 5
    assert clipped["net$$$weight"] / clipped["net$$$bias"] == pytest.approx(
        norms["net$$$weight"] / norms["net$$$bias"], rel=1e-4
    )


def test_the_guides_schedule_hears_of_progress() -> None:
    heard: list[float] = []

    class Scheduled(Encoder):
        def schedule(self, progress: float) -> None:
            heard.append(progress)

    fit(Linear(), Scheduled(), data(), max_steps=4, **QUIET)
    assert heard == [0.0, 0.0, 0.25, 0.5, 0.75]


def test_warm_up_scales_the_latent_sites_of_both_programs() -> None:
    series = data(8)
    model, guide = Linear(), Encoder()

    def losses(scale: float) -> tuple[float, float, float]:
        torch.manual_seed(0)
        with LatentScale(scale):
            guided = poutine.trace(guide).get_trace(series.batch([0, 1]))
            replayed = poutine.replay(model, trace=guided)
            trace = poutine.trace(replayed).get_trace(series.batch([0, 1]))
        for t in (guided, trace):
            t.compute_log_prob()
        parts = guided.nodes["z0"], trace.nodes["z0"], trace.nodes["x"]
        return tuple(float(part["log_prob_sum"].detach()) for part in parts)  # type: ignore[return-value]

    full, half = losses(1.0), losses(0.5)
    assert half == pytest.approx((full[0] / 2, full[1] / 2, full[2]))


def test_warm_up_ends_when_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    scales: list[float] = []

    class Watched(Encoder):
        def forward(self, series: Series) -> None:
            super().forward(series)
            with poutine.trace() as trace:
                pyro.sample("probe", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
            scales.append(float(trace.trace.nodes["probe"]["scale"]))

    fit(Linear(), Watched(), data(), max_steps=8, kl_warmup=0.5, **QUIET)
    assert scales == pytest.approx([1.0, 1e-3, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0])


def test_the_horizon_grows_from_a_fifth_to_all() -> None:
    seen: list[int] = []

    class Level(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.level = nn.Parameter(torch.zeros(()))

        def forward(self, series: Series) -> None:
            seen.append(series.length)
            with pyro.plate("sequences", series.total, subsample=series.index):
                x = dist.Normal(self.level, 1.0).expand(series.values.shape[1:]).to_event(2)
                pyro.sample("x", x, obs=series.values)

    class Nothing(PyroModule):
        def forward(self, series: Series) -> None: ...

    def lengths(**kwargs: Any) -> list[int]:
        seen.clear()
        fit(Level(), Nothing(), data(width=10), max_steps=8, **QUIET, **kwargs)
        return seen[1:]  # the first call is that of the checks

    assert lengths(horizon_warmup=0.5) == [2, 4, 6, 8, 10, 10, 10, 10]
    assert lengths() == [10] * 8


def test_adam_gets_the_betas_given(monkeypatch: pytest.MonkeyPatch) -> None:
    found: set[tuple[float, float]] = set()
    step = torch.optim.Adam.step

    def spy(self: torch.optim.Adam, closure: Any = None) -> Any:
        found.add(self.param_groups[0]["betas"])
        return step(self, closure)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    fit(Linear(), Encoder(), data(), max_steps=1, betas=(0.8, 0.99), **QUIET)
    assert found == {(0.8, 0.99)}


def test_warm_up_is_refused_for_a_guide_that_samples_the_posterior() -> None:
    guide = Encoder()
    guide.loss_name = "negative unnormalised log joint"
    with pytest.raises(ValueError, match=r"kl_warmup: expected 0 .* negative unnormalised log"):
        fit(Linear(), guide, data(), max_steps=1, kl_warmup=0.1, **QUIET)
    assert fit(Linear(), guide, data(), max_steps=1, **QUIET).loss_name == guide.loss_name
    refined = Encoder()
    refined.__dict__["refine_from"] = 0.3
    with pytest.raises(ValueError, match=r"kl_warmup: expected at most .*refine_from, 0\.3"):
        fit(Linear(), refined, data(), max_steps=1, kl_warmup=0.5, **QUIET)
