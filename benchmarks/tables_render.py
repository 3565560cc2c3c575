"""The tables as text: means over seeds, 95 % intervals, paired differences."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tables_figures import (
    Get,
    all_rows,
    at,
    mean,
    over_sequences,
    table,
    told_of,
    values,
)
from tables_pairs import differences

ROWS = (
    "latent_ode",
    "latent_ode_whole",
    "latent_ode_refined",
    "latent_ode_langevin",
    "ode_lebm_encoder",
    "ode_lebm_refined",
    "ode_lebm_langevin",
    "ode_lebm_short_run",
)
# test MSE x 100 of Rubanova et al. 2019, table of the hopper, by share of points observed
PUBLISHED = {
    "interpolation": {
        "latent ODE (ODE encoder), published": (0.360, 0.295, 0.300, 0.285),
        "latent ODE (RNN encoder), published": (2.477, 0.578, 2.768, 0.447),
    },
    "extrapolation": {
        "latent ODE (ODE encoder), published": (1.441, 1.400, 1.175, 1.258),
        "latent ODE (RNN encoder), published": (1.663, 1.653, 1.485, 1.377),
    },
}
SHARES = (0.1, 0.2, 0.3, 0.5)

Report = dict[str, Any]


def render_all(results: Path, tables: Path) -> None:
    """Every result into its section of the file, between its marks; new ones at the end."""
    text = tables.read_text() if tables.exists() else "# Results\n"
    for path in sorted(results.glob("*.json")):
        begin, end = (f"<!-- {side} {path.stem} -->" for side in ("begin", "end"))
        section = f"{begin}\n{render(json.loads(path.read_text()))}\n{end}"
        if begin in text and end in text:
            before, _, rest = text.partition(begin)
            text = before + section + rest.partition(end)[2]
        else:
            text = f"{text.rstrip()}\n\n{section}\n"
    tables.write_text(text)


def render(report: Report) -> str:
    """One task under one protocol."""
    about, seeds = report["about"], report["seeds"]
    rows = {
        name: [each[name] for each in seeds.values() if name in each]
        for name in ROWS
        if any(name in each for each in seeds.values())
    }
    rows = dict(_with_bases(rows))
    command = f"python benchmarks/tables.py {about['task']} --protocol {about['protocol']}"
    command += "" if about["scale"] == "small" else f" --scale {about['scale']}"
    head = (
        f"## {about['task'].capitalize()}, {about['protocol']}: `{command}`\n\n"
        f"{len(seeds)} seeds, {about['seconds']:g} s of a processor a row, {about['scale']} sizes, "
        f"encoder {about['encoder']}, emission {about['emission']}, learning rate "
        f"{about['learning_rate']:g}; {_made(rows)}. Mean over seeds with the half-width of its "
        "95 % t interval."
    )
    return "\n\n".join([head, *_sections(rows, about)])


def _with_bases(rows: dict[str, list[Any]]) -> Iterator[tuple[str, list[Any]]]:
    """After each row with an energy, what was found of the same without it."""
    for name, seeds in rows.items():
        yield name, seeds
        without = [_base(row) for row in seeds]
        if any(without):
            yield f"{name}, without E", without


def _base(row: Any) -> dict[str, Any]:
    found = {
        key.replace("without E", "errors"): value
        for key, value in row.items()
        if key.startswith("without E ")
    }
    generated, told = row.get("generation", {}), row.get("evidence", {})
    if "mmd_base" in generated:
        found["generation"] = {f"{s}_drawn": generated[f"{s}_base"] for s in ("mmd", "auc")}
        found["evidence"] = {
            key.removeprefix("base_"): value
            for key, value in told.items()
            if key.startswith("base_")
        }
    return found


def _made(rows: dict[str, list[Any]]) -> str:
    """Machines and commits of all figures, as they may have been made one after another."""

    def all_of(*keys: str) -> str:
        found = {at(*keys)(row) for row in all_rows(rows)}
        return ", ".join(sorted(str(x) for x in found if x is not None))

    return (
        f"{all_of('made', 'hardware')}, torch {all_of('made', 'torch')}, trained at commit "
        f"{all_of('trained', 'commit')}, measured at {all_of('made', 'commit')}"
    )


def _sections(rows: dict[str, list[Any]], about: Report) -> Iterator[str]:
    yield _errors({name: seeds for name, seeds in rows.items() if _erred(seeds)}, about)
    yield _energies(rows)
    if about["protocol"] == "interpolation":
        yield from _models(
            {name: seeds for name, seeds in rows.items() if "generation" in seeds[0]}
        )
        yield from _strange(rows)
        yield from _meaning(rows)
    yield _chains(rows)
    yield differences(rows, about["task"], _erred(next(iter(rows.values()))))


# Sections


def _erred(seeds: list[Any]) -> list[str]:
    return [key for key in seeds[0] if key.startswith("errors ")]


def _errors(rows: dict[str, list[Any]], about: Report) -> str:
    shares = _erred(next(iter(rows.values())))
    told: list[list[str]] = []
    if len(shares) > 1:
        title = "Mean squared error x 100, in published units, by share of points observed."
        head = [f"{float(key.split()[1]):.0%}" for key in shares]
        beyond = [
            k for k in shares if any(s[k].get("mse_beyond") is not None for s in all_rows(rows))
        ]
        head += [f"{float(key.split()[1]):.0%}, to three times the length" for key in beyond[-1:]]
        wanted = [at(key, "mse") for key in shares] + [at(k, "mse_beyond") for k in beyond[-1:]]
        for name, seeds in rows.items():
            told.append([name, *(told_of(seeds, get, 100) for get in wanted), *_cost(seeds)])
        for name, figures in PUBLISHED[about["protocol"]].items():
            rest = [""] * (len(COST) + len(beyond[-1:]))
            told.append([name, *(f"{x:.3f}" for x in figures), *rest])
        return f"{title}\n\n{table(['row', *head, *COST], told)}"
    names = {
        "mse": "MSE",
        "mse_hidden": "hidden points",
        "mse_few": "few points given",
        "mse_beyond": "to three times the length",
        "outside_mse": "outside the training range",
        "crps": "CRPS",
    }
    if about["protocol"] == "extrapolation":
        del names["mse_hidden"]  # all that is scored is hidden
    present = [n for n in names if any(s[shares[0]].get(n) is not None for s in all_rows(rows))]
    for name, seeds in rows.items():
        scores = [told_of(seeds, at(shares[0], n)) for n in present]
        told.append([name, *scores, *_cost(seeds)])
    title = "Mean squared errors of the posterior mean, by each row's own inference."
    return f"{title}\n\n{table(['row', *(names[n] for n in present), *COST], told)}"


COST = ("processor s", "wall s", "iterations")


def _cost(seeds: list[Any]) -> list[str]:
    found = [values(seeds, at(key)) for key in ("cpu_seconds", "seconds", "iterations")]
    return [f"{mean(x):.0f}" if x else "" for x in found]


def _energies(rows: dict[str, list[Any]]) -> str:
    energies = {name: seeds for name, seeds in rows.items() if "log_z" in seeds[0]}
    title = (
        "Energies, over prior draws, and log Z from both sides, by 400 rungs, or 1,600 where the "
        "two had been .1 nat apart."
    )
    return f"{title}\n\n" + _lines(
        {name + _weak(seeds): seeds for name, seeds in energies.items()},
        {
            "sd(E)": at("energy_sd"),
            "mean slope of E": at("energy_slope"),
            "log Z forward": at("log_z", "forward"),
            "reverse": at("log_z", "reverse"),
            "gap": at("log_z", "gap"),
            "effective particles": at("log_z", "effective"),
        },
    )


def _models(rows: dict[str, list[Any]]) -> Iterator[str]:
    yield (
        "log p(x) of test sequences, nats a number observed, forward and in reverse (neither is a "
        "bound: the reverse starts at annealed draws); the median gap between the two and the "
        "share of effective particles, by sequence; the share of sequences on which the two agree "
        "within a nat: means that rest on others tell how far the annealing came.\n\n"
    ) + _lines(
        rows,
        {
            "log p(x)": over_sequences("evidence", "estimate"),
            "reverse": over_sequences("evidence", "reverse"),
            "gap": at("evidence", "gap"),
            "effective": at("evidence", "effective"),
            "agreeing": at("evidence", "closed"),
        },
    )
    some = next(iter(rows.values()))
    floors = " and ".join(told_of(some, at("generation", f"{s}_floor")) for s in ("mmd", "auc"))
    yield (
        "Unconditional sequences against fresh data: MMD, and AUC of a classifier that tells them "
        f"apart (real against real: {floors}).\n\n"
    ) + _lines(rows, {s.upper(): at("generation", f"{s}_drawn") for s in ("mmd", "auc")})


def _weak(seeds: list[Any]) -> str:
    return " (Gaussian in effect)" if all(s["gaussian_in_effect"] for s in seeds) else ""


def _lines(rows: dict[str, list[Any]], columns: dict[str, Get]) -> str:
    told = [
        [name, *(told_of(seeds, get) for get in columns.values())] for name, seeds in rows.items()
    ]
    return table(["row", *columns], told)


def _strange(rows: dict[str, list[Any]]) -> Iterator[str]:
    rows = {name: seeds for name, seeds in rows.items() if "strange" in seeds[0]}
    first = next(iter(rows.values()))[0]["strange"]
    for kind in first:
        names = list(dict.fromkeys(n for s in all_rows(rows) for n in s["strange"][kind]))
        told = [
            [name, *(_detected(seeds, kind, score) for score in names)]
            for name, seeds in rows.items()
        ]
        title = f"Told apart: {kind}. AUROC / AUPRC / FPR95, means over seeds."
        yield f"{title}\n\n{table(['row', *names], told)}"


def _detected(seeds: list[Any], kind: str, score: str) -> str:
    parts = [values(seeds, at("strange", kind, score, k)) for k in range(3)]
    return " / ".join(f"{mean(p):.2f}" for p in parts) if parts[0] else ""


def _meaning(rows: dict[str, list[Any]]) -> Iterator[str]:
    known = {name: seeds for name, seeds in rows.items() if "meaning" in seeds[0]}
    if not known:
        return
    told, blocks = [], []
    for name, seeds in known.items():
        kinds = ("disentanglement", "completeness", "informativeness")
        gets = [at("meaning", k) for k in ("mig", "sap")]
        gets += [at("meaning", "dci", k) for k in kinds]
        told.append([name, *(told_of(seeds, get) for get in gets)])
        factors = list(next(iter(seeds[0]["meaning"]["blocks"].values())))
        for block in seeds[0]["meaning"]["blocks"]:
            scores = [told_of(seeds, at("meaning", "blocks", block, f)) for f in factors]
            blocks.append([name, block, *scores])
    head = ["row", "MIG", "SAP", "DCI disentanglement", "completeness", "informativeness"]
    yield f"What latents mean.\n\n{table(head, told)}"
    yield (
        "How well each block of latents predicts each factor (R^2; of a class, accuracy over "
        f"guessing): what a static block knows of what moves is leakage.\n\n"
        f"{table(['row', 'latents', *factors], blocks)}"
    )


def _chains(rows: dict[str, list[Any]]) -> str:
    told = []
    for name, seeds in rows.items():
        for which in seeds[0].get("chains", ()):
            gets = [
                at("chains", which, k)
                for k in ("r_hat", "ess_bulk", "ess_tail", "draws", "autocorrelation_time")
            ]
            told.append([name, which, *(told_of(seeds, get) for get in gets)])
    head = ["row", "chains", "worst R-hat", "bulk ESS", "tail ESS", "draws", "autocorrelation time"]
    return (
        "Chains: long ones from scattered starts; four independent annealed populations in the "
        "place of chains; and those of the training, which are short by design, over twenty visits "
        "(the worst over latents, and over four sequences). Prior "
        "chains of the training begin anew every ten visits; those called restarted at each, so "
        f"that they cannot but look mixed.\n\n{table(head, told)}"
    )
