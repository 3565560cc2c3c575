"""TransformerEmission: PyTorch's own layer, times that see each other, an emission behind."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_lebm.models import GaussianEmission, PoissonEmission, TransformerEmission
from pyro_lebm.models.transformer import EncoderLayer, positions


def lively(**options: Any) -> TransformerEmission:
    """One that is far from the plain emission."""
    emission = TransformerEmission(PoissonEmission(3, 2), 3, **{"width": 16, "heads": 2} | options)
    nn.init.normal_(emission.outward.weight)
    return emission


def test_a_layer_is_pytorchs() -> None:
    ours = EncoderLayer(16, 4)
    theirs = nn.TransformerEncoderLayer(
        16, 4, 32, 0.0, activation="gelu", batch_first=True, norm_first=True
    )
    with torch.no_grad():
        for norm in (ours.first, ours.second):
            norm.weight.normal_()
            norm.bias.normal_()
        theirs.self_attn.in_proj_weight.copy_(ours.asked.reshape(48, 16))
        theirs.self_attn.in_proj_bias.zero_()
    theirs.self_attn.out_proj.load_state_dict(ours.back.state_dict())
    theirs.norm1.load_state_dict(ours.first.state_dict())
    theirs.norm2.load_state_dict(ours.second.state_dict())
    theirs.linear1.load_state_dict(ours.wide.state_dict())
    theirs.linear2.load_state_dict(ours.narrow.state_dict())
    x = torch.randn(5, 7, 16)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2])
def test_leading_dimensions_chains_and_double(layers: int) -> None:
    emission = lively(layers=layers).double()
    path = torch.randn(4, 5, 6, 3).double()
    rates = emission(path).mean
    assert rates.shape == (4, 5, 6, 2) and torch.allclose(emission.mean(path), rates)
    alone = torch.stack([emission.mean(one) for one in path.flatten(0, 1)]).view_as(rates)
    assert torch.allclose(rates, alone)
    assert torch.allclose(torch.func.vmap(emission.mean)(path), rates)
    slope = torch.func.vmap(torch.func.grad(lambda z: emission.mean(z).sum()))(path)
    leaf = path.clone().requires_grad_(True)
    (exact,) = torch.autograd.grad(emission.mean(leaf).sum(), leaf)
    assert torch.allclose(slope, exact)


def test_times_see_each_other_and_their_order() -> None:
    emission, path = lively(), torch.randn(6, 3)
    moved = path + torch.eye(6)[4, :, None]
    assert bool((emission.read(path) != emission.read(moved)).any(-1).all())
    turned = emission.read(path.flip(0)).flip(0)
    assert not torch.allclose(turned, emission.read(path), atol=1e-2)
    assert emission(path[:1]).batch_shape == (1, 2)


def test_it_starts_near_the_plain_emission() -> None:
    plain = GaussianEmission(3, 2)
    emission, path = TransformerEmission(plain, 3), torch.randn(50, 6, 3)
    near = (emission.read(path) - path).std()
    # B of N(0, .01^2) times 64 numbers of variance 1: .08, for these 9,600 not twice as much
    assert 0 < near < 0.16
    assert torch.allclose(emission.mean(path), plain.mean(path), atol=0.3)


def test_positions_are_sinusoids_of_the_index() -> None:
    found = positions(torch.zeros(2, 50, 6).double())
    k = torch.arange(50.0).double()
    for i in range(3):
        angle = k / 1e4 ** (2 * i / 6)
        assert torch.allclose(found[:, i], angle.sin()) and torch.allclose(
            found[:, 3 + i], angle.cos()
        )
    assert found.shape == (50, 6)


class Told(GaussianEmission):  # type: ignore[misc]
    """An emission that is told what is observed."""

    def seen(self, path: Tensor, mask: Tensor) -> dist.TorchDistribution:
        return dist.Normal(self.read(path) * mask, self.scale)


def test_what_is_observed_is_passed_on() -> None:
    path, mask = torch.randn(5, 6, 3), torch.rand(5, 6, 2) > 0.5
    emission = TransformerEmission(Told(3, 2), 3, width=16)
    expected = torch.where(mask, emission.mean(path), 0.0)
    assert torch.allclose(emission.seen(path, mask).mean, expected)
    plain = lively()
    assert torch.allclose(plain.seen(path, mask).mean, plain.mean(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 0}, "heads: expected a size of at least 1, got 0"),
        ({"layers": 0}, "layers: expected a size of at least 1, got 0"),
        ({"width": 20, "heads": 4}, r"width: expected a multiple of 2 \* heads=8, got 20"),
    ],
)
def test_bad_sizes_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformerEmission(PoissonEmission(3, 2), 3, **options)


def test_an_emission_of_other_states_is_refused() -> None:
    message = "emission: expected one of states of size 4, got one of 3"
    with pytest.raises(ValueError, match=message):
        TransformerEmission(PoissonEmission(3, 2), 4)


def test_other_heads_are_another_model() -> None:
    with pytest.raises(RuntimeError, match=r"layers\.0\.asked"):
        lively(heads=4).load_state_dict(lively(heads=2).state_dict())
