"""The sequences' figures as text: means over seeds, intervals, paired differences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sequences_plain import PLAIN
from sequences_rows import ROWS
from sequences_tasks import MISSING, NOISE, TASKS
from side_by_side_render import Column, Seeds, differences, seeds_of, with_section
from tables_figures import at, mean, short, table, told_of, values

TRAINED = ("ldidp_samples", "ldidp_diffusion", "gru_vae", "langevin_flow")
PAIRS = (
    ("ldidp_samples", "gru_vae"),
    ("ldidp_diffusion", "ldidp_samples"),
    ("ldidp_samples", "ldidp_markov"),
    ("ldidp_diffusion", "ldidp_diffusion_markov"),
    ("langevin_flow", "gru_vae"),
    ("ldidp_samples", "latent_ode"),
    ("ldidp_diffusion", "latent_ode"),
    ("langevin_flow", "latent_ode"),
    ("gru_vae", "latent_ode"),
    ("ode_lebm", "latent_ode"),
    *((row, "gaussian_process") for row in ROWS),
    *((row, "interpolation") for row in TRAINED),
    *((row, "smoothed") for row in ROWS),
)
ROBUST = (
    ("langevin_flow", "gru_vae"),
    ("ode_lebm", "gru_vae"),
    ("ode_lebm", "ldidp_samples"),
    ("gru_vae", "ldidp_samples"),
    ("gru_vae", "ldidp_diffusion"),
    *((row, "gaussian_process") for row in ("gru_vae", "ode_lebm")),
    *(("smoothed", row) for row in TRAINED),
)
NAMES = {**ROWS, **PLAIN, "langevin_flow": "LangevinFlow, counts decoded by a Transformer"}
WANTED = 0.95  # share of the bound


@dataclass(frozen=True)
class Words:
    """How a task's error is told."""

    error: str
    factor: float = 1.0


WORDS = {
    "spirals": Words("MSE x 1,000", 1000.0),
    "lorenz": Words("MSE of counts a bin x 1,000", 1000.0),
    "reaching": Words("MSE of position x 1,000", 1000.0),
    "co2": Words("MSE, ppm^2"),
}


def render_into(results: Path, tables: Path) -> None:
    """Every report into its section of the file, and what stands beside them."""
    text = tables.read_text()
    bound = _report(results.parent / "sequences_bound.json")
    for task in TASKS:
        for path in sorted(results.glob(f"{task}_*.json")):
            found = render(report_of(path), bound)
            text = with_section(text, f"sequences {path.stem}", found)
    implicit = _report(results.parent / "implicit.json")
    if implicit is not None:
        text = with_section(text, "sequences implicit", render_implicit(implicit))
    tables.write_text(text)


def report_of(path: Path) -> dict[str, Any]:
    """A task's report, with the rows that need no training where they are there.

    Where those come from is told under ``plain``.
    """
    report: dict[str, Any] = json.loads(path.read_text())
    plain = _report(path.parent.with_name("sequences_plain") / path.name)
    if plain is None:
        return report
    for seed, rows in report["seeds"].items():
        rows |= plain["seeds"].get(seed, {})
    return {**report, "plain": plain["made"]}


def _report(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def render(report: dict[str, Any], bound: dict[str, Any] | None = None) -> str:
    """One task."""
    about = report["about"]
    task = TASKS[about["task"]]
    rows = {name: seeds for name in NAMES if (seeds := seeds_of(report, name))}
    every = [seed for seeds in rows.values() for seed in seeds]
    trained = [seed for name in ROWS for seed in rows.get(name, [])]
    made, commits = trained[0]["made"], sorted({seed["made"]["commit"] for seed in trained})
    counts = sorted({len(seeds) for seeds in rows.values()})
    command = f"python benchmarks/sequences.py {about['task']}"
    command += "" if about["scale"] == "small" else f" --scale {about['scale']}"
    head = (
        f"## Sequences, {about['task']}: `{command}`\n\n"
        f"{task.told[0].upper()}{task.told[1:]}. {' or '.join(map(str, counts))} seeds, "
        f"{about['seconds']:g} s of a processor a row, {about['scale']} sizes; {made['hardware']}, "
        f"torch {made['torch']}, commit {', '.join(commits)}. Mean over seeds with the half-width "
        "of its 95 % t interval."
    )
    columns = _columns(about["task"])
    columns = {
        name: column
        for name, column in columns.items()
        if any(column[0](seed) is not None for seed in every)
    }
    lines = [
        [name, NAMES[name], *(told_of(seeds, *column) for column in columns.values())]
        for name, seeds in rows.items()
    ]
    parts = [head, table(["row", "", *columns], lines), _of_plain(rows, report.get("plain"))]
    if about["task"] == "lorenz" and bound is not None:
        parts.append(_beside_bound(rows, bound))
    parts.append(_robustness(rows, WORDS[about["task"]]))
    compared = ("correlation", "bits/spike", "rate R2", "CRPS", "s / 1,000")
    of = {name: column for name, column in columns.items() if name in compared}
    first = next(iter(columns))
    parts.append(differences(rows, PAIRS, {first: columns[first], **of}))
    return "\n\n".join(part for part in parts if part)


def _of_plain(rows: dict[str, Seeds], made: dict[str, Any] | None) -> str:
    """What is to be known of the rows that need no training; nothing where there are none."""
    names = ", ".join(name for name in PLAIN if name in rows)
    if not names or made is None:
        return ""
    text = (
        f"Rows without a training budget: {names}, by `python benchmarks/sequences_plain.py`, "
        f"commit {made['commit']}"
    )
    if "smoothed" in rows:
        text += (
            "; validation data with known rates and positions chose the windows, which favours them"
        )
    return f"{text}."


def _columns(task: str) -> dict[str, Column]:
    words = WORDS[task]
    return {
        words.error: (at("mse"), words.factor),
        "correlation": (at("correlation"), 1.0),
        "bits/spike": (at("bits"), 1.0),
        "of the true rates": (at("true_bits"), 1.0),
        "rate R2": (at("rate_r2"), 1.0),
        "CRPS": (at("crps"), 1.0),
        "in 50 %": (at("coverage 0.5"), 1.0),
        "in 90 %": (at("coverage 0.9"), 1.0),
        "miss": (at("miss"), 1.0),
        "MMD": (at("mmd"), 1.0),
        "floor": (at("mmd_floor"), 1.0),
        "s / 1,000": (at("seconds_per_1000"), 1.0),
        "iterations": (at("iterations"), 1.0),
        "parameters": (at("parameters"), 1.0),
    }


def _robustness(rows: dict[str, Seeds], words: Words) -> str:
    shares = [("missing", f"{share:g}") for share in MISSING]
    shares += [("noise", f"{share:g}") for share in NOISE]
    lines = [
        [name, *(told_of(seeds, at(*share, "mse"), words.factor) for share in shares)]
        for name, seeds in rows.items()
    ]
    head = [f"{float(x):.0%} {how}" if how == "missing" else f"{how} {x}" for how, x in shares]
    title = f"### Robustness: {words.error}, over all that is known"
    parts = [title, table(["row", *head], lines)]
    of: dict[str, Column] = {
        name: (at(*share, "mse"), words.factor) for name, share in zip(head, shares, strict=True)
    }
    return "\n\n".join(part for part in [*parts, differences(rows, ROBUST, of)] if part)


def _beside_bound(rows: dict[str, Seeds], bound: dict[str, Any]) -> str:
    """Shares of what the true model's own smoothing reaches on the same spikes."""
    best = bound["seeds"]
    lines = []
    for name, seeds in rows.items():
        line = [name]
        for figure in ("rate_r2", "bits"):
            shares = [
                {"share": seed[figure] / best[seed["seed"]][figure]["mean"]}
                for seed in seeds
                if seed["seed"] in best
            ]
            reached = bool(shares) and mean(values(shares, at("share"))) >= WANTED
            line.append(told_of(shares, at("share")) + (" (reached)" if reached else ""))
        lines.append(line)
    told = {
        figure: [{"mean": seed[figure]["mean"]} for seed in best.values()]
        for figure in ("rate_r2", "bits")
    }
    text = (
        "### Beside the bound\n\nThe true model's own smoothing of the same spikes reaches rate R2 "
        f"{told_of(told['rate_r2'], at('mean'))} and {told_of(told['bits'], at('mean'))} "
        f"bits/spike; wanted {WANTED:g} of that:\n\n"
    )
    return text + table(["row", "share of its rate R2", "share of its bits/spike"], lines)


def render_implicit(report: dict[str, Any]) -> str:
    """Few steps beside many, of one denoiser."""
    samplers: Sequence[str] = report["about"]["samplers"]
    summary = report["summary"]
    lines = []
    for name in samplers:
        found = summary[name]
        line = [name, f"{found['calls']}"]
        for figure, factor in (("mmd", 1000.0), ("seconds_per_1000", 1.0)):
            x = found[figure]
            line.append(
                f"{short(factor * x['mean'])} [{short(factor * x['low'])}, "
                f"{short(factor * x['high'])}]"
            )
        for figure, factor in (("mmd_more", 1000.0), ("times_slower", 1.0)):
            x = found.get(figure)
            line.append(
                ""
                if x is None
                else f"{short(factor * x['mean'])} [{short(factor * x['low'])}, "
                f"{short(factor * x['high'])}]"
            )
        lines.append(line)
    about, floor = report["about"], summary["floor"]
    head = (
        "## Implicit sampling beside long samplers: `python benchmarks/implicit.py`\n\n"
        f"Whole spirals, {about['points']} points; one denoiser a seed, {about['seeds']} seeds, "
        f"{about['repeats']} interleaved repeats of {about['n']} sequences each; "
        f"{report['made']['hardware']}, torch {report['made']['torch']}, commit "
        f"{report['made']['commit']}. MMD x 1,000 to fresh spirals, floor "
        f"{short(1000 * floor['mean'])} [{short(1000 * floor['low'])}, "
        f"{short(1000 * floor['high'])}]; 95 % t intervals over all repeats of MMDs, over seeds of "
        "their differences; of times the median and its range over repeats."
    )
    columns = ["sampler", "calls", "MMD x 1,000", "s / 1,000"]
    columns += ["implicit's MMD above its x 1,000", "times slower than implicit"]
    return f"{head}\n\n" + table(columns, lines)
