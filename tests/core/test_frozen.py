"""Parameters held fixed: no graph reaches them, and everything is as before afterwards."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn

from pyro_lebm.frozen import frozen
from untyped import PyroLinear, optim, poutine


class Everything(PyroModule):
    """Every way of holding a parameter that Pyro has."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1))
        self.pyro_net = PyroLinear(1, 1)
        self.plain = nn.Parameter(torch.tensor(0.5))
        self.positive: Any = PyroParam(torch.tensor(2.0), constraint=dist.constraints.positive)

    def forward(self, x: Tensor) -> Tensor:
        raw = pyro.param("raw", torch.tensor(0.3), constraint=dist.constraints.positive)
        found: Tensor = self.net(x) + self.pyro_net(x) + self.plain * self.positive * raw
        return found


def trained() -> Everything:
    """A program whose parameters SVI has moved."""
    model = Everything()

    class Program(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self) -> None:
            loc = self.inner(torch.ones(5, 1))
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(2), obs=torch.full((5, 1), 9.0))

    svi = SVI(Program(), lambda: None, optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(3):
        svi.step()
    return model


def store() -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in pyro.get_param_store().items()}


def test_no_parameter_is_in_the_graph_and_trained_values_are_used() -> None:
    model, fresh = trained(), Everything()
    x = torch.ones(4, 1, requires_grad=True)
    expected = model(x)
    assert expected.requires_grad
    with frozen(model):
        found = model(x)
    assert torch.equal(found, expected)
    assert not torch.equal(found, fresh(x))
    (slope,) = torch.autograd.grad(found.sum(), x)
    assert slope.shape == x.shape
    with frozen(model):
        assert not model(torch.ones(4, 1)).requires_grad


def test_everything_is_as_before() -> None:
    model = trained()
    before, objects = store(), dict(model.named_parameters())
    for _ in range(2):
        with frozen(model):
            model(torch.ones(4, 1))
    after = store()
    assert list(before) == list(after)
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert all(p is objects[n] and p.requires_grad for n, p in model.named_parameters())
    assert not pyro.settings.get("module_local_params")
    kept = pyro.get_param_store()["inner.positive"]
    kept.sum().backward()
    assert objects["positive_unconstrained"].grad is not None


def test_an_error_inside_leaves_everything_as_before() -> None:
    model = trained()
    objects = dict(model.named_parameters())
    with pytest.raises(RuntimeError), frozen(model):
        model(torch.ones(4, 7))
    assert all(p is objects[n] for n, p in model.named_parameters())
    assert model(torch.ones(4, 1)).requires_grad
    assert not pyro.settings.get("module_local_params")


def test_training_goes_on_with_frozen_runs_in_the_middle_of_a_step() -> None:
    """As a Langevin guide does: SVI must still see the parameters themselves, not stand-ins."""

    class Program(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Everything()

        def forward(self) -> None:
            with frozen(self):
                self.inner(torch.ones(5, 1))
            loc = self.inner(torch.ones(5, 1))
            with frozen(self.inner):
                self.inner(torch.ones(5, 1))
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(2), obs=torch.full((5, 1), 9.0))

    program = Program()

    def guide() -> None:
        with poutine.block(), frozen(program):
            program.inner(torch.ones(5, 1))

    svi = SVI(program, guide, optim.Adam({"lr": 0.1}), Trace_ELBO())
    before = [p.detach().clone() for p in program.parameters()]
    for _ in range(2):
        svi.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, program.parameters(), strict=True)]
    assert all(moved)
    assert store()["raw"] != 0.3


def test_frozen_blocks_nest() -> None:
    model = trained()
    with frozen(model):
        with frozen(model):
            inner = model(torch.ones(4, 1))
        outer = model(torch.ones(4, 1))
    assert not inner.requires_grad and not outer.requires_grad
    assert model(torch.ones(4, 1)).requires_grad


def test_a_program_that_never_ran_is_only_looked_at() -> None:
    """It reaches no parameter store, and may still join a larger module."""
    model = Everything()
    with frozen(model):
        model(torch.ones(4, 1))
    assert set(pyro.get_param_store()) <= {"raw"}
    outer = PyroModule()
    outer.inner = model
    model(torch.ones(4, 1))


def test_a_plain_function_with_raw_parameters() -> None:
    pyro.param("raw", torch.tensor(1.0))
    pyro.get_param_store()["raw"] = torch.tensor(7.0)
    with frozen(store):
        value = pyro.param("raw", torch.tensor(1.0))
    assert value == 7.0 and not value.requires_grad
    assert pyro.param("raw").requires_grad


def test_random_weights_are_drawn_anew_in_every_block() -> None:
    layer = PyroLinear(1, 1)
    layer.weight = PyroSample(dist.Normal(torch.zeros(1, 1), 1.0).to_event(2))
    draws = []
    for _ in range(2):
        with frozen(layer):
            draws.append(layer(torch.ones(1, 1)))
    assert draws[0] != draws[1]
