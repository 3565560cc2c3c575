"""DiffusionProcess: flows on its noise, saving, settings and inputs that are refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from torch import nn

from noisy import stirred
from pyro_lebm.checkpoint import CheckpointError
from pyro_lebm.models import (
    DiffusionProcess,
    ImplicitEmission,
    StepNetwork,
    TransitionDenoiser,
    VolumePreservingFlow,
)

# Flows


def test_a_flow_keeps_volumes_and_comes_back() -> None:
    flow = VolumePreservingFlow(3, layers=3, hidden=(16,)).double()
    x = torch.randn(6, 4, 3).double()
    assert torch.allclose(flow(x), x)  # at the start
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(0.5 * torch.randn_like(p))
    y = flow(x)
    assert float((y - x).detach().abs().min()) > 1e-6  # every number moves
    assert torch.allclose(flow.inverse(y), x, atol=1e-9)
    jacobian = torch.func.vmap(torch.func.jacrev(flow))(x[:, 0])
    assert torch.allclose(torch.linalg.det(jacobian), torch.ones(6).double())
    assert torch.allclose(torch.func.vmap(flow)(x), y)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_flow_moves_the_start(eta: float) -> None:
    flow = VolumePreservingFlow(2)
    model = stirred(DiffusionProcess(2, 1, steps=3, stochasticity=eta, flow=flow))
    z, noise = torch.randn(4, 2), torch.randn(4, model.noise)
    plain = DiffusionProcess(2, 1, steps=3, stochasticity=eta)
    plain.load_state_dict({n: v for n, v in model.state_dict().items() if "flow" not in n})
    moved = torch.cat([flow(noise[:, :2]), noise[:, 2:]], -1)
    there = model.step(z, torch.ones(1), noise)
    assert torch.allclose(there, plain.step(z, torch.ones(1), moved), atol=1e-5)
    assert not torch.allclose(there, plain.step(z, torch.ones(1), noise), atol=1e-3)


@pytest.mark.parametrize("flag", [True, False])
def test_importing_zuko_leaves_validation_as_it_was(
    flag: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "zuko"]:
        monkeypatch.delitem(sys.modules, name)
    with pyro.validation_enabled(flag):
        VolumePreservingFlow(2)
        assert "zuko" in sys.modules
        assert torch.distributions.Distribution._validate_args is flag


def test_a_flow_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zuko.flows.coupling", None)
    with pytest.raises(ModuleNotFoundError, match=r"expected zuko.*pip install 'pyro-lebm\[flows"):
        VolumePreservingFlow(2)


def test_to_show_a_flow_draws_nothing() -> None:
    flow, before = VolumePreservingFlow(2), torch.get_rng_state()
    assert repr(nn.Sequential(flow)).count("VolumePreservingFlow(size=2, layers=4)") == 1
    assert torch.equal(before, torch.get_rng_state())


# Saving


def test_a_saved_model_comes_back(tmp_path: Path) -> None:
    model = stirred(DiffusionProcess(2, 1, steps=3, stochasticity=0.5, unit=2.0))
    model.save(tmp_path / "model.pt")
    copy = DiffusionProcess(2, 1, steps=3, stochasticity=0.5, unit=2.0).load(tmp_path / "model.pt")
    z, noise = torch.randn(4, 2), torch.randn(4, model.noise)
    gap = torch.ones(1)
    assert torch.equal(model.step(z, gap, noise), copy.step(z, gap, noise))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"steps": 4}, r"sampler: expected 4 steps, .*, got 5 steps, stochasticity 0, order 1"),
        ({"stochasticity": 1.0}, "sampler: expected 5 steps, stochasticity 1, .*, got 5 steps"),
        ({"order": 2}, "sampler: expected 5 steps, stochasticity 0, order 2, got"),
        ({"unit": 2.0}, "unit: expected 2, got 1"),
        (
            {"emission": ImplicitEmission(2, 1, steps=3)},
            "emission.sampler: expected 3 steps, .*, got 5 steps",
        ),
    ],
)
def test_equal_weights_of_another_sampler_are_refused(
    tmp_path: Path, kwargs: dict[str, Any], message: str
) -> None:
    emission = ImplicitEmission(2, 1)
    DiffusionProcess(2, 1, emission=emission).save(tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=message):
        DiffusionProcess(2, 1, **{"emission": emission, **kwargs}).load(tmp_path / "model.pt")


# Bad inputs


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DiffusionProcess(0, 1), "latent: expected a size of at least 1, got 0"),
        (lambda: DiffusionProcess(2, 0), "observed: expected a size of at least 1, got 0"),
        (lambda: DiffusionProcess(2, 1, steps=0), "steps: expected at least 1, got 0"),
        (lambda: DiffusionProcess(2, 1, stochasticity=1.5), r"stochasticity: .*\[0, 1\], got 1.5"),
        (lambda: DiffusionProcess(2, 1, order=3), "order: expected 1 or 2, got 3"),
        (lambda: DiffusionProcess(2, 1, unit=0.0), "unit: .* above 0, got 0.0"),
        (lambda: DiffusionProcess(2, 1, hidden=()), "hidden: expected at least one layer"),
        (lambda: DiffusionProcess(2, 1, covariates=-1), "covariates: expected 0 or more, got -1"),
        (
            lambda: DiffusionProcess(2, 1, flow=VolumePreservingFlow(3)),
            "flow: expected one of size 2 as the state, got 3",
        ),
        (lambda: VolumePreservingFlow(1), "expected at least 2 of each, got size 1, 4 layers"),
        (lambda: VolumePreservingFlow(2, 1), "got size 2, 1 layers"),
        (lambda: StepNetwork(0, 1), "size: expected a size of at least 1, got 0"),
        (lambda: StepNetwork(2, 0), "context: expected a size of at least 1, got 0"),
        (lambda: StepNetwork(2, 1, (8,), "sine"), "activation: expected one of .*, got 'sine'"),
        (lambda: TransitionDenoiser(2, scale=0.0), "scale: expected a number in .*, got 0.0"),
    ],
)
def test_bad_inputs(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DiffusionProcess(2, 1, steps=2.5), "steps: expected a whole number, got 2.5"),
        (lambda: DiffusionProcess(2, 1, steps=True), "steps: expected a whole number, got True"),
        (lambda: DiffusionProcess(2, 1, order=1.5), "order: expected a whole number, got 1.5"),
        (lambda: DiffusionProcess(2.0, 1), "latent: expected a whole number, got 2.0"),
        (lambda: DiffusionProcess(2, "a"), "observed: expected a whole number, got 'a'"),
        (
            lambda: DiffusionProcess(2, 1, covariates=1.5),
            "covariates: expected a whole number, got 1.5",
        ),
        (
            lambda: DiffusionProcess(2, 1, stochasticity="a"),
            "stochasticity: expected a number, got 'a'",
        ),
        (lambda: DiffusionProcess(2, 1, unit=None), "unit: expected a number, got None"),
        (
            lambda: DiffusionProcess(2, 1, hidden=64),
            r"hidden: expected a sequence of widths, such as \(64,\), got 64",
        ),
        (
            lambda: DiffusionProcess(2, 1, hidden=(8.0,)),
            r"hidden\[0\]: expected a whole number, got 8.0",
        ),
        (
            lambda: TransitionDenoiser(2, covariates=1.5),
            "covariates: expected a whole number, got 1.5",
        ),
        (lambda: VolumePreservingFlow(2.5), "size: expected a whole number, got 2.5"),
        (lambda: VolumePreservingFlow(2, hidden=8), "hidden: expected a sequence of widths"),
    ],
)
def test_what_is_no_number_is_refused(build: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        build()


def test_whole_numbers_of_other_libraries_will_do() -> None:
    model = DiffusionProcess(np.int64(2), 1, steps=np.int32(3), stochasticity=np.float32(0.5))
    assert model.generate(2, torch.arange(3.0)).shape == (2, 3, 1)


def test_settings_are_checked_whenever_they_are_set() -> None:
    model = DiffusionProcess(2, 1)
    for name, value in (("steps", 2.5), ("stochasticity", "a"), ("order", True)):
        with pytest.raises(TypeError, match=f"{name}: expected a .*number, got {value!r}"):
            setattr(model, name, value)
    for name, value in (("steps", 0), ("stochasticity", float("nan")), ("order", 0)):
        with pytest.raises(ValueError, match=f"{name}: expected"):
            setattr(model, name, value)
    assert (model.steps, model.stochasticity, model.order) == (5, 0.0, 1)
