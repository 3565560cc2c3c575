"""Fused engines compute what the program says, or leave it to PyTorch and say why."""

from __future__ import annotations

from typing import Any

import pyro
import pytest
import torch
from torch import Tensor, nn

from fused_engines import FUSED, needs_native
from pyro_lebm import Series, engine, potential
from pyro_lebm.dynamics.langevin import evaluate
from pyro_lebm.engines import Engine
from pyro_lebm.models import (
    BernoulliEmission,
    GaussianEmission,
    LatentODE,
    MLPField,
    PoissonEmission,
)
from pyro_lebm.models.fused import chosen
from pyro_lebm.observations.seen import SeenPath
from pyro_lebm.programs.program import Program

N, D = 37, 3  # more than two blocks of lanes, the last not full
SIZES = (11, 4, D)  # times, latent, observed
DEEP = {"hidden": (9, 5)}


def extreme() -> PoissonEmission:
    """Log rates above, below and within the limits."""
    emission = PoissonEmission(4, D, (20,))
    with torch.no_grad():
        emission.network.layers[-1].bias.copy_(torch.tensor([25.0, -25.0, 0.0]))
    return emission


CASES: dict[str, dict[str, Any]] = {
    "gaussian": {"emission": lambda: GaussianEmission(4, D, (20,))},
    "a scale each": {"emission": lambda: GaussianEmission(4, D, per_feature=True)},
    "bernoulli": {"emission": lambda: BernoulliEmission(4, D, (20,)), "binary": True},
    "poisson": {"emission": lambda: PoissonEmission(4, D, (20,)), "counts": True},
    "extreme rates": {"emission": extreme, "counts": True},
    "own times": {"own": True},
    "deep": {
        "field": lambda: MLPField(4, **DEEP),
        "emission": lambda: GaussianEmission(4, D, **DEEP),
    },
    "linear": {
        "field": lambda: MLPField(4, ()),
        "emission": lambda: GaussianEmission(4, D, ()),
    },
    "one of each": {
        "field": lambda: MLPField(1, (20,)),
        "emission": lambda: GaussianEmission(1, 1),
        "sizes": (1, 1, 1),
    },
    "static latents": {"static": 2, "emission": lambda: GaussianEmission(6, D, (20,))},
    "static latents that drive": {
        "static": 2,
        "driving": True,
        "field": lambda: MLPField(4, (20,), covariates=2),
        "emission": lambda: GaussianEmission(6, D, (20,)),
    },
    "static latents that drive a linear field": {
        "static": 2,
        "driving": True,
        "field": lambda: MLPField(4, (), covariates=2),
        "emission": lambda: GaussianEmission(6, D, ()),
    },
    "an early start": {"t0": -0.7},
    "a late start": {"t0": 2.3, "own": True},
    "many steps": {"step": 0.006},  # too many to keep: they are taken twice
    **{
        name: {
            "field": lambda name=name: MLPField(4, (20,), name),
            "emission": lambda name=name: GaussianEmission(4, D, activation=name),
        }
        for name in ("softplus", "elu", "silu", "relu")
    },
}
# of the largest: sums of thousands of terms in another order, along paths that spread errors
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-3}
DTYPES = [torch.float64, torch.float32]


def data(case: dict[str, Any], dtype: torch.dtype) -> Series:
    length, _, observed = case.get("sizes", SIZES)
    times = torch.rand(N, length) if case.get("own") else torch.rand(length)
    times = case.get("t0", 0.0) + 3 * times.sort(-1).values
    values = torch.randn(N, length, observed)
    if case.get("binary"):
        values = (values > 0).float()
    if case.get("counts"):
        values = values.abs().round()
    values[torch.rand(values.shape) < 0.3] = torch.nan
    values[:, 0] = values[:, 0].nan_to_num(0.0)
    return Series(times, values).to(dtype=dtype)


def built(name: str, dtype: torch.dtype = torch.float32) -> tuple[LatentODE, Series]:
    torch.manual_seed(0)
    case = CASES[name]
    _, latent, observed = case.get("sizes", SIZES)
    field = case.get("field", lambda: MLPField(4, (20,)))()
    emission = case.get("emission", lambda: None)()
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    model = LatentODE(
        latent,
        observed,
        static=case.get("static", 0),
        static_in_field=case.get("driving", False),
        field=field,
        emission=emission,
        t0=case.get("t0", 0.0),
    )
    model.load_state_dict({**model.state_dict(), "step_size": torch.tensor(case.get("step", 0.1))})
    return model.to(dtype=dtype), data(case, dtype)


def close(a: Tensor, b: Tensor) -> bool:
    return float((a - b).abs().max()) <= TOLERANCE[a.dtype] * max(float(b.abs().max()), 1.0)


def gradients(
    model: LatentODE, series: Series, z0: Tensor, weight: Tensor, way: Engine
) -> list[Tensor]:
    """In all parameters, where each sequence counts differently."""
    with engine(way):
        fixed = pyro.poutine.condition(model, data={"z0": z0})
        trace = pyro.poutine.trace(fixed).get_trace(series)
        node: Any = trace.nodes["x"]
        log_prob = node["fn"].log_prob(node["value"])
    assert isinstance(node["fn"], SeenPath) == (way != "eager")
    parameters = [*model.field.parameters(), *model.emission.parameters()]
    return list(torch.autograd.grad((weight * log_prob).sum(), parameters))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lead", [(), (3,)], ids=["once", "chains"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("way", FUSED)
def test_densities_and_gradients_in_the_states(
    way: Engine, name: str, lead: tuple[int, ...], dtype: torch.dtype
) -> None:
    model, series = built(name, dtype)
    program = Program.read(model, series)
    z = torch.randn(*lead, N, model.static + model.latent, dtype=series.values.dtype)
    with engine("eager"):
        expected = evaluate(program.log_density, z)
    with engine(way):
        found = evaluate(program.log_density, z)
        with torch.no_grad():
            value = program.log_density(z)
    assert close(found.log_density, expected.log_density)
    assert close(found.gradient, expected.gradient)
    assert close(value, expected.log_density)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("way", FUSED)
def test_gradients_in_the_parameters(way: Engine, name: str, dtype: torch.dtype) -> None:
    model, series = built(name, dtype)
    z0 = torch.randn(N, model.static + model.latent, dtype=series.values.dtype)
    weight = torch.rand(N, dtype=series.values.dtype)
    found, expected = (gradients(model, series, z0, weight, w) for w in (way, "eager"))
    for ours, theirs in zip(found, expected, strict=True):
        assert close(ours, theirs)


@needs_native
def test_threads_do_not_change_it() -> None:
    model, series = built("gaussian")
    program, z, found = Program.read(model, series), torch.randn(5, N, 4), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            with engine("native"):
                found.append(evaluate(program.log_density, z))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0].log_density, found[1].log_density)
    assert torch.equal(found[0].gradient, found[1].gradient)


@pytest.mark.parametrize("way", FUSED)
def test_what_overflows_has_no_density(way: Engine) -> None:
    model, series = built("gaussian")
    program, z = Program.read(model, series), torch.randn(N, 4)
    z[3] = torch.nan
    z[5] = 1e38
    with engine(way):
        state = evaluate(program.log_density, z)
    assert bool(torch.isinf(state.log_density[[3]]).all())
    assert int(torch.isinf(state.log_density).sum()) <= 2  # and nobody else's
    assert bool(torch.isfinite(state.gradient).all())


@pytest.mark.parametrize("way", FUSED)
def test_other_values_and_draws_are_left_to_pytorch(way: Engine) -> None:
    model, series = built("gaussian")
    with engine(way):
        trace = pyro.poutine.trace(model).get_trace(series)
    fn: Any = trace.nodes["x"]["fn"]
    draws = torch.randn(2, *series.values.shape)
    assert torch.equal(fn.log_prob(draws), fn.plain.log_prob(draws))
    ours, theirs = (x.log_prob(draws[0]).detach() for x in (fn, fn.plain))  # fused for one set
    assert close(ours, theirs)
    assert fn.sample().shape == series.values.shape
    assert fn.mean.shape == series.values.shape
    assert fn.expand((N,)) is fn and fn.expand((2, N)).batch_shape == (2, N)


@pytest.mark.parametrize("way", FUSED)
def test_second_derivatives_are_refused_not_wrong(way: Engine) -> None:
    model, series = built("gaussian")
    program = Program.read(model, series)
    z = torch.randn(N, 4, requires_grad=True)
    with engine(way):
        (first,) = torch.autograd.grad(program.log_density(z).sum(), z, create_graph=True)
        with pytest.raises(RuntimeError, match=r"got second ones; .*engine\('eager'\)"):
            torch.autograd.grad(first.sum(), z)


@pytest.mark.parametrize("way", FUSED)
def test_a_potential_tells_its_engine(way: Engine) -> None:
    model, series = built("gaussian")
    z = torch.randn(2, N * 4)
    fused, eager = (potential(model, series, engine=w) for w in (way, "eager"))
    assert (fused.picked, eager.picked) == (way, "eager")
    assert close(fused(z), eager(z))
    with engine("eager"):
        assert potential(model, series).picked == "eager"
        assert fused.picked == way


@needs_native
def test_native_code_is_taken_first() -> None:
    assert potential(*built("gaussian")).picked == "native"


def test_native_code_is_for_a_cpu() -> None:
    elsewhere = torch.empty(N, 4, device="meta")
    assert chosen(elsewhere) == "vjp"
    with engine("native"), pytest.raises(ValueError, match=r"'native' can do, got .* on meta"):
        chosen(elsewhere)


class Hidden(nn.Module):
    """A field that nobody knows."""

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return -z


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"field": Hidden()}, "a field that is no plain MLPField: Hidden"),
        ({"field": MLPField(2, time=True)}, "no plain MLPField"),
        ({"field": MLPField(2, activation="gelu")}, "a field with the activation gelu"),
        ({"emission": GaussianEmission(2, 1, network=nn.Linear(2, 1))}, "no plain MLP: Linear"),
        ({"method": "heun"}, "a trajectory by heun"),
    ],
)
@pytest.mark.parametrize("way", ["native", "vjp"])
def test_what_it_cannot_do_is_told(way: Engine, options: dict[str, Any], reason: str) -> None:
    torch.manual_seed(0)
    model = LatentODE(2, 1, **options)
    series = Series(torch.linspace(0.1, 1, 5), torch.zeros(3, 5, 1))
    z = torch.zeros(3, 2)
    told = f"engine: expected what '{way}' can do, got .*{reason}"
    with engine(way), pytest.raises(ValueError, match=told):
        Program.read(model, series).log_density(z)
    assert Program.read(model, series).log_density(z).shape == (3,)  # "auto" does it otherwise


def test_an_unknown_engine_is_refused() -> None:
    name: Any = "fast"
    with pytest.raises(ValueError, match=r"engine: expected one of .* got 'fast'"), engine(name):
        pass
