"""Errors of all rows against missing points and against noise, task by task: one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sequences_render import NAMES, WORDS, report_of
from sequences_rows import ROWS
from sequences_tasks import TASKS
from side_by_side_render import seeds_of

HOW = {
    "missing": "share of points missing",
    "noise": "noise added, share of the sd (of counts: of the mean)",
}


def picture(folders: Sequence[Path], path: Path) -> Path:
    """Mean over seeds and their range, of the reports in these folders.

    Raises:
        SystemExit: where there are none.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    reports = _reports(folders)
    if not reports:
        raise SystemExit(f"picture: expected reports in {[*map(str, folders)]}, got none")
    figure = Figure(figsize=(4.2 * len(reports), 7.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(HOW), len(reports), squeeze=False)
    for column, (task, report) in zip(axes.T, reports.items(), strict=True):
        for axis, (how, label) in zip(column, HOW.items(), strict=True):
            _draw(axis, report, how, WORDS[task].factor)
            axis.set(xlabel=label, yscale="log")
        column[0].set_title(f"{task}: {WORDS[task].error}", fontsize=10)
    axes[0, 0].set_ylabel("error")
    axes[1, 0].set_ylabel("error")
    found = [axis.get_legend_handles_labels() for axis in axes[0]]
    rows = {
        label: line for lines, labels in found for line, label in zip(lines, labels, strict=True)
    }
    figure.legend(rows.values(), rows.keys(), loc="outside lower center", ncols=4, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path


def _reports(folders: Sequence[Path]) -> dict[str, Any]:
    """Small ones, by task; of several of a task the last."""
    found = {}
    for folder in folders:
        for task in TASKS:
            for path in sorted(folder.glob(f"{task}_small.json")):
                found[task] = report_of(path)
    return found


def _draw(axis: Any, report: dict[str, Any], how: str, factor: float) -> None:
    for i, row in enumerate(NAMES):
        seeds = seeds_of(report, row)
        if not seeds:
            continue
        errors = [[factor * at["mse"] for at in seed[how].values()] for seed in seeds]
        x = [float(share) for share in seeds[0][how]]
        by_share = [*zip(*errors, strict=True)]
        middle = [sum(each) / len(each) for each in by_share]
        plain = row not in ROWS
        style = "--" if row.endswith("markov") else ":" if plain else "-"
        color = ("0.6", "k", "k")[i - len(ROWS)] if plain else f"C{i}"
        axis.plot(x, middle, style, color=color, marker="o", markersize=3, label=row)
        low, high = [min(each) for each in by_share], [max(each) for each in by_share]
        axis.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
