"""A translation is compared with what it translates, wherever the program is recorded first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_lebm import engine, inductor
from pyro_lebm.programs.potential import potential
from pyro_lebm.programs.program import Program

pytest.importorskip("jax")

each_engine = pytest.mark.parametrize("name", ("xla", "compile"))


@pytest.fixture(autouse=True)
def without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of torch.compile but the code that it writes, which takes long."""
    monkeypatch.setattr(inductor, "BACKEND", "aot_eager")


def plain() -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(z.tanh(), 1.0).to_event(1), obs=torch.ones(2))


def followed_not(z: Tensor) -> Tensor:
    """What no recording follows: by NumPy."""
    return torch.as_tensor(np.nan_to_num(z.detach().numpy()).clip(-9.0, 9.0))


def test_a_difference_is_not_hidden_by_the_size_of_the_rest() -> None:
    def model() -> None:
        with pyro.plate("n", 1000):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(followed_not(z), 1.0), obs=torch.ones(1000))

    torch.manual_seed(0)
    target = potential(model, engine="xla")
    with pytest.raises(ValueError, match="another function: log density of the observed sites"):
        target(torch.randn(2, target.dim))


def test_rounding_is_not_taken_for_a_difference() -> None:
    source = torch.Generator().manual_seed(0)
    weights = 1e4 * torch.randn(100_000, generator=source)
    weights -= weights.double().mean().float()

    def model() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("next to nothing", (weights * z).sum())

    target = potential(model, engine="xla")
    assert bool(target(torch.randn(2, 1)).isfinite().all())


def test_where_there_was_nothing_to_compare_it_is_compared_later() -> None:
    edge = torch.tensor(-100.0)

    def model() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("edge", torch.where(z > edge, -torch.inf, 0.0 * z))
        pyro.sample("x", dist.Normal(followed_not(z), 0.01), obs=torch.tensor(1.0))

    torch.manual_seed(0)
    program = Program.read(model)
    program.compiled(program.draw)  # outside of the density
    edge.fill_(100.0)
    with pytest.raises(ValueError, match="its translation is another function"):
        program.compiled(program.draw)


@each_engine
def test_the_first_call_may_be_within_a_transform(name: Any) -> None:
    torch.manual_seed(0)
    z = torch.randn(3, 2)
    right = potential(plain, engine="eager")(z)
    slopes = torch.func.vmap(torch.func.grad(potential(plain, engine="eager").single))(z)
    with engine(name):
        found = torch.func.vmap(potential(plain).single)(z)
        torch.testing.assert_close(found, right)
        one = torch.func.grad(potential(plain).single)(z[0])
        torch.testing.assert_close(one, slopes[0])
        both = torch.func.vmap(torch.func.grad(potential(plain).single))(z)
        torch.testing.assert_close(both, slopes)
