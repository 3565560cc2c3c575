"""Images: loaders of colour ones, on small files in the published formats; images as series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat

from pyro_lebm.models.datasets import cifar10, image_series, svhn
from pyro_lebm.models.datasets.colour import RECORD


def batch(n: int, seed: int) -> np.ndarray:
    records = np.random.default_rng(seed).integers(0, 256, (n, RECORD), dtype=np.uint8)
    records[:, 0] %= 10
    return records


def test_cifar_images_come_colour_by_colour_row_by_row(tmp_path: Path) -> None:
    records = batch(3, 0)
    records.tofile(tmp_path / "test_batch.bin")
    images, labels = cifar10(tmp_path, "test")
    assert images.shape == (3, 3, 32, 32) and labels.tolist() == records[:, 0].tolist()
    # the green of row 5, column 7
    assert float(images[1, 1, 5, 7]) == pytest.approx(records[1, 1 + 1024 + 5 * 32 + 7] / 255)


def test_training_parts_are_disjoint_and_of_all_batches(tmp_path: Path) -> None:
    for i in (1, 3):
        batch(10, i).tofile(tmp_path / f"data_batch_{i}.bin")
    parts = [cifar10(tmp_path, part)[0] for part in ("train", "validation")]
    assert [len(part) for part in parts] == [12, 4]
    rows = torch.cat(parts).flatten(1)
    assert len(rows.unique(dim=0)) == 16


def test_svhn_zero_is_zero(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    savemat(tmp_path / "test_32x32.mat", {"X": pixels, "y": np.array([[1], [10], [9], [2]])})
    images, labels = svhn(tmp_path, "test")
    assert labels.tolist() == [1, 0, 9, 2]
    assert float(images[2, 1, 5, 7]) == pytest.approx(pixels[5, 7, 1, 2] / 255)


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data_batch_1\.bin"):
        cifar10(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"train_32x32\.mat"):
        svhn(tmp_path)
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(RECORD + 1))
    with pytest.raises(ValueError, match="3074 bytes in all"):
        cifar10(tmp_path)
    (tmp_path / "data_batch_1.bin").write_bytes(bytes([77]) + bytes(RECORD - 1))
    with pytest.raises(ValueError, match="labels from 0 to 9, got 77"):
        cifar10(tmp_path)
    (tmp_path / "train_32x32.mat").write_bytes(b"no matrix")
    with pytest.raises(ValueError, match="expected a MATLAB file"):
        svhn(tmp_path)
    savemat(tmp_path / "train_32x32.mat", {"X": np.zeros((32, 32, 3, 2)), "y": np.ones((2, 1))})
    with pytest.raises(ValueError, match="expected bytes X"):
        svhn(tmp_path)
    with pytest.raises(ValueError, match="split"):
        svhn(tmp_path, "all")


@pytest.mark.parametrize("damage", ["short", "flipped", "text", "nan", "none", "large"])
def test_damaged_svhn_files_are_refused(damage: str, tmp_path: Path) -> None:
    path, pixels = tmp_path / "test_32x32.mat", np.zeros((32, 32, 3, 4), np.uint8)
    labels: Any = {
        "text": np.array([["a"] * 4]),
        "nan": np.full((4, 1), np.nan),
        "large": np.full((4, 1), 30),
    }.get(damage, np.ones((4, 1)))
    if damage == "none":
        pixels, labels = pixels[..., :0], labels[:0]
    savemat(path, {"X": pixels, "y": labels}, do_compression=damage == "flipped")
    whole = bytearray(path.read_bytes())
    if damage == "short":
        whole = whole[:1000]
    elif damage == "flipped":
        whole[len(whole) // 2] ^= 255
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"test_32x32\.mat: expected"):
        svhn(tmp_path, "test")


@pytest.mark.parametrize("shape", [(3, 2, 5), (3, 4, 2, 5)])
def test_an_image_is_a_series_of_one_time(shape: tuple[int, ...]) -> None:
    images = torch.rand(shape, dtype=torch.float64)
    series = image_series(images)
    assert series.values.dtype == torch.float64 and series.times.tolist() == [0.0]
    assert torch.equal(series.values, images.reshape(3, 1, -1)) and bool(series.mask.all())
    with pytest.raises(ValueError, match=r"images: expected shape .* got \(3, 10\)"):
        image_series(images.reshape(-1)[:30].reshape(3, 10))
    with pytest.raises(ValueError, match="images: expected shape"):
        image_series(images[:0])
