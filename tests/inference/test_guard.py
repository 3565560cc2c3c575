"""Runaway energies and non-finite numbers: rolled back, slowed down, or given up."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_lebm.inference.training.fit import fit
from pyro_lebm.inference.training.guard import Fault, Guard
from pyro_lebm.series import Series
from small_programs import QUIET, Encoder, Linear, data


class Energy(PyroModule):
    """Stands in for an energy prior: a factor that its parameter can run away with."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(1.0))
        self.learning = True
        self.gap = 0.0
        self.states: list[bool] = []

    def forward(self) -> Tensor:
        self.states.append(self.learning)
        if not self.learning:
            return torch.zeros(())
        slope = self.slope
        self.gap = float(slope.detach())
        return 100.0 * slope

    def statistics(self) -> dict[str, float]:
        return {"energy_positive": self.gap, "energy_negative": 0.0}


class Tilted(Linear):
    def __init__(self) -> None:
        super().__init__()
        self.prior = Energy()

    def forward(self, series: Series) -> None:
        pyro.factor("energy", self.prior())
        super().forward(series)


def test_an_energy_moves_at_a_tenth_of_the_rate_unless_told() -> None:
    for rates, expected in (({}, 1e-3), ({"prior.": 4e-3}, 4e-3)):
        model = Tilted()
        kwargs: dict[str, Any] = {"learning_rate": 1e-2, "learning_rates": rates, **QUIET}
        fit(model, Encoder(), data(), max_steps=1, **kwargs)
        # Adam's first step is the rate itself.
        assert float((model.prior.slope.detach() - 1.0).abs()) == pytest.approx(expected, rel=1e-2)


def test_the_energy_waits_until_it_is_let_in() -> None:
    model = Tilted()
    history = fit(model, Encoder(), data(), max_steps=10, energy_from=0.5, **QUIET)
    # The first is the run that looks which parameters there are.
    assert model.prior.states == [True] + [False] * 5 + [True] * 5
    assert torch.isfinite(history.column("energy_positive")).tolist() == [False] * 5 + [True] * 5
    assert model.prior.slope != 1.0

    model = Tilted()
    model.prior.learning = False
    fit(model, Encoder(), data(), max_steps=3, energy_from=1.0, **QUIET)
    assert model.prior.states == [False] * 4 and model.prior.slope == 1.0
    assert model.prior.learning is False


def test_a_runaway_energy_is_rolled_back_and_slowed() -> None:
    model, guide = Tilted(), Encoder()
    kwargs: dict[str, Any] = {"learning_rates": {"prior.": 0.5}, "final_rate": 1.0, **QUIET}
    with pytest.warns(RuntimeWarning, match="energy ran away: a gap of .* learning rate of the en"):
        history = fit(
            model, guide, data(), max_steps=40, energy_limit=12.0, snapshot_every=5, **kwargs
        )
    rollbacks = history.column("rollbacks")
    assert history.column("step").tolist() == list(range(1, 41))
    assert rollbacks[0] == 0 and rollbacks[-1] >= 1
    # Steps of .5 at first; the last ones at the halved rate, and nothing beyond the limit stands.
    climbs = history.column("energy_positive").diff()
    assert climbs[0] == pytest.approx(0.5, rel=1e-2)
    assert climbs[-1] == pytest.approx(0.5 / 2 ** int(rollbacks[-1]), rel=2e-2)
    assert history.column("energy_positive").max() <= 12.0
    # The other learning rates were no part of it.
    assert history.column("learning_rate").tolist() == pytest.approx([3e-3] * 40)


class Level(PyroModule):
    """x ~ N(level, 1): nothing random; breaks at chosen calls."""

    def __init__(self, bad: set[int]) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(()))
        self.calls, self.bad = -1, bad

    def forward(self, series: Series) -> None:
        self.calls += 1
        if self.calls in self.bad:
            raise FloatingPointError("the path is not finite")
        with pyro.plate("sequences", series.total, subsample=series.index):
            x = dist.Normal(self.level, 1.0).expand(series.values.shape[1:]).to_event(2)
            pyro.sample("x", x, obs=series.values)


class Nothing(PyroModule):
    def forward(self, series: Series) -> None: ...


@pytest.mark.filterwarnings("ignore:step .* back to step:RuntimeWarning")
def test_a_step_that_is_undone_leaves_no_gradient() -> None:
    def trained(bad: set[int], gradient: float | None = None) -> tuple[Tensor, list[float]]:
        model = Level(bad)
        if gradient is not None:
            model.level.grad = torch.tensor(gradient)
        elbo = Trace_ELBO(num_particles=2)
        history = fit(model, Nothing(), data(), max_steps=6, elbo=elbo, seed=0, **QUIET)
        return model.level.detach(), history.column("loss").tolist()

    # Two particles a step, the first after two that only look: step 4 has calls 8 and 9.
    before, after = trained({8}), trained({9})
    assert before == after
    assert trained(set(), gradient=-7.0) == trained(set())


class Breaking(Linear):
    """Gives NaN or an infinite gradient at chosen calls."""

    def __init__(self, bad: set[int], what: str) -> None:
        super().__init__()
        self.calls, self.bad, self.what = -1, bad, what
        self.scales: list[float] = []

    def forward(self, series: Series) -> None:
        self.calls += 1
        self.scales.append(float(self.net.weight.detach().abs().max()))
        value = self.net.weight.sum() * 0
        if self.calls in self.bad:
            value = {
                "loss": lambda: value + math.inf,
                "nan": lambda: value * math.nan,
                "gradient": lambda: (value**2).sqrt(),
                "raise": lambda: self.fail(),
            }[self.what]()
        pyro.factor("breaks", value)
        super().forward(series)

    def fail(self) -> Tensor:
        raise FloatingPointError("the path is not finite")


@pytest.mark.filterwarnings("ignore:Encountered:UserWarning")
@pytest.mark.parametrize("what", ["loss", "nan", "gradient", "raise"])
def test_a_fault_is_rolled_back(what: str) -> None:
    model = Breaking({8}, what)
    with pytest.warns(RuntimeWarning, match=r"step 8: .*; back to step 6 with half the learning r"):
        history = fit(
            model, Encoder(), data(), max_steps=12, snapshot_every=3, final_rate=1.0, **QUIET
        )
    assert history.column("step").tolist() == list(range(1, 13))
    assert history.column("rollbacks").tolist() == [0.0] * 6 + [1.0] * 6
    rates = history.column("learning_rate")
    assert rates.tolist() == pytest.approx([3e-3] * 6 + [1.5e-3] * 6)
    assert model.scales[9] == model.scales[7]  # call 0 only looks; call 7 was step 7
    assert bool(torch.isfinite(history.column("loss")).all())
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


@pytest.mark.filterwarnings("ignore:step .* back to step:RuntimeWarning")
def test_a_state_that_fails_twice_gives_way_to_the_one_before() -> None:
    model = Breaking({9, 12}, "raise")
    fit(model, Encoder(), data(), max_steps=9, snapshot_every=3, max_rollbacks=2, **QUIET)
    # Calls 10, 11 were steps 7, 8 again; after call 12 the run goes back to step 3: call 4 again.
    assert model.scales[10] == model.scales[7]
    assert model.scales[13] == model.scales[4]


@pytest.mark.filterwarnings("ignore:step .* back to step:RuntimeWarning")
def test_too_many_rollbacks_fail_and_leave_a_good_state() -> None:
    model, guide = Breaking(set(range(5, 100)), "raise"), Encoder()
    with pytest.raises(
        RuntimeError, match="failed at step 3: the path is not finite, after 2 rollbacks"
    ):
        fit(model, guide, data(), max_steps=20, snapshot_every=2, max_rollbacks=2, **QUIET)
    assert model.scales[-1] == model.net.weight.detach().abs().max()


@pytest.mark.filterwarnings("ignore:step .* back to step:RuntimeWarning")
def test_a_guard_that_was_saved_goes_on_alike() -> None:
    def guard() -> Guard:
        return Guard(energy_limit=1.0, max_rollbacks=3)

    first, second = guard(), guard()
    for step in (2, 4):
        first.keep({"step": step})
    first.roll_back(Fault("once", energy=True), 5, {})
    second.load_state(first.to_state())
    for each in (first, second):
        assert each.roll_back(Fault("again"), 5, {})["step"] == 2
        assert (each.rollbacks, each.factor, each.energy_factor) == (2, 0.5, 0.5)
    assert first.to_state() == second.to_state()


def test_a_state_that_is_not_finite_is_never_kept() -> None:
    class Exploding(Encoder):
        """A parameter that turns infinite although loss and gradients are finite."""

        calls = 0

        def statistics(self) -> dict[str, float]:
            self.calls += 1
            if self.calls == 4:
                self.encoder.bias.data.fill_(math.inf)
            return {}

    with pytest.warns(RuntimeWarning, match="step 4: a parameter or a chain is not finite"):
        fit(Linear(), Exploding(), data(), max_steps=6, snapshot_every=2, **QUIET)
