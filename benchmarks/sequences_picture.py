"""Errors of all rows against missing points and against noise, task by task: one picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sequences_render import WORDS
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
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path


def _reports(folders: Sequence[Path]) -> dict[str, Any]:
    """Small ones, by task; of several of a task the last."""
    found = {}
    for folder in folders:
        for task in TASKS:
            for path in sorted(folder.glob(f"{task}_small.json")):
                found[task] = json.loads(path.read_text())
    return found


def _draw(axis: Any, report: dict[str, Any], how: str, factor: float) -> None:
    for i, row in enumerate(ROWS):
        seeds = seeds_of(report, row)
        if not seeds:
            continue
        errors = [[factor * at["mse"] for at in seed[how].values()] for seed in seeds]
        x = [float(share) for share in seeds[0][how]]
        by_share = [*zip(*errors, strict=True)]
        middle = [sum(each) / len(each) for each in by_share]
        style = "--" if row.endswith("markov") else "-"
        axis.plot(x, middle, style, color=f"C{i}", marker="o", markersize=3, label=row)
        low, high = [min(each) for each in by_share], [max(each) for each in by_share]
        axis.fill_between(x, low, high, color=f"C{i}", alpha=0.15, linewidth=0)
