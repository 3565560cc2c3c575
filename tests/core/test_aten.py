"""ATen operations as functions of JAX arrays: values and gradients are torch's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aten_cases import CASES, TIES, Case, m, sq

jax = pytest.importorskip("jax")

from pyro_lebm.recorded.graph import Graph  # noqa: E402
from pyro_lebm.recorded.record import Recorder, capture  # noqa: E402
from pyro_lebm.xla.aten import TABLE  # noqa: E402
from pyro_lebm.xla.aten_entries import array  # noqa: E402
from pyro_lebm.xla.translate import Translation  # noqa: E402


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """Both in double precision."""
    torch.set_default_dtype(torch.float64)
    with jax.enable_x64(True):
        yield
    torch.set_default_dtype(torch.float32)


# torch's own constants, of single precision
ROUGH = {"hardsigmoid": 1e-6}


def total(result: Any) -> Tensor:
    """One number of a function's result, the first of several."""
    found: Tensor = result[0] if isinstance(result, tuple) else result
    return (found * 1.0).sum()


def to_jax(graph: Graph) -> Any:
    """The graph as a function of its input alone."""
    translation = Translation(graph)
    constants = translation.bind(graph.constants)
    return lambda z: translation(z, constants)


def compare(function: Case, reference: Case, points: list[Tensor], rtol: float = 1e-8) -> None:
    """Value and gradient of the translation, captured at the first point, and torch's."""
    translation = to_jax(capture(lambda x: total(function(x)), points[0], Recorder()))
    both = jax.jit(jax.value_and_grad(translation))
    for point in points:
        x = point.clone().requires_grad_()
        expected = total(reference(x))
        (gradient,) = torch.autograd.grad(expected, x)
        value, slope = both(point.numpy())
        np.testing.assert_allclose(value, expected.item(), rtol=rtol, atol=1e-12)
        scale = gradient.abs().max().item()
        np.testing.assert_allclose(slope, gradient.numpy(), rtol=rtol, atol=rtol * scale + 1e-12)


def points() -> list[Tensor]:
    source = torch.Generator().manual_seed(3)
    return [torch.randn(12, generator=source, dtype=torch.float64) for _ in range(2)]


@pytest.mark.parametrize(
    "name",
    CASES,
)
def test_is_torchs(name: str) -> None:
    compare(CASES[name], CASES[name], points(), ROUGH.get(name, 1e-8))


def test_the_table_holds_nothing_that_torch_takes_apart_before() -> None:
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    for name in TABLE:
        packet = getattr(torch.ops.aten, name.split(".")[0], None)
        overloads = [] if packet is None else [getattr(packet, o) for o in packet.overloads()]
        kept = [o.name() for o in overloads if o._schema.name.startswith("aten::")]
        kept = [o for o in kept if torch._C._dispatch_has_kernel(o)]
        assert not kept or not all(has(o, "CompositeImplicitAutograd") for o in kept), name


@pytest.mark.parametrize("name", TIES)
def test_is_torchs_at_ties(name: str) -> None:
    compare(TIES[name], TIES[name], [torch.zeros(12)])


def lower(x: Tensor) -> Tensor:
    return torch.tril(x) + torch.tril(x, -1).T


ONE_TRIANGLE: dict[str, tuple[Case, Case]] = {
    "cholesky": (torch.linalg.cholesky, lambda a: torch.linalg.cholesky(lower(a))),
    "cholesky upper": (
        lambda a: torch.linalg.cholesky(a, upper=True),
        lambda a: torch.linalg.cholesky(lower(a.T)).T,
    ),
    "eigh": (lambda a: torch.linalg.eigh(a)[1] ** 2, lambda a: torch.linalg.eigh(lower(a))[1] ** 2),
    "eigvalsh": (
        lambda a: torch.linalg.eigvalsh(a, UPLO="U").exp(),
        lambda a: torch.linalg.eigvalsh(lower(a.T)).exp(),
    ),
}


@pytest.mark.parametrize("name", ONE_TRIANGLE)
def test_of_one_triangle(name: str) -> None:
    """Only one is read; torch's own gradient shares what is its between both."""
    function, symmetric = ONE_TRIANGLE[name]
    weights = torch.arange(1.0, 10.0).reshape(3, 3)

    def weighed(of: Case) -> Case:
        def sum_of(x: Tensor) -> Tensor:
            found: Tensor = of(sq(x) + 2 * torch.eye(3))
            return found * (weights if found.ndim == 2 else weights[0])

        return sum_of

    compare(weighed(function), weighed(symmetric), points())
    # JAX's eigh reads both triangles where it has a gradient to find, and one where it has none
    x = points()[0]
    found = to_jax(capture(lambda x: total(weighed(function)(x)), x, Recorder()))(x.numpy())
    np.testing.assert_allclose(found, total(weighed(symmetric)(x)).item(), rtol=1e-8)


def test_batch_norm_in_training_is_refused() -> None:
    layer = nn.BatchNorm1d(4)
    graph = capture(lambda x: layer(m(x)), points()[0], Recorder())
    with pytest.raises(ValueError, match=r"call \.eval\(\)"):
        to_jax(graph)(points()[0].numpy())


def test_mask_of_latent_values_is_refused() -> None:
    graph = capture(lambda x: torch.masked_select(x, x > 0), points()[0], Recorder())
    with pytest.raises(ValueError, match="masked_select"):
        to_jax(graph)(points()[0].numpy())


def test_a_loop_of_other_types_than_it_began_with_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def narrowing(x: Any) -> Any:
        return jax.numpy.tanh(x).astype("float16")

    def function(x: Tensor) -> Tensor:
        for _ in range(6):
            x = torch.tanh(x)
        return x

    monkeypatch.setitem(TABLE, "tanh", narrowing)
    graph = capture(function, points()[0], Recorder())
    with pytest.raises(ValueError, match=r"needs aten\.tanh\.default and what follows it in a way"):
        to_jax(graph)(points()[0].numpy())


def test_constants_in_single_precision() -> None:
    with jax.enable_x64(False):
        large = array(torch.tensor([2**40, -1]))
        np.testing.assert_array_equal(large, np.array([2.0**40, -1.0], np.float32))
        assert array(torch.tensor([2, 3])).dtype == np.int32
        assert np.isinf(array(torch.tensor([torch.inf, 1.0]))).tolist() == [True, False]
        with pytest.raises(ValueError, match=r"1e\+39, does not fit single precision"):
            array(torch.tensor([1.0, 1e39]))
    assert array(torch.tensor([2**40])).dtype == np.int64
