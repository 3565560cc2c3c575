"""Generated images against real ones, in the features of a network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image import fid

from pyro_lebm.checkpoint import CheckpointError
from pyro_lebm.inference.scores import (
    ClassifierFeatures,
    InceptionFeatures,
    classifier_features,
    fidelity,
)
from pyro_lebm.models.datasets import digit_images


class Pixels(nn.Module):
    num_features = 3

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def normal(n: int, seed: int) -> Tensor:
    return torch.randn(n, 1, 3, 1, generator=torch.Generator().manual_seed(seed))


def test_the_frechet_distance_of_normals_is_known() -> None:
    """Standard errors below .03 at 20,000 images: a false alarm below 1e-6 at .2."""
    real, other = normal(20_000, 0), normal(20_000, 1)
    scale = torch.tensor([2.0, 1.0, 0.5]).reshape(3, 1)
    found = fidelity(1.0 + scale * other, real, other, Pixels())
    expected = 3 * 1.0 + float(((scale - 1) ** 2).sum())
    assert found.frechet == pytest.approx(expected, abs=0.2)
    assert 0 <= found.frechet_floor < 0.01
    # E (x.y/3 + 1)^3 of the shifted side, less the others: positive, and nothing for the floor
    assert found.kernel > 1 and abs(found.kernel_floor) < 0.05


def test_both_distances_grow_with_what_is_wrong() -> None:
    real, other = normal(2000, 0), normal(2000, 1)
    near, far = (fidelity(other + by, real, other, Pixels()) for by in (0.2, 1.0))
    assert near.frechet_floor < near.frechet < far.frechet
    assert near.kernel_floor < near.kernel < far.kernel
    assert near == fidelity(other + 0.2, real, other, Pixels(), batch_size=7)


def test_few_images_for_the_features_are_told() -> None:
    with pytest.warns(UserWarning, match="20 images are few for 3 features"):
        fidelity(normal(20, 0), normal(2000, 1), normal(20, 2), Pixels())


BAD: dict[str, tuple[Any, str]] = {
    "numbers": (
        (normal(9, 0), normal(9, 1), normal(8, 2)),
        "held_out: expected as many .* 9, got 8",
    ),
    "one": ((normal(1, 0), normal(9, 1), normal(1, 2)), "expected at least 2 images each, got 1"),
    "nan": ((normal(9, 0) * math.nan, normal(9, 1), normal(9, 2)), "generated: expected finite"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_images_are_refused(case: str) -> None:
    images, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        fidelity(*images, Pixels())


def test_a_classifier_of_digits_knows_them(tmp_path: Path) -> None:
    images, labels = digit_images()
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    network = classifier_features(images, labels, epochs=8)
    assert torch.equal(state, torch.random.get_rng_state())
    test, truth = digit_images("test")
    right = (network.logits(test).argmax(-1) == truth).float().mean()
    # of 360 at .95 the standard error is .012; chance is .1
    assert float(right) > 0.9 and float(network.accuracy) > 0.85
    assert network(test).shape == (360, 32) and network.num_features == 32
    network.save(tmp_path / "features.pt")
    again = ClassifierFeatures.load(tmp_path / "features.pt")
    assert torch.equal(again(test), network(test)) and again.accuracy == network.accuracy
    (tmp_path / "other.pt").write_bytes(b"no file")
    with pytest.raises(CheckpointError):
        ClassifierFeatures.load(tmp_path / "other.pt")


def test_colours_and_flat_images_are_taken() -> None:
    images = torch.rand(40, 3, 9, 7)
    network = classifier_features(images, torch.arange(40) % 4, num_features=5, epochs=1)
    assert network(images).shape == (40, 5)
    assert torch.equal(network(images.flatten(1)), network(images))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(30, 4), torch.zeros(30).long(), "images, labels: expected"),
        (torch.zeros(30, 4, 4), torch.zeros(29).long(), "images, labels: expected"),
        (torch.zeros(9, 4, 4), torch.zeros(9).long(), "n at least 20, got"),
        (torch.zeros(30, 4, 4), torch.zeros(30), "labels: expected whole numbers"),
        (torch.zeros(30, 4, 4), -torch.ones(30).long(), "labels: expected whole numbers"),
    ],
)
def test_bad_training_images_are_refused(images: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classifier_features(images, labels)


def test_inception_is_shown_bytes_of_three_colours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Network(nn.Module):
        def __init__(self, **options: Any) -> None:
            super().__init__()
            assert options["feature_extractor_weights_path"] == str(tmp_path / "weights.pth")

        def forward(self, images: Tensor) -> Tensor:
            assert images.dtype == torch.uint8
            return images.float().mean((2, 3))

    monkeypatch.setattr(fid, "NoTrainInceptionV3", Network)
    with pytest.raises(FileNotFoundError, match="weights: expected a file"):
        InceptionFeatures(tmp_path / "weights.pth")
    (tmp_path / "weights.pth").touch()
    features = InceptionFeatures(tmp_path / "weights.pth")
    assert features(torch.full((2, 4, 4), 0.5)).tolist() == [[128.0] * 3] * 2
    colour = torch.zeros(1, 3, 4, 4)
    colour[:, 1] = 7.0
    assert features(colour).tolist() == [[0.0, 255.0, 0.0]]
