"""Pictures of calibration."""

from __future__ import annotations

from matplotlib.figure import Figure

from ..calibration import Calibration
from .panels import CYCLE, MUTED, PALE, array, legend, outer_labels, panels


def plot_calibration(
    found: dict[str, Calibration], *, level: float = 0.01, columns: int = 3
) -> Figure:
    """Distribution functions of ranks less that of uniform ranks, beside simultaneous bands.

    A hump above the bands on the left and below on the right is a posterior too narrow; the
    opposite, one too wide; a bow to one side, a biased one (Sailynoja, Buerkner & Vehtari 2022,
    arXiv 2103.10522).

    Args:
        found: a panel each.
        level: false alarms of all quantities of a panel together.
        columns: panels a row.
    """
    figure, axes = panels(len(found), columns, (3.6, 2.6), sharey=True)
    for ax, (title, calibration) in zip(axes, found.items(), strict=True):
        n = calibration.replications
        at = array(calibration.points) / (calibration.draws + 1)
        low, high = (array(band) / n - at for band in calibration.bands(level))
        failed = calibration.failed(level)
        ax.fill_between(at, low, high, color=PALE, step="mid", label=f"{1 - level:.0%} of uniform")
        ax.axhline(0, color=MUTED, lw=0.5)
        for k, quantity in enumerate(calibration.ranks):
            gap = array(calibration.below(quantity)) / n - at
            ax.plot(at, gap, color=CYCLE[k % len(CYCLE)], lw=1, label=quantity)
        verdict = "in the bands" if not failed else f"out: {', '.join(failed)}"
        ax.set_title(f"{title}\n{verdict}", loc="left", fontsize=9)
        ax.set_xlim(0, 1)
    outer_labels(axes, columns, "rank / draws", "ECDF difference")
    legend(figure, axes[0])
    return figure
