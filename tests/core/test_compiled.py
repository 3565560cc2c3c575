"""Engines that compile: the same densities as PyTorch's, compiled once for a structure."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from compiled_models import MODELS, picking, seen
from pyro_lebm import engine
from pyro_lebm.dynamics.langevin import State, evaluate
from pyro_lebm.programs.potential import Potential, potential
from pyro_lebm.programs.program import Program

jax = pytest.importorskip("jax")

from pyro_lebm import inductor  # noqa: E402
from pyro_lebm.xla import compiled  # noqa: E402

NAMES = ("xla", "compile")
each_engine = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of torch.compile but the code that it writes, which takes long."""
    monkeypatch.setattr(inductor, "BACKEND", "aot_eager")


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def under(name: Any, target: Callable[[Tensor], Tensor], z: Tensor) -> State:
    with engine(name):
        return evaluate(target, z)


def same(name: str, target: Callable[[Tensor], Tensor], z: Tensor, rtol: float = 1e-9) -> None:
    found, right = under(name, target, z), under("eager", target, z)
    assert torch.allclose(found.log_density, right.log_density, rtol=rtol, atol=rtol)
    scale = right.gradient.abs().max()
    assert float((found.gradient - right.gradient).abs().max()) <= rtol * float(1 + scale)


# unrolled loops take torch.compile half a minute each
TRIED = [("xla", m) for m in MODELS] + [
    ("compile", m) for m in MODELS if m not in ("energy and trajectory", "random walk")
]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("name", "model"), TRIED)
def test_values_and_gradients_are_those_of_torch(name: Any, model: str) -> None:
    torch.manual_seed(0)
    target = MODELS[model]()
    z = 0.5 * torch.randn(3, target.dim)
    same(name, target.log_density, z)
    with engine(name):
        assert target.picked == name
        alone = torch.stack([target.single(one) for one in z])
        mapped = torch.func.vmap(target.single)(z)
    assert torch.allclose(alone, target(z))
    assert torch.allclose(mapped, target(z))


def sizes(name: str) -> tuple[int, int]:
    """How many structures are compiled, and how many functions of them."""
    if name == "compile":
        return (len(inductor._KNOWN),) * 2
    known = [one for _, one in compiled._KNOWN]
    return len(known), sum(one.slopes._cache_size() for one in known)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("double")
@each_engine
def test_other_weights_and_data_are_not_compiled_again(name: str) -> None:
    model, x, mask = seen()
    program, z = Program.read(model, x, mask), torch.randn(5, 2)
    same(name, program.log_density, z)
    before = sizes(name)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3)
    same(name, program.log_density, z)
    x.mul_(2.0)
    same(name, program.log_density, z)
    model.first.weight.data = torch.randn(2, 2)
    same(name, program.log_density, z)
    same(name, program.rebind(torch.randn(5, 2), torch.rand(5, 2) < 0.5).log_density, z)
    if name == "xla":  # numbers are arguments too
        same(name, Program.read(model, x, mask, scale=0.7).log_density, z)
    same(name, Program.read(seen(seed=1)[0], x, mask).log_density, z)
    assert sizes(name) == before
    same(name, Program.read(*seen(n=4)).log_density, z[:4])
    assert sizes(name) == (before[0] + 1, before[1] + 1)


@pytest.mark.usefixtures("double")
@each_engine
def test_weights_that_were_equal_and_are_no_more(name: str) -> None:
    model, x, mask = seen()
    with torch.no_grad():
        model.second.weight.copy_(model.first.weight)
    program, z = Program.read(model, x, mask), torch.randn(5, 2)
    same(name, program.log_density, z)
    with torch.no_grad():
        model.second.weight.add_(1.0)
    same(name, program.log_density, z)


@pytest.mark.usefixtures("double")
def test_masks_that_shapes_hang_on_are_compiled_in() -> None:
    z = torch.randn(2, 4)
    masks = torch.tensor([[1, 0, 1, 1], [1, 1, 1, 0], [0, 1, 0, 0], [1, 0, 1, 1]]).bool()
    for mask in masks:
        same("xla", potential(picking, mask).log_density, z)


@pytest.mark.usefixtures("double")
def test_counts_are_not_compiled_in_with_a_mask(caplog: pytest.LogCaptureFixture) -> None:
    def model(mask: Tensor, counts: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        chosen = dist.Poisson(z[mask].sum().exp().expand(3)).to_event(1)
        pyro.sample("x", chosen, obs=counts.double())
        pyro.sample("y", dist.Normal((z.sum() * counts), 1.0).to_event(1), obs=torch.ones(3))

    caplog.set_level("INFO", "pyro_lebm")
    z, mask = torch.randn(2, 4), torch.tensor([True, False, True, True])
    for counts in ([1, 2, 3], [4, 0, 1], [7, 7, 9]):
        same("xla", potential(model, mask, torch.tensor(counts)).log_density, z)
    told = [text for text in caplog.messages if "'xla' compiles a program" in text]
    assert len(told) == 1 and "1 masks" in told[0]


def test_only_some_compiled_functions_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "MOST", 3)
    masks = torch.tensor([[1, 0, 1, 1], [0, 1, 1, 0], [0, 1, 1, 1], [1, 1, 0, 1], [0, 0, 1, 1]])
    for mask in masks.bool():
        same("xla", potential(picking, mask).log_density, torch.randn(2, 4), rtol=1e-5)
        assert len(compiled._KNOWN) <= 3


@each_engine
def test_single_precision_stays_single(name: str) -> None:
    model, x, mask = seen()
    state = under(name, Program.read(model, x, mask).log_density, torch.randn(5, 2))
    assert state.gradient.dtype == torch.float32
    same(name, Program.read(model, x, mask).log_density, torch.randn(5, 2), rtol=1e-5)


@each_engine
def test_without_gradients_and_under_inference_mode(name: Any) -> None:
    model, x, mask = seen()
    program, z = Program.read(model, x, mask), torch.randn(3, 5, 2)
    with torch.inference_mode():
        right = program.log_density(z)
        with engine(name):
            assert torch.allclose(program.log_density(z), right, atol=1e-5)


@each_engine
def test_second_derivatives_are_refused(name: Any) -> None:
    model, x, mask = seen()
    program, z = Program.read(model, x, mask), torch.randn(5, 2, requires_grad=True)
    with engine(name):
        (slope,) = torch.autograd.grad(program.log_density(z).sum(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="got second ones"):
        slope.sum().backward()


def honest() -> None:
    """As `looking`, operation by operation."""
    pyro.sample("z", dist.Normal(0.5, 0.1))
    pyro.sample("x", dist.Normal(0.3, 0.1), obs=torch.tensor(1.0))


def branching() -> None:
    x = pyro.sample("x", dist.Normal(1.0, 1.0))
    pyro.sample("y", dist.Normal(x, 2.0 if bool(x > 0) else 1.0), obs=torch.ones(()))


def looking() -> None:
    z = pyro.sample("z", dist.Normal(0.5, 0.1))
    pyro.sample("x", dist.Normal(float(z.detach().numpy()), 0.1), obs=torch.tensor(1.0))


class Own(torch.autograd.Function):
    """A function that torch knows nothing of."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *seeds: Tensor) -> Any:
        return 2 * seeds[0]


def opaque() -> None:
    z = pyro.sample("z", dist.Normal(0.5, 0.1))
    twice: Any = Own.apply
    pyro.sample("x", dist.Normal(twice(z), 0.1), obs=torch.tensor(1.0))


@each_engine
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (opaque, "expected what can be recorded, got what cannot after site 'z' .* engine 'eager'"),
        (branching, "expected the same operations whatever the latent values"),
        (looking, "its translation is another function: log density"),
    ],
)
def test_what_cannot_be_followed_is_refused_not_wrong(
    model: Callable[[], None], message: str, name: Any
) -> None:
    torch.manual_seed(0)
    potential(honest, engine=name)(torch.randn(2, 1))
    target: Potential = potential(model, engine=name)
    with pytest.raises(ValueError, match=message):
        target(torch.randn(2, target.dim))


@each_engine
def test_a_further_plate_is_refused_not_computed_otherwise(name: Any) -> None:
    with pytest.raises(ValueError, match=f"strategy: .* with engine='{name}', .* got 'plate'"):
        potential(honest, engine=name, strategy="plate")
    target = potential(honest, strategy="plate")
    with pytest.raises(ValueError, match=f"with engine='{name}', .* got 'plate'"), engine(name):
        target(torch.randn(2, 1))


def test_without_jax_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'pyro-lebm\[numpyro\]'"), engine("xla"):
        pass


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler here")
def test_what_torch_compile_writes_is_right_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inductor, "BACKEND", "inductor")
    model, x, mask = seen(n=3)
    same("compile", Program.read(model, x, mask).log_density, torch.randn(3, 2), rtol=1e-5)
