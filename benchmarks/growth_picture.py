"""The picture of ``growth.py``: time above, memory below, for each thing that grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    NullFormatter,
    NullLocator,
)

from pyro_lebm.inference.plots.panels import CYCLE, MUTED, panels

KINDS = {"time": "milliseconds", "memory": "megabytes"}
COLUMNS = 3
MARKERS = "osD^vPX"


def draw(
    axes: Mapping[str, Sequence[Mapping[str, Any]]], labels: Mapping[str, str], path: Path
) -> None:
    """Draw what `growth.grown` found along each axis."""
    columns = min(COLUMNS, len(axes))
    bands = -(-len(axes) // columns)
    figure, cells = panels(2 * bands * columns, columns, (3.4, 3.2), sharey="row")
    grid = cells.reshape(bands, len(KINDS), columns)
    styles: dict[tuple[str, str], int] = {}
    for i, (name, lines) in enumerate(axes.items()):
        pair = grid[i // columns, :, i % columns]
        for ax, kind in zip(pair, KINDS, strict=True):
            ax.set(xscale="log", yscale="log")
            for line in lines:
                style = styles.setdefault((line["engine"], line["device"]), len(styles))
                _curve(ax, line, kind, style)
            _sizes(ax, sorted({size for line in lines for size in line["sizes"]}))
        pair[0].tick_params(labelbottom=False)
        pair[1].set_xlabel(labels[name] + (" (time is the chain's)" if name == "langevin" else ""))
    for ax in grid.transpose(0, 2, 1).reshape(-1, len(KINDS))[len(axes) :].ravel():
        ax.remove()
    for row in grid.reshape(-1, columns):
        shown = [ax for ax in row if ax.figure is not None]
        low, high = row[0].get_ylim()
        for ax in shown:
            _linear(ax)
            _finish(ax)
        row[0].set_ylim(low, high * (high / low) ** 0.45)  # room for the legends
    for band in grid:
        band[0, 0].set_ylabel("time of a Langevin step (ms)")
        band[1, 0].set_ylabel("peak memory beyond the data (MB)")
    figure.savefig(path, dpi=120)


def _curve(ax: Axes, line: Mapping[str, Any], kind: str, style: int) -> None:
    found = line["slope"][kind]
    slope = "" if found is None else f"  {found['value']:.2f} ± {found['error']:.2f}"
    where = "" if line["device"] == "cpu" else f" ({line['device']})"
    # what is below a tenth of a megabyte is nothing, and has no place on this scale
    costs = [max(cost, 0.1) if kind == "memory" else cost for cost in line[KINDS[kind]]]
    ax.plot(
        line["sizes"],
        costs,
        marker=MARKERS[style % len(MARKERS)],
        ms=4,
        lw=1.5,
        color=CYCLE[style % len(CYCLE)],
        label=f"{line['engine']}{where}{slope}",
    )


def _linear(ax: Axes) -> None:
    """A dotted line of slope 1 through the last point of the highest curve."""
    curves = [np.asarray(line.get_xydata()) for line in ax.get_lines()]
    curves = [curve for curve in curves if len(curve)]
    if not curves:
        return
    x, y = max((curve[-1] for curve in curves), key=lambda point: point[1])
    first = min(curve[0, 0] for curve in curves)
    ax.plot([first, x], [y * first / x, y], ls=":", lw=1, color=MUTED, zorder=0, label="linear")


def _sizes(ax: Axes, sizes: Sequence[int]) -> None:
    """Ticks at sizes that were measured, no two too near each other."""
    if not sizes:
        return
    apart, shown = (sizes[-1] / sizes[0]) ** 0.2, sizes[:1]
    for size in sizes[1:]:
        if size >= 0.99 * apart * shown[-1]:
            shown = [*shown, size]
    ax.xaxis.set_major_locator(FixedLocator(shown))
    ax.xaxis.set_major_formatter(FuncFormatter(_number))
    ax.xaxis.set_minor_locator(NullLocator())


def _number(value: float, _: int | None = None) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def _finish(ax: Axes) -> None:
    ax.yaxis.set_major_locator(LogLocator(numticks=12))
    ax.yaxis.set_major_formatter(FuncFormatter(_number))
    ax.yaxis.set_minor_formatter(NullFormatter())
    legend = ax.legend(
        frameon=False,
        fontsize=7.5,
        loc="upper left",
        title="slope over the upper half",
        title_fontsize=7.5,
        alignment="left",
    )
    legend.get_title().set_color(MUTED)
    ax.grid(True, which="major", lw=0.4, alpha=0.4)
