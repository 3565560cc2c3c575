"""What the fused engines must not be handed: they are told of it, and PyTorch has its own say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from fused_engines import FUSED
from pyro_lebm import Series, engine, engines, potential
from pyro_lebm.engines import Engine
from pyro_lebm.models import GaussianEmission, LatentODE, MLPField
from pyro_lebm.models.fused import Seen, problem
from pyro_lebm.programs.potential import Strategy
from pyro_lebm.programs.program import Program

N = 3


def series(first: float = 0.1) -> Series:
    return Series(torch.linspace(first, 1, 5), torch.zeros(N, 5, 1))


def log_density(model: LatentODE, way: Engine) -> Tensor:
    with engine(way):
        return Program.read(model, series()).log_density(torch.ones(N, 2))


def model(**options: Any) -> LatentODE:
    torch.manual_seed(0)
    made = LatentODE(2, 1, **options)
    made.load_state_dict({**made.state_dict(), "step_size": torch.tensor(0.1)})
    return made


def height() -> None:
    pyro.sample("height", dist.Normal(0.0, 1.0))


def wide_scale() -> GaussianEmission:
    emission = GaussianEmission(2, 1)
    emission.log_scale = nn.Parameter(torch.zeros(3))
    return emission


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"emission": lambda: GaussianEmission(1, 1)}, r"weights \(100, 1\) .* inputs \(2\)"),
        ({"emission": lambda: GaussianEmission(5, 1)}, r"weights \(100, 5\) .* inputs \(2\)"),
        ({"emission": lambda: GaussianEmission(2, 2)}, "an emission with 2 outputs, not 1"),
        ({"emission": lambda: GaussianEmission(2, 1).double()}, "a scale of torch.float64 on cpu"),
        ({"field": lambda: MLPField(2).double()}, "a field with weights of torch.float64 on cpu"),
        ({"field": lambda: MLPField(2).to("meta")}, "weights of torch.float32 on meta"),
        ({"field": lambda: MLPField(3)}, r"a field with weights \(100, 3\)"),
        ({"emission": wide_scale}, r"a scale of shape \(3,\) for 1 features"),
    ],
)
@pytest.mark.parametrize("way", ["native", "vjp"])
def test_what_does_not_fit_is_left_to_pytorch(
    way: Engine, options: dict[str, Callable[[], nn.Module]], reason: str
) -> None:
    made = model()
    for name, make in options.items():  # put in afterwards: a new model would refuse some
        setattr(made, name, make())
    with pytest.raises(ValueError, match=f"'{way}' can do, got .*{reason}"):
        log_density(made, way)
    with pytest.raises((RuntimeError, ValueError), match=r"dtype|device|shape|size|features"):
        log_density(made, "auto")  # what PyTorch says of it


@pytest.mark.parametrize(
    ("states", "values", "reason"),
    [
        ({}, {"dtype": torch.float64}, "a series of torch.float64 on cpu for torch.float32"),
        ({}, {"device": "meta"}, "a series of torch.float32 on meta"),
        ({"dtype": torch.bfloat16}, {}, "latent states of torch.bfloat16"),
    ],
)
def test_states_and_series_are_alike(
    states: dict[str, Any], values: dict[str, Any], reason: str
) -> None:
    made = model()
    given = series().to(**values)
    seen = Seen(given, made.field, made.emission, 0.0, "rk4", 0.1)
    found = problem(seen, torch.zeros(N, 2, **states))
    assert isinstance(found, str) and reason in found


def test_a_step_and_matrices_are_needed() -> None:
    made = model()
    seen = Seen(series(), made.field, made.emission, 0.0, "rk4", None)
    assert problem(seen, torch.zeros(N, 2)) == "a trajectory whose step is not chosen yet"
    made.field.layers[0].weight = nn.Parameter(torch.ones(2))
    found = problem(replace(seen, step_size=0.1), torch.zeros(N, 2))
    assert isinstance(found, str) and "a field with weights (2,)" in found


def without_bias(made: LatentODE) -> None:
    made.field.layers[0].bias = None


def another_forward(made: LatentODE) -> None:
    made.field.forward = lambda t, z: -z


def backward_hook(made: LatentODE) -> None:
    made.emission.network.register_full_backward_hook(lambda *_: None)


def forward_hook(made: LatentODE) -> None:
    made.emission.network.register_forward_hook(lambda *_: None)


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (without_bias, "a field with a layer without bias"),
        (another_forward, "a forward of its own"),
        (backward_hook, "a network with hooks"),
        (forward_hook, "a network with hooks"),
    ],
)
@pytest.mark.parametrize("way", ["native", "vjp"])
def test_altered_networks_are_left_to_pytorch(
    way: Engine, alter: Callable[[LatentODE], None], reason: str
) -> None:
    made = model()
    alter(made)
    with pytest.raises(ValueError, match=f"'{way}' can do, got .*{reason}"):
        log_density(made, way)
    assert torch.equal(log_density(made, "auto"), log_density(made, "eager"))


@pytest.mark.parametrize("way", FUSED)
def test_states_may_lie_at_the_first_time(way: Engine) -> None:
    made = model(t0=0.7)
    given = Series(torch.tensor([0.7, 0.8, 1.0]), torch.ones(N, 3, 1))
    found = [potential(made, given, engine=name)(torch.ones(1, 2 * N)) for name in (way, "eager")]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    ("times", "told"),
    [([0.1, 1.0], "times from 0.1 to 1 for"), ([0.2, 0.2], "times from 0.2 to 0.2 for")],
)
def test_times_before_the_states_or_none_after_them_are_told(times: list[float], told: str) -> None:
    made, mask = model(), torch.tensor([[True, False]] * N)  # a padded tail repeats its last time
    given = Series(torch.tensor(times), torch.zeros(N, 2, 1), mask)
    seen = Seen(given, made.field, made.emission, 0.2, "rk4", 0.1)
    assert problem(seen, torch.zeros(N, 2)) == f"{told} states at 0.2"


@pytest.mark.parametrize("strategy", ["vmap", "loop", "plate"])
@pytest.mark.parametrize("way", ["native", "vjp"])
def test_a_program_without_a_latent_ode_is_refused(way: Engine, strategy: Strategy) -> None:
    told = f"'{way}' can do, got a program that observes no latent ODE; use 'auto'"
    with pytest.raises(ValueError, match=told):
        potential(height, engine=way, strategy=strategy)(torch.zeros(2, 1))
    plain = potential(height, strategy=strategy)
    with engine(way), pytest.raises(ValueError, match=told):
        plain(torch.zeros(2, 1))
    assert plain.picked == "eager"


@pytest.mark.parametrize("way", FUSED)
def test_who_watches_outside_is_told_too(way: Engine) -> None:
    program = Program.read(model(), series())
    with engines.watching() as seen, engine(way):
        program.log_density(torch.ones(N, 2))
    assert seen == [way]
