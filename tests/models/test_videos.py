"""Digits that turn and balls that bounce, as they are described; files of MNIST's format."""

from __future__ import annotations

import gzip
import math
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_lebm.models.datasets import bouncing_balls, digit_images, rotating_digits
from pyro_lebm.models.datasets.digits import turned
from pyro_lebm.models.datasets.idx import read_idx


def test_a_quarter_turn_is_counterclockwise() -> None:
    image = torch.arange(16.0).reshape(1, 4, 4) / 16
    assert torch.allclose(turned(image, torch.tensor([math.pi / 2])), image.rot90(1, (-2, -1)))
    assert torch.allclose(turned(image, torch.tensor([0.0])), image)


def test_digits_turn_once_in_fifteen_frames() -> None:
    series, truth = rotating_digits(30, frames=46, truth=True, seed=1)
    assert torch.allclose(series.times[[0, 15, 45]], torch.tensor([0.0, 1.0, 3.0]))
    video = series.values
    assert video.min() >= 0 and video.max() <= 1 and video.shape == (30, 46, 100)
    for turn in (15, 30, 45):
        assert torch.allclose(video[:, 0], video[:, turn], atol=1e-4)
    assert (video[:, 0] - video[:, 7]).abs().mean() > 0.05
    step = truth["angle"].diff(dim=1)
    assert torch.allclose(step, torch.full_like(step, 2 * math.pi / 15), atol=1e-4)
    # the ink turns but does not leave
    ink = video.sum(-1)
    assert (ink - ink.mean(1, keepdim=True)).abs().max() < 0.1 * ink.mean()
    assert torch.allclose(ink.mean(1) / 64, truth["thickness"], atol=0.02)


def test_parts_of_the_digits_share_no_image() -> None:
    parts = [digit_images(split)[0].flatten(1) for split in ("train", "validation", "test")]
    assert sum(map(len, parts)) == 1797
    pictures = {tuple(row) for part in parts for row in part.tolist()}
    assert len(pictures) == 1797
    assert set(rotating_digits(40, classes=[2, 7], truth=True)[1]["label"].tolist()) == {2, 7}
    # each image once before any twice
    few = digit_images("test")[0]
    video = rotating_digits(len(few), split="test", truth=True)[1]["thickness"]
    assert torch.equal(video.sort().values, few.mean((-2, -1)).sort().values)


def idx(values: torch.Tensor) -> bytes:
    header = struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return header + bytes(values.flatten().tolist())


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    for part, n in (("train", 10), ("t10k", 4)):
        images = torch.arange(n * 12, dtype=torch.uint8).reshape(n, 4, 3)
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        labels = torch.arange(n, dtype=torch.uint8)
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return tmp_path


def test_mnist_from_a_folder(mnist: Path) -> None:
    images, labels = digit_images("test", mnist)
    assert labels.tolist() == [0, 1, 2, 3] and images.shape == (4, 4, 3)
    assert torch.allclose(images[1, 0], torch.tensor([12.0, 13.0, 14.0]) / 255)
    train, validation = (digit_images(split, mnist)[1] for split in ("train", "validation"))
    assert len(train) == 6 and len(validation) == 2
    assert not set(train.tolist()) & set(validation.tolist())
    assert rotating_digits(3, folder=mnist, pad=2).values.shape == (3, 16, 56)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an IDX file of bytes"),
        (b"\0\0\x0d\1" + bytes(8), "expected an IDX file of bytes"),
        (idx(torch.zeros(5, 5, dtype=torch.uint8))[:-1], "truncated"),
        (b"\0\0\x08\3" + bytes(4), "truncated"),
    ],
)
def test_files_that_are_no_idx_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_idx(tmp_path, "x")
    (tmp_path / "y.gz").write_bytes(gzip.compress(content)[:-3])
    with pytest.raises(ValueError, match="gzipped"):
        read_idx(tmp_path, "y")
    with pytest.raises(FileNotFoundError, match=re.escape("expected z or z.gz")):
        read_idx(tmp_path, "z")


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    values = torch.randint(0, 9, (5, 40), dtype=torch.uint8, generator=torch.Generator())
    whole, refused = gzip.compress(idx(values)), 0
    for bit in range(0, 8 * len(whole), 3):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        (tmp_path / "x.gz").write_bytes(changed)
        try:
            assert torch.equal(read_idx(tmp_path, "x"), values)  # of a header's date, or the like
        except ValueError as error:
            assert "x.gz: expected a gzipped file, got" in str(error)
            refused += 1
    assert refused > 2 * len(whole)  # of 8/3 flips a byte


def test_balls_obey_their_laws() -> None:
    series, truth = bouncing_balls(200, frames=40, truth=True)
    x, v, friction = truth["position"], truth["velocity"], truth["friction"]
    assert series.values.shape == (200, 40, 784) and series.times.tolist() == list(range(40))
    assert x.abs().max() <= 4 + 1e-6
    assert x[:, 0].abs().max() <= 3 and v[:, 0].norm(dim=-1).allclose(torch.ones(200))
    assert 0 <= friction.min() < 0.001 and 0.019 < friction.max() <= 0.02
    lost = -v.norm(dim=-1).diff(dim=1)
    assert torch.allclose(lost, friction[:, None].expand_as(lost), atol=1e-5)
    # straight on, where no wall is near
    free = (x[:, :-1].abs() < 3).all(-1) & (x[:, 1:].abs() < 3).all(-1)
    moved = x.diff(dim=1)
    assert free.double().mean() > 0.3
    assert torch.allclose(moved[free], v[:, :-1][free], atol=1e-5)
    rests = bouncing_balls(50, frames=60, friction=(0.05, 0.05), truth=True)[1]["velocity"]
    assert rests[:, -1].abs().max() == 0


def test_a_picture_shows_the_ball_where_it_is() -> None:
    series, truth = bouncing_balls(20, truth=True)
    picture = series.values.reshape(20, 20, 28, 28)
    assert picture.min() >= 0 and picture.max() <= 1
    pixel = (torch.arange(28) + 0.5) * 10 / 28 - 5
    weight = picture / picture.sum((-2, -1), keepdim=True)
    right = (weight.sum(-2) * pixel).sum(-1)
    up = (weight.sum(-1) * -pixel).sum(-1)
    assert torch.allclose(right, truth["position"][..., 0], atol=0.05)
    assert torch.allclose(up, truth["position"][..., 1], atol=0.05)


def test_gravity_pulls_down() -> None:
    options: dict[str, Any] = {"friction": (0.0, 0.0), "truth": True}
    there, here = (bouncing_balls(50, gravity=g, **options)[1]["velocity"] for g in (0.0, 0.1))
    gained = here[:, 1] - there[:, 1]  # few meet a wall within a frame
    assert torch.allclose(gained.median(0).values, torch.tensor([0.0, -0.1]), atol=1e-5)
    assert torch.equal(here[:, 0], there[:, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n, frames: expected at least 1 and 2, got 0 and 20"),
        ({"frames": 1}, "got 1000 and 1"),
        ({"friction": (0.2, 0.1)}, "friction: expected (low, high)"),
        ({"friction": (-0.1, 0.1)}, "friction: expected (low, high)"),
    ],
)
def test_balls_refuse(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        bouncing_balls(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n, frames, pad: expected at least 1, 2 and 0, got 0, 16 and 1"),
        ({"pad": -1}, "got 600, 16 and -1"),
        ({"classes": [11]}, "classes: expected digits that there are images of, got [11]"),
        ({"split": "all"}, "split: expected one of ['train', 'validation', 'test'], got 'all'"),
    ],
)
def test_digits_refuse(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        rotating_digits(**options)
