"""The joint prior's figures as text: means over seeds, intervals, paired differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from joint_models import ABLATIONS, ROWS
from joint_ode import ODE_ROWS
from side_by_side_render import Column, Seeds, differences, render_sections, seeds_of
from tables_figures import at, mean, short, table, told_of, values

PAIRS = (
    ("joint_network", "hvae"),
    ("joint_network", "lebm_network"),
    ("joint_network", "conditional"),
    ("joint_langevin", "lebm_langevin"),
    ("two_stage", "hvae"),
    ("two_stage", "lebm_network"),
    ("joint_network", "joint_concatenated"),
    ("joint_network", "joint_own"),
    ("joint_own", "joint_no_contrast"),
    ("joint_sigma", "hvae_sigma"),
    ("joint_4", "hvae_4"),
    ("joint_8", "hvae_8"),
)
COMPARED: dict[str, Column] = {
    "Frechet": (at("fidelity", "frechet"), 1.0),
    "kernel / 1,000": (at("fidelity", "kernel"), 1e-3),
    "reconstruction x 100": (at("reconstruction"), 100.0),
    "log p(x), nats": (at("evidence", "estimate"), 1.0),
    "AUPRC, log joint": (at("anomalies", "log joint", "auprc"), 1.0),
    "AUROC, log joint": (at("anomalies", "log joint", "auroc"), 1.0),
    "AUPRC, prior": (at("anomalies", "prior", "auprc"), 1.0),
}


def render_into(results: Path, tables: Path) -> None:
    """Every result into its section of the file."""
    render_sections(results, tables, "joint", render)


def render(report: dict[str, Any]) -> str:
    """One data set."""
    about = report["about"]
    rows = {name: seeds_of(report, name) for name in [*ROWS, *ABLATIONS]}
    ode = {name: seeds_of(report, name) for name in ODE_ROWS}
    rows = {name: seeds for name, seeds in rows.items() if seeds}
    command = "python benchmarks/joint_prior.py"
    if (about["data"], about["scale"]) != ("digits", "small"):
        command += f" --data {about['data']} --scale {about['scale']}"
    every = [seed for seeds in (*rows.values(), *ode.values()) for seed in seeds]
    first, commits = every[0], sorted({seed["made"]["commit"] for seed in every})
    accuracy = mean(values(every, at("features_accuracy")))
    counts = sorted({len(seeds) for seeds in (*rows.values(), *ode.values()) if seeds})
    head = (
        f"## Joint energy priors, {about['data']}: `{command}`\n\n"
        f"{' or '.join(map(str, counts))} seeds, at most {about['steps']} steps and "
        f"{about['seconds']:g} s of a processor a row (latent ODEs: the seconds alone), "
        f"{about['scale']} sizes, learning rate {about['learning_rate']:g}; "
        f"{first['made']['hardware']}, torch {first['made']['torch']}, commit {', '.join(commits)}."
        " Mean over seeds with the half-width "
        "of its 95 % t interval. Distances are in the features of a classifier of the same images "
        f"(accuracy {short(accuracy)}), and mean nothing beside those of other networks."
    )
    parts = [_quality(rows), _anomalies(rows), _steps(rows), _mixing(rows), _posterior(rows)]
    parts.append(differences(rows, PAIRS, COMPARED))
    return "\n\n".join([head, *(part for part in parts if part), *_latent_ode(ode)])


def _quality(rows: dict[str, Seeds]) -> str:
    columns: dict[str, Column] = {
        "Frechet": (at("fidelity", "frechet"), 1.0),
        "floor": (at("fidelity", "frechet_floor"), 1.0),
        "kernel / 1,000": (at("fidelity", "kernel"), 1e-3),
        "floor ": (at("fidelity", "kernel_floor"), 1e-3),
        "reconstruction x 100": (at("reconstruction"), 100.0),
        "log p(x), nats": (at("evidence", "estimate"), 1.0),
        "gap": (at("evidence", "gap"), 1.0),
        "log Z gap": (at("evidence", "log_z_gap"), 1.0),
        "iterations": (at("iterations"), 1.0),
    }
    told = {**ROWS, **ABLATIONS}
    lines = [
        [name, told[name], *(told_of(seeds, *column) for column in columns.values())]
        for name, seeds in rows.items()
    ]
    return "### Samples, reconstruction, evidence\n\n" + table(["row", "", *columns], lines)


def _anomalies(rows: dict[str, Seeds]) -> str:
    scores = ("log joint", "prior", "energy", "reconstruction")
    parts = []
    for kind, title in (("anomalies", "The class held out"), ("others", "Photographs")):
        lines = [
            [
                name,
                *(
                    told_of(seeds, at(kind, score, measure))
                    for score in scores
                    for measure in ("auprc", "auroc")
                ),
            ]
            for name, seeds in rows.items()
        ]
        head = [f"{score}, {m}" for score in scores for m in ("AUPRC", "AUROC")]
        parts.append(f"{title}, by score:\n\n" + table(["row", *head], lines))
    return "### Anomalies\n\n" + "\n\n".join(parts)


def _steps(rows: dict[str, Seeds]) -> str:
    have = {name: seeds for name, seeds in rows.items() if any("steps" in s for s in seeds)}
    if not have:
        return ""
    steps = [*next(iter(have.values()))[0]["steps"]]
    lines = []
    for name, seeds in have.items():
        quality = [told_of(seeds, at("steps", n, "frechet")) for n in steps]
        cost = [told_of(seeds, at("steps", n, "cpu_seconds")) for n in steps]
        lines.append([name, *(f"{q} ({c} s)" for q, c in zip(quality, cost, strict=True))])
    return (
        "### Frechet distance by Langevin steps from the base (seconds of a processor)\n\n"
        + table(["row", *steps], lines)
    )


def _mixing(rows: dict[str, Seeds]) -> str:
    have = {name: seeds for name, seeds in rows.items() if any("prior" in s for s in seeds)}
    lines = [
        [
            name,
            told_of(seeds, at("prior", "r_hat")),
            told_of(seeds, at("prior", "ess_bulk")),
            told_of(seeds, at("prior", "acceptance")),
            ", ".join(short(x) for x in _profile(seeds)),
        ]
        for name, seeds in have.items()
    ]
    title = "### Adjusted prior chains of 2,500 steps: second half; energies at 0, 500, ... 2,500"
    return f"{title}\n\n" + table(["row", "R-hat", "bulk ESS", "acceptance", "energies"], lines)


def _profile(seeds: Seeds) -> Sequence[float]:
    """Mean energies of the first seed, at six points of the run."""
    energies = seeds[0]["profile"]["energy"]
    return [energies[round(i * (len(energies) - 1) / 5)] for i in range(6)]


def _posterior(rows: dict[str, Seeds]) -> str:
    have = {name: seeds for name, seeds in rows.items() if any("posterior" in s for s in seeds)}
    lines = []
    for name, seeds in have.items():
        layers = seeds[0]["posterior"]["layers"]
        apart = [told_of(seeds, at("posterior", "layers", z, "mean_apart")) for z in layers]
        ratio = [told_of(seeds, at("posterior", "layers", z, "sd_ratio")) for z in layers]
        stein = [told_of(seeds, at("posterior", f"stein_{of}")) for of in ("network", "chains")]
        r_hat = told_of(seeds, at("posterior", "r_hat"))
        lines.append([name, ", ".join(apart), ", ".join(ratio), *stein, r_hat])
    head = ["row", "means apart (sd)", "ratio of sd", "Stein, network", "Stein, chains", "R-hat"]
    title = "### The inference network's posterior beside long adjusted chains, layer by layer"
    return f"{title}\n\n" + table(head, lines)


def _latent_ode(rows: dict[str, Seeds]) -> Iterator[str]:
    """What is no image: a latent ODE of turning digits."""
    rows = {name: seeds for name, seeds in rows.items() if seeds}
    if not rows:
        return
    columns: dict[str, Column] = {
        "MSE x 100": (at("mse"), 100.0),
        "MMD x 100": (at("mmd_drawn"), 100.0),
        "floor": (at("mmd_floor"), 100.0),
        "AUC": (at("auc_drawn"), 1.0),
        "log p(x), nats": (at("evidence", "estimate"), 1.0),
        "median": (at("evidence", "median"), 1.0),
        "gap": (at("evidence", "gap"), 1.0),
        "iterations": (at("iterations"), 1.0),
    }
    lines = [
        [name, ODE_ROWS[name], *(told_of(seeds, *column) for column in columns.values())]
        for name, seeds in rows.items()
    ]
    title = "### No images: what stands still and what moves, of a latent ODE of turning digits"
    yield f"{title}\n\n" + table(["row", "", *columns], lines)
    compared = {name: columns[name] for name in ("MSE x 100", "MMD x 100", "AUC", "median")}
    yield differences(rows, (("ode_joint", "ode_hierarchy"), ("ode_joint", "ode_energy")), compared)
