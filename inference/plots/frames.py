"""Pictures of videos, and of what latents tell of them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor

from .panels import CYCLE, MUTED, POSTERIOR, Picture, array, panels

INK_ON_WHITE = "gray_r"


def plot_frames(
    rows: Mapping[str, Tensor],
    shape: tuple[int, int],
    *,
    seen: Mapping[str, Tensor] | None = None,
    horizon: int | None = None,
    every: int = 1,
) -> Figure:
    """Videos as rows of frames, one below the other.

    Args:
        rows: name -> frames ``(T, height * width)`` in [0, 1], as many in each row.
        shape: height and width.
        seen: name -> ``(T,)`` bool; frames of that row which are not are left empty.
        horizon: the frame from which on a row extrapolates: a line before it.
        every: show each so-many-th frame.

    Raises:
        ValueError: for no row, or rows of other sizes.

    Example:
        >>> import torch
        >>> figure = plot_frames({"data": torch.rand(6, 16), "mean": torch.rand(6, 16)}, (4, 4))
        >>> len(figure.axes)
        12
    """
    frames = _frames(rows, shape)
    length = len(next(iter(frames.values())))
    shown = range(0, length, every)
    close = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    figure = Picture(figsize=(0.62 * len(shown) + 1.1, 0.68 * len(rows)), layout=close)
    grid = figure.subplots(len(rows), len(shown), squeeze=False)
    for axes, (name, video) in zip(grid, frames.items(), strict=True):
        there = None if seen is None or name not in seen else array(seen[name])
        for ax, k in zip(axes, shown, strict=True):
            ax.set(xticks=[], yticks=[])
            for side in ax.spines.values():
                side.set(color=MUTED, linewidth=0.4)
            if there is None or there[k]:
                ax.imshow(video[k], cmap=INK_ON_WHITE, vmin=0, vmax=1, interpolation="nearest")
            else:
                ax.set(box_aspect=shape[0] / shape[1])
            if horizon is not None and k >= horizon > k - every:
                ax.spines["left"].set(color=POSTERIOR, linewidth=2.5)
        axes[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    return figure


def animate_frames(
    rows: Mapping[str, Tensor],
    shape: tuple[int, int],
    path: str | os.PathLike[str],
    *,
    frames_per_second: float = 8.0,
) -> None:
    """Videos side by side, as an animated GIF.

    Args:
        rows, shape: as for `plot_frames`.
        path: of the file.
        frames_per_second: how fast.

    Raises:
        ValueError: as `plot_frames` does.
    """
    frames = _frames(rows, shape)
    figure, axes = panels(len(rows), len(rows), (1.9, 1.9))
    images = []
    for ax, (name, video) in zip(axes, frames.items(), strict=True):
        ax.set(xticks=[], yticks=[])
        ax.set_title(name, fontsize=9)
        images.append(ax.imshow(video[0], cmap=INK_ON_WHITE, vmin=0, vmax=1))

    def show(k: int) -> Sequence[object]:
        for image, video in zip(images, frames.values(), strict=True):
            image.set_data(video[k])
        return images

    length = len(next(iter(frames.values())))
    film = FuncAnimation(figure, show, frames=length)  # type: ignore[arg-type]
    film.save(os.fspath(path), writer=PillowWriter(fps=round(frames_per_second)), dpi=90)


def plot_latents(
    blocks: Mapping[str, Tensor],
    colours: Mapping[str, Tensor],
    *,
    method: str = "pca",
    seed: int = 0,
) -> Figure:
    """Blocks of latents in two dimensions, a column each, coloured by a factor in each row.

    Args:
        blocks: name -> ``(n, dim)``, such as those of static and of dynamic latents.
        colours: name -> ``(n,)``; integers are classes.
        method: ``"pca"`` or ``"tsne"``.
        seed: of t-SNE.

    Raises:
        ValueError: for another method, or no block or colour.
    """
    if method not in ("pca", "tsne"):
        raise ValueError(f"method: expected 'pca' or 'tsne', got {method!r}")
    if not blocks or not colours:
        raise ValueError("blocks, colours: expected at least one of each, got none of one")
    figure, axes = panels(len(blocks) * len(colours), len(blocks), (3.0, 2.6))
    flat = {name: _plane(array(z), method, seed) for name, z in blocks.items()}
    pairs = itertools.product(colours.items(), flat.items())
    for ax, ((factor, value), (block, points)) in zip(axes, pairs, strict=True):
        if value.is_floating_point():
            dots = ax.scatter(*points.T, c=array(value), s=9, cmap="viridis", lw=0)
            figure.colorbar(dots, ax=ax).outline.set_visible(False)
        else:
            for i, label in enumerate(value.unique().tolist()):
                part = points[array(value) == label]
                ax.scatter(*part.T, s=9, color=CYCLE[i % len(CYCLE)], lw=0, label=str(label))
            ax.legend(fontsize=7, frameon=False, markerscale=1.5, ncols=2)
        ax.set(xticks=[], yticks=[])
        ax.set_title(f"{block}, by {factor}", fontsize=9, loc="left")
    return figure


def _plane(z: np.ndarray, method: str, seed: int) -> np.ndarray:
    if z.shape[1] == 1:
        return np.concatenate([z, np.zeros_like(z)], 1)
    if method == "pca":
        return np.asarray(PCA(2).fit_transform(z))
    near = min(30.0, (len(z) - 1) / 3)
    return np.asarray(TSNE(2, perplexity=near, random_state=seed, init="pca").fit_transform(z))


def _frames(rows: Mapping[str, Tensor], shape: tuple[int, int]) -> dict[str, np.ndarray]:
    if not rows:
        raise ValueError("rows: expected at least one, got none")
    length = len(next(iter(rows.values())))
    for name, video in rows.items():
        if video.shape != (length, shape[0] * shape[1]):
            raise ValueError(
                f"rows[{name!r}]: expected shape ({length}, {shape[0] * shape[1]}), "
                f"got {tuple(video.shape)}"
            )
    return {name: array(video).reshape(length, *shape) for name, video in rows.items()}
