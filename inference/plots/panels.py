"""What all pictures share: colours, panels, legends."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

INK, MUTED, PALE = "#222222", "#8a8a8a", "#f1efe9"
POSTERIOR, PRIOR = "#2166ac", "#d6720c"
CYCLE = ("#2166ac", "#d6720c", "#3a923a", "#8c5bb0", "#b2182b", "#6b6b6b", "#c9a227", "#17869e")


class Picture(Figure):
    """A matplotlib Figure, apart from pyplot's state, that a notebook displays by itself."""

    def _repr_png_(self) -> bytes:
        content = BytesIO()
        self.savefig(content, format="png", dpi=110)
        return content.getvalue()


def panels(
    count: int, columns: int, size: tuple[float, float], **kwargs: Any
) -> tuple[Picture, Any]:
    """A figure and its first ``count`` axes, ``columns`` a row, each of ``size`` in inches."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Picture(figsize=(size[0] * columns, size[1] * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **kwargs).ravel()
    for ax in axes[count:]:
        ax.remove()
    for ax in axes[:count]:
        tidy(ax)
    return figure, axes[:count]


def outer_labels(axes: Any, columns: int, x: str, y: str) -> None:
    """Label the lowest axes of each column and the leftmost of each row."""
    for k, ax in enumerate(axes):
        if k + columns >= len(axes):
            ax.set_xlabel(x)
            ax.tick_params(labelbottom=True)
        if k % columns == 0:
            ax.set_ylabel(y)


def legend(figure: Figure, ax: Axes) -> None:
    """One legend for all panels, above them."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=8
    )


def tidy(ax: Axes) -> None:
    """No frame but the two axes, in a quiet colour."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(MUTED)
    ax.tick_params(color=MUTED, labelsize=8)
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set_fontsize(9)


def array(value: Tensor | np.ndarray) -> np.ndarray:
    """A tensor as an array on the CPU."""
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
