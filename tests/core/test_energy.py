"""Energy networks."""

from __future__ import annotations

import pytest
import torch

from pyro_lebm.energy import ACTIVATIONS, MLPEnergy


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
