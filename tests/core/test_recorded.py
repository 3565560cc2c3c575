"""What a compiled program was recorded from: copied whole, and seen when it changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from compiled_models import picking
from pyro_lebm import inductor
from pyro_lebm.potential import Potential, potential
from pyro_lebm.program import Program

pytest.importorskip("jax")

each_engine = pytest.mark.parametrize("name", ("xla", "compile"))


@pytest.fixture(autouse=True)
def without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of torch.compile but the code that it writes, which takes long."""
    monkeypatch.setattr(inductor, "BACKEND", "aot_eager")


def pair(name: Any, model: Callable[..., Any], *args: Any) -> tuple[Potential, Potential]:
    """A potential by an engine, and by PyTorch."""
    return potential(model, *args, engine=name), potential(model, *args, engine="eager")


def agree(both: tuple[Potential, Potential], z: Tensor) -> None:
    torch.testing.assert_close(both[0](z), both[1](z), rtol=1e-4, atol=1e-4)


def test_a_mask_that_is_compiled_in_and_written_to() -> None:
    mask = torch.tensor([True, False, True, True])
    both, z = pair("xla", picking, mask), torch.randn(2, 4)
    agree(both, z)
    for new in ([False, True, True, True], [True, False, False, False]):
        mask.copy_(torch.tensor(new))
        agree(both, z)


@each_engine
def test_what_is_compiled_is_of_one_moment(name: Any) -> None:
    weight = torch.zeros(100, 100)  # large enough for JAX to share its memory

    def model() -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(100), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(weight @ z, 1.0).to_event(1), obs=torch.ones(100))

    program, z = Program.read(model), torch.randn(2, 100)
    density = program.compiled(z[0], name)
    before = density.parts(z)
    weight.add_(1.0)
    torch.testing.assert_close(density.parts(z), before, rtol=0, atol=0)
