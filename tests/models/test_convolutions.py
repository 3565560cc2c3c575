"""Images from states, and features from frames: shapes, times by themselves, a model of them."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from pyro_lebm import Series
from pyro_lebm.inference import (
    ConvolutionalReader,
    EncoderGuide,
    GRUEncoder,
    ODERNNEncoder,
    fit,
)
from pyro_lebm.models import Deconvolution, GaussianEmission, LatentODE
from pyro_lebm.models.datasets import bouncing_balls


@pytest.mark.parametrize("shape", [(28, 28), (3, 10, 7), (1, 1)])
@pytest.mark.parametrize("channels", [(8,), (8, 4, 4)])
def test_any_size_of_image(shape: tuple[int, ...], channels: tuple[int, ...]) -> None:
    network = Deconvolution(5, shape, channels)
    z = torch.randn(2, 4, 5)
    found = network(z)
    assert found.shape == (2, 4, torch.Size(shape).numel())
    assert torch.allclose(found[1, 2], network(z[1, 2]), atol=1e-6)
    assert network(z[:0]).shape == (0, 4, found.shape[-1])
    grown = torch.autograd.grad(found.square().sum(), list(network.parameters()))
    assert all(bool((g != 0).any()) for g in grown)


def test_an_image_is_row_by_row() -> None:
    network = Deconvolution(2, (2, 4, 6), (3,))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.ups[-1].bias.copy_(torch.tensor([1.0, 2.0]))
    assert network(torch.zeros(2)).tolist() == [1.0] * 24 + [2.0] * 24


@pytest.mark.parametrize("kind", [GRUEncoder, ODERNNEncoder])
def test_encoders_read_frames(kind: Any) -> None:
    torch.manual_seed(0)
    series = bouncing_balls(4, frames=6)
    reader = ConvolutionalReader((28, 28), 12, (4, 8))
    encoder = kind(784, 16, features=6, reader=reader)
    found = encoder(series)
    assert found.shape == (4, 6)
    # what is hidden is not seen, whatever stands there
    half = series.hide(3, torch.Generator().manual_seed(0))
    other = Series(half.times, torch.where(half.mask, half.values, 7.0), half.mask)
    assert torch.equal(encoder(half), encoder(other))
    assert not torch.allclose(encoder(half), found)
    # and a hidden part of a frame is told from an empty one
    mask = series.mask.clone()
    mask[:, :, 500:] = False
    assert not torch.allclose(
        encoder(Series(series.times, series.values, mask)),
        encoder(Series(series.times, series.values * mask)),
    )


def test_a_video_is_learned() -> None:
    torch.manual_seed(0)
    series = bouncing_balls(8, frames=5)
    emission = GaussianEmission(6, 784, network=Deconvolution(6, (28, 28), (8, 4)))
    model = LatentODE(4, 784, static=2, emission=emission)
    encoder = GRUEncoder(784, features=12, reader=ConvolutionalReader((28, 28), 16, (4, 8)))
    history = fit(model, EncoderGuide(model, series, encoder), series, max_steps=30, progress=False)
    losses = history.frame["loss"]
    assert losses.iloc[-5:].mean() < losses.iloc[:5].mean()
    assert model.generate(2, series.times).shape == (2, 5, 784)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (28,)}, "shape, channels: expected (height, width) or"),
        ({"channels": ()}, "at least one of the other, got (28, 28) and ()"),
        ({"shape": (28, 0)}, "shape[1]: expected a size of at least 1, got 0"),
        ({"latent": 0}, "latent: expected a size of at least 1, got 0"),
        ({"activation": "sine"}, "activation: expected one of"),
    ],
)
def test_networks_that_are_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Deconvolution(**{"latent": 3, "shape": (28, 28), **options})


@pytest.mark.parametrize("options", [{"shape": (28,)}, {"features": 0}, {"channels": ()}])
def test_readers_that_are_none(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="shape, features, channels: expected"):
        ConvolutionalReader(**{"shape": (28, 28), **options})
