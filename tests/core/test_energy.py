"""Energy networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pyro_lebm.energy import (
    ACTIVATIONS,
    ConvolutionalEnergy,
    JointEnergy,
    LayerwiseEnergy,
    MLPEnergy,
)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_a_fresh_energy_is_zero_and_can_learn(activation: str) -> None:
    energy = MLPEnergy(3, hidden=(8, 5), activation=activation)
    z = torch.randn(4, 7, 3)
    assert energy(z).shape == (4, 7)
    assert energy(z).eq(0).all()
    energy(z).sum().backward()
    last = energy.net[-1]
    assert isinstance(last, torch.nn.Linear)
    assert last.weight.grad is not None and last.weight.grad.ne(0).any()


def test_one_number_per_point_whatever_the_batch() -> None:
    energy = MLPEnergy(2, hidden=())
    assert [p.shape for p in energy.parameters()] == [(1, 2), (1,)]
    assert energy(torch.zeros(2)).shape == ()
    assert energy.double()(torch.zeros(5, 2, dtype=torch.float64)).dtype == torch.float64


def test_energies_see_every_point_alone() -> None:
    energy = MLPEnergy(2)
    torch.nn.init.normal_(energy.net[-1].weight)  # type: ignore[arg-type]
    z = torch.randn(6, 2)
    alone = torch.stack([energy(point) for point in z])
    assert torch.allclose(energy(z), alone, atol=1e-5)
    assert energy(z).std() > 0


@pytest.mark.parametrize(("dim", "hidden"), [(0, (3,)), (2, (3, 0)), (-1, ())])
def test_sizes_below_one_are_refused(dim: int, hidden: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="dim, hidden: expected sizes of at least 1, got"):
        MLPEnergy(dim, hidden=hidden)


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"activation: expected one of .*'silu'.*, got swish"):
        MLPEnergy(2, activation="swish")


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 8, 8), (3, 5, 7)])
def test_a_convolutional_energy_takes_maps_of_any_size(shape: tuple[int, int, int]) -> None:
    energy = ConvolutionalEnergy(shape, channels=(4, 3))
    z = torch.randn(2, 6, *shape, generator=torch.Generator().manual_seed(0))
    assert energy(z).shape == (2, 6) and energy(z).eq(0).all()
    last = energy.net[-1]
    assert isinstance(last, torch.nn.Linear)
    torch.manual_seed(0)
    torch.nn.init.normal_(last.weight)
    alone = torch.stack([energy(point) for point in z.flatten(0, 1)])
    torch.testing.assert_close(energy(z).flatten(), alone)
    assert alone.std() > 0
    mapped = torch.func.vmap(energy)(z)  # as a kernel's chains are
    torch.testing.assert_close(mapped, energy(z))


@pytest.mark.parametrize(
    ("shape", "channels"), [((0, 3, 3), (2,)), ((1, 3, 3), ()), ((1, 3, 3), (2, 0))]
)
def test_maps_and_channels_below_one_are_refused(shape: Any, channels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape, channels: expected sizes of at least 1"):
        ConvolutionalEnergy(shape, channels)
    with pytest.raises(ValueError, match="activation"):
        ConvolutionalEnergy((1, 4, 4), activation="swish")


def square(z: torch.Tensor) -> torch.Tensor:
    return (z**2).sum(-1)


class Square(torch.nn.Module):
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return square(z)


def test_energies_of_several_sites_add_up_or_see_them_side_by_side() -> None:
    a = torch.arange(10.0).reshape(5, 2)
    b = torch.ones(5, 2, 1, 3)
    c = torch.arange(5.0)
    layers = LayerwiseEnergy({"a": Square(), "c": torch.nn.Identity()})
    torch.testing.assert_close(layers({"a": a, "b": b, "c": c}), square(a) + c)
    joint = JointEnergy(Square(), {"a": 1, "b": 3, "c": 0})
    expected = square(a) + 6 + c**2
    torch.testing.assert_close(joint({"a": a, "b": b, "c": c}), expected)


def test_sites_may_have_any_name() -> None:
    energy = LayerwiseEnergy({"a.b": Square(), "type": torch.nn.Identity()})
    found = energy({"type": torch.ones(3), "a.b": torch.ones(3, 2)})
    torch.testing.assert_close(found, torch.full((3,), 3.0))


def test_an_energy_of_no_site_is_refused() -> None:
    with pytest.raises(ValueError, match="energies: expected at least one"):
        LayerwiseEnergy({})
    with pytest.raises(ValueError, match="sites: expected at least one"):
        JointEnergy(MLPEnergy(2), {})
