"""Vector fields: what they compute, that solvers and vmap accept them, what bad input gets."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pyro_lebm.models import fields
from pyro_lebm.models.fields import ACTIVATIONS, MLP, MLPField, by_rows
from pyro_lebm.trajectories.ode import interpolate, trajectory

NOW = torch.tensor(0.5)


def test_plain_field_is_the_network_written_out() -> None:
    field, z = MLPField(3, (8,)), torch.randn(5, 3)
    first, second = field.layers
    hidden = torch.tanh(z @ first.weight.T + first.bias)
    assert torch.allclose(field(NOW, z), hidden @ second.weight.T + second.bias, atol=1e-6)
    assert torch.equal(field(NOW, z), field(NOW + 1, z))


def test_weights_start_small_and_biases_at_zero() -> None:
    field = MLPField(50, (400,))
    for layer in field.layers:
        assert layer.weight.std().item() == pytest.approx(0.1, rel=0.05)
        assert not layer.bias.any()


@pytest.mark.parametrize("hidden", [(), (7,), (7, 6, 5)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_any_depth_and_activation(activation: str, hidden: tuple[int, ...]) -> None:
    field = MLPField(3, hidden, activation, time=True, covariates=2)
    z = torch.randn(4, 5, 3, requires_grad=True)
    out = field(NOW, z, torch.randn(5, 2))
    assert out.shape == z.shape
    wanted = [z, *field.parameters()]
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.square().sum(), wanted))


def test_time_and_covariates_enter_before_the_activation() -> None:
    field = MLPField(3, (8,), time=True, covariates=2)
    z, u = torch.randn(5, 3), torch.randn(5, 2)
    first, second = field.layers
    assert field.clock is not None and field.control is not None
    hidden = torch.tanh(first(z) + 0.5 * field.clock + u @ field.control.T)
    assert torch.allclose(field(NOW, z, u), second(hidden), atol=1e-6)


def test_covariates_broadcast_over_draws() -> None:
    field = MLPField(3, covariates=2)
    z, u = torch.randn(4, 5, 3), torch.randn(5, 2)
    assert torch.allclose(field(NOW, z, u)[2], field(NOW, z[2], u), atol=1e-6)


def test_driven_trajectory_has_gradients_under_vmap() -> None:
    field = MLPField(3, (8,), time=True, covariates=2)
    times = torch.tensor([0.2, 1.0, 0.7])
    control = interpolate(torch.linspace(0, 1, 4), torch.randn(5, 4, 2))

    def energy(z0: Tensor) -> Tensor:
        path = trajectory(lambda t, z: field(t, z, control(t)), z0, times, t0=0.0, step_size=0.25)
        return path.square().sum()

    chains = torch.randn(6, 5, 3)
    looped = torch.stack([torch.func.grad(energy)(z0) for z0 in chains])
    batched = torch.func.vmap(torch.func.grad(energy))(chains)
    assert torch.allclose(batched, looped, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("own", [False, True], ids=["MLP", "a network of one's own"])
@pytest.mark.parametrize("shape", [(500, 3), (50, 10, 3), (5, 10, 10, 3)])
def test_slices_change_nothing(
    shape: tuple[int, ...], own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 2))
    network = layers if own else MLP(3, 2, (8,))
    x = torch.randn(shape, requires_grad=True)
    wanted = [x, *network.parameters()]
    whole = network(x)
    whole_gradients = torch.autograd.grad(whole.square().sum(), wanted)
    monkeypatch.setattr(fields, "SLICE", 8 * 64)
    sliced = by_rows(network, x)
    sliced_gradients = torch.autograd.grad(sliced.square().sum(), wanted)
    assert sliced.grad_fn is not None and "View" in type(sliced.grad_fn).__name__
    assert torch.allclose(sliced, whole, atol=1e-6)
    for a, b in zip(sliced_gradients, whole_gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "latent": (lambda: MLPField(0), r"latent: expected a size of at least 1, got 0"),
    "hidden": (lambda: MLPField(2, (8, 0)), r"hidden\[1\]: expected a size of at least 1, got 0"),
    "covariates": (lambda: MLPField(2, covariates=-1), r"covariates: expected 0 or more, got -1"),
    "activation": (
        lambda: MLPField(2, activation="step"),
        r"activation: expected one of tanh, .* got 'step'",
    ),
    "outputs": (lambda: MLP(2, 0), r"outputs: expected a size of at least 1, got 0"),
    "missing u": (
        lambda: MLPField(2, covariates=3)(NOW, torch.zeros(4, 2)),
        r"u: expected covariates of size 3 \(0: none\), got 0",
    ),
    "wrong u": (
        lambda: MLPField(2, covariates=3)(NOW, torch.zeros(4, 2), torch.zeros(4, 1)),
        r"u: expected covariates of size 3 \(0: none\), got 1",
    ),
    "needless u": (
        lambda: MLPField(2)(NOW, torch.zeros(4, 2), torch.zeros(4, 1)),
        r"u: expected covariates of size 0 \(0: none\), got 1",
    ),
}


KINDS: dict[str, tuple[Callable[[], object], str]] = {
    "latent": (lambda: MLPField(2.0), r"latent: expected a whole number, got 2\.0"),
    "outputs": (lambda: MLP(2, True), r"outputs: expected a whole number, got True"),
    "covariates": (
        lambda: MLPField(2, covariates=1.5),
        r"covariates: expected a whole number, got 1\.5",
    ),
    "a width": (
        lambda: MLPField(2, (8, 8.5)),
        r"hidden\[1\]: expected a whole number, got 8\.5",
    ),
    "hidden": (
        lambda: MLP(2, 2, 64),
        r"hidden: expected a sequence of widths, such as \(64,\), got 64",
    ),
}


@pytest.mark.parametrize("case", KINDS)
def test_what_is_no_number_is_named(case: str) -> None:
    call, message = KINDS[case]
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case: str) -> None:
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()
