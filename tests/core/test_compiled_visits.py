"""Whole visits to chains, compiled: the same chains as step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from compiled_models import seen
from pyro_lebm import Series, engine
from pyro_lebm.dynamics.chains import Chains
from pyro_lebm.engines import asked
from pyro_lebm.inference import LangevinGuide, fit
from pyro_lebm.programs.program import Program

pytest.importorskip("jax")


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


KINDS: dict[str, dict[str, Any]] = {
    "hot": {"hot": 0.3},
    "adjusted": {},
    "unadjusted": {"adjusted": False},
}


def both(visited: Callable[[Chains], None], n: int, step_size: float) -> list[dict[str, Tensor]]:
    """What the same visits leave of chains from the origin, step by step and compiled."""
    found = []
    name: Any
    for name in ("eager", "xla"):
        chains = Chains(torch.zeros(n, 2), step_size=step_size)
        torch.manual_seed(1)
        with engine(name):
            visited(chains)
        found.append(chains.training_state())
    for one, other in zip(found[0].values(), found[1].values(), strict=True):
        torch.testing.assert_close(
            one.double(), other.double(), rtol=1e-9, atol=1e-9, equal_nan=True
        )
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_whole_visits_are_those_of_single_steps(kind: str) -> None:
    model, x, mask = seen()
    program = Program.read(model, x, mask)

    def visited(chains: Chains) -> None:
        for _ in range(2):
            whole = program.whole(program.draw)
            assert (whole is None) == (asked() == "eager")
            chains.run(program.log_density, 6, whole=whole, **KINDS[kind])

    found = both(visited, 5, step_size=1.5)
    moved = found[0]["position"].abs().sum(-1)
    assert bool((moved > 0).all())
    if kind == "adjusted":  # some were rejected, or the test would say nothing of that
        assert 0.2 < float(found[0]["acceptance"]) < 0.9


def test_numbers_of_steps_share_what_is_compiled() -> None:
    model, x, mask = seen(n=7)
    program = Program.read(model, x, mask)

    def visited(chains: Chains) -> None:
        for steps in (3, 5, 16, 17):
            chains.run(program.log_density, steps, whole=program.whole(program.draw))

    both(visited, 7, step_size=0.5)
    with engine("xla"):
        visit: Any = program.compiled(program.draw).bound.compiled.visit
    assert visit._cache_size() == 2  # with room for 16 and for 32


def test_a_chain_outside_of_the_density_stays_where_it_is() -> None:
    def model() -> None:
        with pyro.plate("n", 3):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("edge", torch.where(z > 0.1, torch.full_like(z, -torch.inf), 0.0 * z))

    program = Program.read(model)
    chains = Chains(torch.zeros(3, 1), step_size=0.5)
    torch.manual_seed(0)
    with engine("xla"):
        z = chains.run(program.log_density, 50, whole=program.whole(program.draw))
    assert bool((z <= 0.1).all()) and bool((z != 0).all())


class Mean(pyro.nn.PyroModule):
    """One number for each sequence, and one point of it seen."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(()))

    def forward(self, series: Series) -> None:
        with pyro.plate("sequences", series.total, subsample=series.index):
            z = pyro.sample("z", dist.Normal(self.mean, 1.0))
            x = dist.Normal(z[:, None, None], 1.0).to_event(2)
            pyro.sample("x", x, obs=series.values)


def test_a_training_takes_the_same_steps() -> None:
    torch.manual_seed(0)
    series, losses = Series(torch.tensor([0.5]), 2.0 + torch.randn(10, 1, 1)), []
    name: Any
    for name in ("eager", "xla"):
        model = Mean()
        guide = LangevinGuide(model, series, hot_until=0.5, step_size=0.5, steps=3)
        with engine(name):
            history = fit(model, guide, series, max_steps=20, batch_size=5, seed=0, progress=False)
        losses.append(history.column("loss"))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-8, atol=1e-8)
