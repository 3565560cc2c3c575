"""Pictures of videos show every frame once, and refuse what is none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from pyro_lebm.inference import plots

VIDEO = torch.rand(6, 12, generator=torch.Generator().manual_seed(0))


def test_frames_are_where_they_belong() -> None:
    rows = {"data": VIDEO, "mean": VIDEO.flip(0)}
    seen = {"data": torch.tensor([True, False, True, True, True, True])}
    figure = plots.plot_frames(rows, (3, 4), seen=seen, horizon=4)
    images = [ax.images[0].get_array() if ax.images else None for ax in figure.axes]
    assert [image is None for image in images] == [False, True, *[False] * 10]
    first, last = images[0], images[6]
    assert first is not None and last is not None
    assert torch.equal(torch.as_tensor(first.data), VIDEO[0].reshape(3, 4))
    assert torch.equal(torch.as_tensor(last.data), VIDEO[5].reshape(3, 4))
    wide = [ax.spines["left"].get_linewidth() > 1 for ax in figure.axes]
    assert wide == [k % 6 == 4 for k in range(12)]
    assert len(plots.plot_frames(rows, (3, 4), every=2, horizon=3).axes) == 6


def test_an_animation_has_every_frame(tmp_path: Path) -> None:
    path = tmp_path / "film.gif"
    plots.animate_frames({"data": VIDEO, "mean": 1 - VIDEO}, (3, 4), path)
    with Image.open(path) as film:
        assert film.n_frames == 6  # type: ignore[attr-defined]


def test_latents_in_a_plane() -> None:
    blocks = {"static": torch.randn(40, 3), "dynamic": torch.randn(40, 1)}
    colours = {"label": torch.arange(40) % 3, "size": torch.rand(40)}
    for method in ("pca", "tsne"):
        figure = plots.plot_latents(blocks, colours, method=method)
        titles = [ax.get_title(loc="left") for ax in figure.axes if ax.get_title(loc="left")]
        assert titles == [
            "static, by label",
            "dynamic, by label",
            "static, by size",
            "dynamic, by size",
        ]


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="rows: expected at least one"):
        plots.plot_frames({}, (3, 4))
    with pytest.raises(ValueError, match=re.escape("rows['b']: expected shape (6, 12), got (5,")):
        plots.plot_frames({"a": VIDEO, "b": VIDEO[:5]}, (3, 4))
    with pytest.raises(ValueError, match="method: expected 'pca' or 'tsne', got 'umap'"):
        plots.plot_latents({"z": VIDEO}, {"c": torch.arange(6)}, method="umap")
    with pytest.raises(ValueError, match="blocks, colours: expected at least one of each"):
        plots.plot_latents({"z": VIDEO}, {})
