"""Pictures of data, predictions and energies; each function returns a matplotlib Figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from torch import Tensor

from pyro_lebm.series import Series

from ..scores import interval
from .chains import plot_chains, plot_convergence
from .frames import animate_frames, plot_frames, plot_latents
from .panels import (
    CYCLE,
    INK,
    MUTED,
    PALE,
    POSTERIOR,
    PRIOR,
    Picture,
    array,
    legend,
    outer_labels,
    panels,
    tidy,
)
from .ranks import plot_calibration

__all__ = [
    "animate_frames",
    "plot_calibration",
    "plot_chains",
    "plot_convergence",
    "plot_energy",
    "plot_frames",
    "plot_generated",
    "plot_latents",
    "plot_sequences",
]


def plot_sequences(
    series: Series,
    predictions: Tensor,
    times: Tensor | None = None,
    *,
    target: Series | None = None,
    truth: Tensor | None = None,
    horizon: float | None = None,
    sequences: Sequence[int] = (0, 1, 2, 3, 4, 5),
    feature: int = 0,
    columns: int = 3,
    time_label: str = "time",
    value_label: str = "x",
) -> Figure:
    """Small multiples of sequences with 50 % and 90 % predictive bands and the mean.

    Args:
        series: what was given; its observed points are filled dots.
        predictions: predictive draws ``(chains, draws, N, T, D)``, at least 19 in all.
        times: ``(T,)`` or ``(N, T)`` of the predictions; None: the series' own.
        target: the same sequences with hidden points, which become hollow dots.
        truth: ``(N, T, D)`` at the predictions' times, a dashed line.
        horizon: the time from which on the prediction extrapolates; shaded.
        sequences: which to show.
        feature: which of the D.
        columns: panels a row.
        time_label: with its unit.
        value_label: with its unit.

    Raises:
        ValueError: if shapes disagree.
    """
    times = series.times if times is None else times
    n, length = len(series), times.shape[-1]
    if predictions.dim() != 5 or predictions.shape[2:4] != (n, length):
        raise ValueError(
            f"predictions: expected shape (chains, draws, {n}, {length}, D), "
            f"got {tuple(predictions.shape)}"
        )
    shown = [i for i in sequences if i < n]
    if not shown:
        raise ValueError(f"sequences: expected some below {n}, got {list(sequences)}")
    if target is not None and target.mask.shape == series.mask.shape:
        target = target.without(series)
    sample = predictions[..., feature].flatten(0, 1)
    figure, axes = panels(len(shown), columns, (3.4, 2.3), sharex=True, sharey=True)
    for i, ax in zip(shown, axes, strict=True):
        t = array(times.expand(n, length)[i])
        if horizon is not None:
            ax.axvspan(horizon, t[-1], color=PALE, zorder=0, label="extrapolation")
        _bands(ax, t, sample[:, i])
        if truth is not None:
            ax.plot(
                t, array(truth[i, :, feature]), color=INK, lw=0.9, ls=(0, (4, 2)), label="truth"
            )
        ax.plot(t, array(sample[:, i].mean(0)), color=POSTERIOR, lw=1.4, label="mean")
        if target is not None:
            _dots(ax, target, i, feature, label="hidden", mfc="white", mec=MUTED, mew=0.8)
        _dots(ax, series, i, feature, label="observed", mfc=INK, mec="white", mew=0.4)
        ax.set_title(f"sequence {int(series.index[i])}", fontsize=9, color=MUTED, loc="left")
        ax.margins(x=0.01)
    outer_labels(axes, columns, time_label, value_label)
    legend(figure, axes[0])
    return figure


def plot_energy(
    log_density: Callable[[Tensor], Tensor],
    prior: Tensor,
    posterior: Tensor | None = None,
    *,
    depth: float = 12.0,
    grid: int = 90,
    title: str = "learned prior",
) -> Figure:
    """The log density in the plane of the draws' first two principal components, and the draws.

    With two latent dimensions the plane is everything. With more, contours are the slice through
    the draws' mean, whereas the draws are projected onto it.

    Args:
        log_density: ``(M, L)`` -> ``(M,)``, unnormalised, in nats.
        prior: ``(M, L)`` draws of the prior.
        posterior: ``(M, L)`` draws of the aggregated posterior, or None.
        depth: nats below the highest point at which contours end.
        grid: points along each axis.
        title: of the picture.

    Raises:
        ValueError: if there are fewer than two latent dimensions or draws, or shapes disagree.
    """
    if prior.dim() != 2 or min(prior.shape) < 2:
        raise ValueError(
            f"prior: expected shape (M, L) with M, L of at least 2, got {tuple(prior.shape)}"
        )
    if posterior is not None and posterior.shape[1:] != prior.shape[1:]:
        raise ValueError(
            f"posterior: expected shape (M, {prior.shape[1]}), got {tuple(posterior.shape)}"
        )
    both = prior if posterior is None else torch.cat([prior, posterior])
    plane = PCA(2).fit(array(both))
    names = [f"principal component {i + 1} ({r:.0%})" for i, r in
             enumerate(plane.explained_variance_ratio_)]  # fmt: skip
    flat = plane.transform(array(both))
    low, high = np.quantile(flat, [0.002, 0.998], axis=0)
    pad = 0.15 * (high - low)
    ticks = np.linspace(low - pad, high + pad, grid)
    mesh = np.stack(np.meshgrid(ticks[:, 0], ticks[:, 1]), -1)
    points = torch.as_tensor(plane.inverse_transform(mesh.reshape(-1, 2))).to(prior)
    with torch.no_grad():
        height = array(log_density(points)).reshape(grid, grid)
    height = np.clip(height - np.nanmax(height), -depth, 0)

    figure = Picture(figsize=(6.0, 4.6), layout="constrained")
    ax = figure.subplots()
    levels = np.linspace(-depth, 0, 13)
    # Pale enough for the draws to show on the highest ground.
    shades = LinearSegmentedColormap.from_list("shades", ["#ffffff", "#b9b6ad"])
    filled = ax.contourf(ticks[:, 0], ticks[:, 1], height, levels, cmap=shades)
    bar = figure.colorbar(filled, ax=ax, label="log density below its maximum (nats)", pad=0.02)
    bar.outline.set_visible(False)
    tidy(bar.ax)
    projected = {"prior draws": (prior, PRIOR), "posterior draws": (posterior, POSTERIOR)}
    for label, (draws, colour) in projected.items():
        if draws is not None:
            x, y = plane.transform(array(draws)).T
            ax.plot(x, y, ".", ms=4.5, color=colour, alpha=0.6, mew=0, label=label)
    ax.set(xlabel=names[0], ylabel=names[1])
    ax.set(xlim=ticks[[0, -1], 0], ylim=ticks[[0, -1], 1])
    note = "" if prior.shape[1] == 2 else ": a slice through the mean, draws projected"
    ax.set_title(title + note, fontsize=10, loc="left")
    tidy(ax)
    key = ax.legend(frameon=True, fontsize=8, markerscale=2.5, loc="upper right")
    key.get_frame().set(edgecolor="none", alpha=0.85)
    return figure


def plot_generated(
    samples: Mapping[str, Tensor],
    times: Tensor,
    *,
    lines: int = 25,
    feature: int = 0,
    time_label: str = "time",
    value_label: str = "x",
) -> Figure:
    """Sequences drawn without data beside real ones, all panels on the same axes.

    Args:
        samples: name -> sequences ``(M, T, D)``; the first is the reference, such as the data,
            whose 90 % range is the grey band behind all.
        times: ``(T,)``.
        lines: how many sequences a panel.
        feature: which of the D.
        time_label: with its unit.
        value_label: with its unit.

    Raises:
        ValueError: if nothing is given, or shapes disagree.
    """
    if not samples:
        raise ValueError("samples: expected the data at least, got none")
    for name, value in samples.items():
        if value.dim() != 3 or value.shape[1] != len(times):
            raise ValueError(
                f"samples[{name!r}]: expected shape (M, {len(times)}, D), got {tuple(value.shape)}"
            )
    figure, axes = panels(len(samples), len(samples), (3.4, 2.9), sharex=True, sharey=True)
    t = array(times)
    reference, real = next(iter(samples.items()))
    low, high = np.nanquantile(array(real[..., feature]), [0.05, 0.95], axis=0)
    for k, (ax, (name, value)) in enumerate(zip(axes, samples.items(), strict=True)):
        ax.fill_between(t, low, high, color=PALE, lw=0, zorder=0, label=f"90% of {reference}")
        colour = INK if k == 0 else CYCLE[(k - 1) % len(CYCLE)]
        shown = array(value[:lines, :, feature]).T
        # A few lines are read one by one, many as a cloud.
        many = shown.shape[1] > 5
        style = {"lw": 0.8, "alpha": 0.45} if many else {"lw": 1.6, "alpha": 1.0}
        ax.plot(t, shown, color=colour, **style)
        ax.set_title(name, fontsize=10, loc="left")
        ax.margins(x=0.01)
    outer_labels(axes, len(samples), time_label, value_label)
    legend(figure, axes[0])
    return figure


def _bands(ax: Axes, t: np.ndarray, sample: Tensor) -> None:
    for level, alpha in ((0.9, 0.18), (0.5, 0.34)):
        low, high = interval(sample, level)
        ax.fill_between(
            t,
            array(low),
            array(high),
            color=POSTERIOR,
            alpha=alpha,
            lw=0,
            label=f"{level:.0%} band",
        )


def _dots(ax: Axes, series: Series, i: int, feature: int, **style: Any) -> None:
    seen = array(series.mask[i, :, feature])
    times = array(series.times.expand(len(series), series.length)[i])
    ax.plot(times[seen], array(series.values[i, :, feature])[seen], "o", ms=3.4, **style)
