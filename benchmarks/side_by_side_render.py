"""Reports of cells as text: sections of a file, rows by seed, paired differences."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tables_figures import Get, short, table

from pyro_lebm.inference.scores import paired_interval

Seeds = list[dict[str, Any]]
Column = tuple[Get, float]  # a figure and its factor


def render_sections(
    results: Path, tables: Path, kind: str, render: Callable[[dict[str, Any]], str]
) -> None:
    """Every report into its section of the file, between its marks; new ones at the end."""
    text = tables.read_text()
    for path in sorted(results.glob("*.json")):
        text = with_section(text, f"{kind} {path.stem}", render(json.loads(path.read_text())))
    tables.write_text(text)


def with_section(text: str, name: str, content: str) -> str:
    """The text with the content between the marks of that name, in place of what was there."""
    begin, end = (f"<!-- {side} {name} -->" for side in ("begin", "end"))
    section = f"{begin}\n{content}\n{end}"
    if begin in text and end in text:
        before, _, rest = text.partition(begin)
        return before + section + rest.partition(end)[2]
    return f"{text.rstrip()}\n\n{section}\n"


def seeds_of(report: dict[str, Any], name: str) -> Seeds:
    """Figures of a row, each with its seed."""
    every = report["seeds"].items()
    return [{**rows[name], "seed": seed} for seed, rows in every if name in rows]


def differences(
    rows: dict[str, Seeds], pairs: Sequence[tuple[str, str]], of: dict[str, Column]
) -> str:
    """One row less another, seed by seed; nothing where no two have seeds in common."""
    lines = []
    for a, b in pairs:
        if a in rows and b in rows and min(len(rows[a]), len(rows[b])) > 1:
            both = {seed["seed"] for seed in rows[a]} & {seed["seed"] for seed in rows[b]}
            line = [f"{a} less {b} ({len(both)} seeds)"]
            for get, factor in of.values():
                x, y = _by_seed(rows[a], rows[b], get)
                line.append(_interval(x, y, factor) if len(x) > 1 else "")
            lines.append(line)
    if not lines:
        return ""
    return "Paired differences by seed, 95 % t intervals:\n\n" + table(["rows", *of], lines)


def _by_seed(one: Seeds, other: Seeds, get: Get) -> tuple[list[float], list[float]]:
    """Figures of the seeds that both have."""
    theirs = {seed["seed"]: get(seed) for seed in other}
    pairs = [(get(seed), theirs.get(seed["seed"])) for seed in one]
    found = [(x, y) for x, y in pairs if x is not None and y is not None]
    return [x for x, _ in found], [y for _, y in found]


def _interval(x: list[float], y: list[float], factor: float) -> str:
    found = paired_interval(torch.tensor(x).double(), torch.tensor(y).double())
    center, low, high = (short(factor * part) for part in found)
    return f"{center} [{low}, {high}]"
