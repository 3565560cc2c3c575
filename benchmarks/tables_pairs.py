"""Differences between the tables' rows, paired by seed, with their intervals."""

from __future__ import annotations

import math
from typing import Any

import torch
from tables_figures import Get, at, over_sequences, short, table, values

from pyro_lebm.inference.scores import bootstrap_interval, paired_interval

PAIRS = (
    ("ode_lebm_refined", "latent_ode"),
    ("ode_lebm_encoder", "latent_ode"),
    ("ode_lebm_refined", "latent_ode_refined"),
    ("ode_lebm_langevin", "latent_ode_langevin"),
    ("ode_lebm_encoder", "ode_lebm_encoder, without E"),
    ("ode_lebm_refined", "ode_lebm_refined, without E"),
    ("ode_lebm_langevin", "ode_lebm_langevin, without E"),
)
NUMBERS = {"sines": 100, "digits": 1600, "balls": 15_680, "hopper": 1400}  # of a whole sequence


def differences(rows: dict[str, list[Any]], task: str, shares: list[str]) -> str:
    """A line for each pair of rows and each figure that all of its seeds have."""
    figures = _figures(next(iter(rows.values()))[0], shares)
    told = []
    for a, b in PAIRS:
        if a not in rows or b not in rows or len(rows[a]) < 2:
            continue
        for label, get in figures.items():
            told += _line(a, b, label, values(rows[a], get), values(rows[b], get))
        # a few sequences whose posterior an annealing did not find outweigh all others in a mean
        pairs = zip(rows[a], rows[b], strict=True)
        medians = [x for pair in pairs if (x := _median(*pair, NUMBERS[task])) is not None]
        label = "log p(x), median over sequences, nats a sequence"
        told += _line(a, b, label, medians, [0.0] * len(medians))
    if not told:
        return "Paired differences take two seeds or more."
    head = ["difference", "of", "mean", "95 % bootstrap", "95 % t"]
    return (
        "Differences, paired by seed. With so few seeds the bootstrap's interval is too narrow, "
        f"the t interval the safer one.\n\n{table(head, told)}"
    )


def _figures(row: dict[str, Any], shares: list[str]) -> dict[str, Get]:
    figures: dict[str, Get] = {}
    for key in shares:
        label = "" if len(shares) == 1 else f" at {float(key.split()[1]):.0%}"
        figures[f"MSE{label}"] = at(key, "mse")
    if len(shares) == 1:
        figures["MSE, few points given"] = at(shares[0], "mse_few")
        figures["MSE outside the training range"] = at(shares[0], "outside_mse")
    figures |= {
        "MSE to three times the length": at(shares[-1], "mse_beyond"),
        "MMD": at("generation", "mmd_drawn"),
        "AUC": at("generation", "auc_drawn"),
        "log p(x)": over_sequences("evidence", "estimate"),
    }
    for kind in row.get("strange", ()):
        figures[f"AUROC of log p(x), {kind}"] = at("strange", kind, "evidence", 0)
    return figures


def _line(a: str, b: str, label: str, x: list[float], y: list[float]) -> list[list[str]]:
    if len(x) != len(y) or len(x) < 2 or not all(map(math.isfinite, x + y)):
        return []
    pair = torch.tensor(x, dtype=torch.double), torch.tensor(y, dtype=torch.double)
    t, resampled = paired_interval(*pair), bootstrap_interval(*pair)
    ends = [f"[{short(e.low)}, {short(e.high)}]" for e in (resampled, t)]
    return [[f"{a} - {b}", label, short(t.mean), *ends]]


def _median(a: dict[str, Any], b: dict[str, Any], numbers: int) -> float | None:
    """Of the differences in log p(x), sequence by sequence."""
    both = [row.get("evidence", {}).get("estimate") for row in (a, b)]
    if None in both:
        return None
    x, y = (torch.tensor(each, dtype=torch.double) for each in both)
    return numbers * float((x - y).quantile(0.5))
