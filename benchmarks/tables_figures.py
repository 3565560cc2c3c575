"""Figures of the tables' rows, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from scipy import stats

Get = Callable[[dict[str, Any]], float | None]


def all_rows(rows: dict[str, list[Any]]) -> Iterator[Any]:
    """Of all names and seeds."""
    for seeds in rows.values():
        yield from seeds


def at(*keys: str | int) -> Get:
    """What stands in a row under keys, one within the other; None where there is nothing."""

    def get(row: Any) -> float | None:
        for key in keys:
            if isinstance(row, dict) and key not in row:
                return None
            row = row[key]
        return row  # type: ignore[no-any-return]

    return get


def over_sequences(*keys: str) -> Get:
    """The mean over sequences."""

    def get(row: Any) -> float | None:
        found: Any = at(*keys)(row)
        return None if found is None else sum(found) / len(found)

    return get


def values(seeds: list[Any], get: Get) -> list[float]:
    """Of the seeds that have one."""
    return [float(x) for seed in seeds if (x := get(seed)) is not None]


def mean(x: Sequence[float]) -> float:
    """NaN of nothing."""
    return sum(x) / len(x) if x else math.nan


def told_of(seeds: list[Any], get: Get, factor: float = 1.0) -> str:
    """The mean over seeds, with the half-width of its 95 % t interval."""
    x = [factor * value for value in values(seeds, get)]
    if not x:
        return ""
    if len(x) == 1 or min(x) == max(x):
        return short(x[0])
    half = float(stats.t.ppf(0.975, len(x) - 1)) * float(torch.tensor(x).double().std())
    return f"{short(mean(x))} ± {short(half / math.sqrt(len(x)))}"


def short(x: float) -> str:
    """Three figures."""
    if not math.isfinite(x):
        return "inf" if x == math.inf else "-"
    return f"{x:.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
