"""What a compiled program was recorded from: copied whole, and seen when it changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from compiled_models import picking
from pyro_lebm import engine, inductor
from pyro_lebm.programs.potential import Potential, potential
from pyro_lebm.programs.program import Program

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


class Changing(nn.Module):
    """A model with everything that may be replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.activation, self.scale = nn.Linear(2, 2), nn.Tanh(), 1.0
        self.dropout = nn.Dropout(0.5).eval()
        self.register_buffer("shift", torch.zeros(2))

    def forward(self) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        mean = self.dropout(self.activation(self.layer(z))) + self.shift
        pyro.sample("x", dist.Normal(mean, self.scale).to_event(1), obs=torch.ones(2))


def optimise(model: Changing) -> None:
    """By an optimiser whose writes do not show in versions."""
    version = model.layer.weight._version
    optimiser = torch.optim.Adam(model.parameters(), lr=0.5, fused=True)
    model.layer.weight.grad = torch.ones(2, 2)
    optimiser.step()
    assert model.layer.weight._version == version


CHANGES: dict[str, Callable[[Changing], Any]] = {
    "weights replaced": lambda m: m.load_state_dict(
        {name: value + 1 for name, value in m.state_dict().items()}, assign=True
    ),
    "a parameter": lambda m: setattr(m.layer, "bias", nn.Parameter(torch.ones(2))),
    "a layer": lambda m: setattr(m, "layer", nn.Linear(2, 2)),
    "a layer without weights": lambda m: setattr(m, "activation", nn.Softsign()),
    "a buffer": lambda m: setattr(m, "shift", torch.ones(2)),
    "a number": lambda m: setattr(m, "scale", 3.0),
    "a write to .data": lambda m: m.layer.weight.data.add_(1.0),
    "an optimiser's step": optimise,
}


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_what_a_program_hangs_on_may_be_replaced(change: str, named: bool) -> None:
    torch.manual_seed(0)
    model, z = Changing(), torch.randn(2, 2)
    both = pair("xla", (lambda: model()) if named else model)
    agree(both, z)
    before = both[1](z)
    CHANGES[change](model)
    assert not torch.allclose(both[1](z), before, atol=1e-2)
    agree(both, z)


def test_a_module_given_as_an_argument_may_change() -> None:
    def program(net: nn.Module) -> None:
        net()

    model, z = Changing(), torch.randn(2, 2)
    both = pair("xla", program, model)
    agree(both, z)
    model.scale = 3.0
    agree(both, z)


def test_what_train_changes_is_seen() -> None:
    model = Changing()
    target, z = potential(model, engine="xla"), torch.randn(2, 2)
    target(z)
    model.train()
    with pytest.raises(ValueError, match="networks with dropout in eval"):
        target(z)


def test_the_parameter_store_may_be_written_to() -> None:
    def model() -> None:
        mean = pyro.param("mean", torch.zeros(2))
        pyro.sample("z", dist.Normal(mean, 1.0).to_event(1))

    pyro.clear_param_store()
    both, z = pair("xla", model), torch.randn(2, 2)
    agree(both, z)
    pyro.get_param_store()["mean"] = torch.ones(2)
    agree(both, z)


def test_tensors_of_inference_mode_have_no_version() -> None:
    with torch.inference_mode():
        mean = torch.zeros(2)

    def model() -> None:
        pyro.sample("z", dist.Normal(mean, 1.0).to_event(1))

    both, z = pair("xla", model), torch.randn(2, 2)
    agree(both, z)
    with torch.inference_mode():
        mean.add_(1.0)
    agree(both, z)


def test_what_did_not_change_is_not_recorded_again() -> None:
    data = torch.tensor([1.0, torch.nan])
    model, z = Changing(), torch.randn(2, 2)

    def missing() -> None:
        model()
        seen = dist.Normal(torch.zeros(2), 1.0).mask(~data.isnan())
        pyro.sample("y", seen.to_event(1), obs=data.nan_to_num())

    program = Program.read(missing)
    density = program.compiled(z[0])
    model.scale, model.layer.weight.grad = float("1"), torch.ones(2, 2)  # another object
    assert program.compiled(z[0]) is density


@each_engine
def test_no_chains_are_none(name: Any) -> None:
    program = Program.read(picking, torch.ones(4).bool())
    with engine(name):
        assert program.log_density(torch.zeros(0, 4)).shape == (0,)
