"""Chains of a guide, overdamped and underdamped: what a gradient brings.

    python benchmarks/chains.py [--quick] [--json FILE]

The posteriors are those of a small latent ODE, trained for a fixed number of steps on irregular
sinusoids. Three things are measured for each kind of steps, with `Chains` as the guides use them,
visits of ten steps, step sizes adapting:

- climb: by how many nats the median log joint of chains that begin at draws of N(0, I) is short,
  after a hundred gradients, of what settled chains of that kind have (some end in other modes);
- ess: effective draws of the log joint per thousand gradients of a chain, at equilibrium
  (arviz's bulk ESS over parallel chains of a sequence), and of the coordinates;
- the median log joint at equilibrium, which a biased kind would miss: how many nats above that of
  adjusted overdamped steps, seed by seed.

Ratios are to adjusted overdamped steps with the same seed; intervals are 95 % t intervals over
seeds.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import arviz
import numpy as np
import torch
from torch import Tensor

from pyro_lebm import EnergyPrior, MLPEnergy
from pyro_lebm.dynamics.chains import Chains
from pyro_lebm.inference import LangevinGuide, fit
from pyro_lebm.inference.scores import paired_interval
from pyro_lebm.models import GaussianEmission, LatentODE, MLPField, datasets

LATENT, STEPS = 6, 10
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "MALA": ({}, {}),
    "MALT": ({"dynamics": "underdamped"}, {}),
    "ULA": ({}, {"adjusted": False, "adapt": True}),
    "BAOAB": ({"dynamics": "underdamped"}, {"adjusted": False}),
    "BAOAB, friction .1": ({"dynamics": "underdamped", "friction": 0.1}, {"adjusted": False}),
}


def trained(steps: int, seed: int) -> LangevinGuide:
    """A guide on a model that was trained for so many steps."""
    torch.manual_seed(seed)
    series, _ = datasets.interpolation(datasets.irregular_sines(n=64, seed=seed), keep=50)
    model = LatentODE(
        LATENT,
        1,
        prior=EnergyPrior(MLPEnergy(LATENT), LATENT, num_chains=128),
        field=MLPField(LATENT, (50,)),
        emission=GaussianEmission(LATENT, 1, (50,)),
        tolerance=1e-2,
    )
    guide = LangevinGuide(model, series, hot_until=0.25)
    fit(model, guide, series, max_steps=steps, horizon_warmup=0.3, progress=False, seed=seed)
    return guide


def measure(
    guide: LangevinGuide, kind: str, sequences: int, copies: int, visits: int, seed: int
) -> dict[str, float]:
    """The three figures of one kind of steps."""
    options, run = KINDS[kind]
    series = guide.program.args[0][torch.arange(sequences)]
    program = guide.program.rebind(series)

    def target(z: Tensor) -> Tensor:
        found: Tensor = program.log_density(z)
        return found

    torch.manual_seed(seed)
    settled = guide.chains.position[:sequences].expand(copies, -1, -1)
    draws, log_joint = _visit(Chains(settled, step_size=0.02, **options), target, run, visits)
    kept = slice(visits // 3, None)
    level = float(log_joint[kept].median())
    start = Chains(torch.randn_like(settled), step_size=0.02, **options)
    _, climb = _visit(start, target, run, visits)
    after = climb[min(visits, 100 // STEPS) - 1]
    gradients = STEPS * copies * (visits - visits // 3) / 1000
    return {
        "climb": max(level - float(after.median()), 0.1),
        "ess": _ess(log_joint[kept].unsqueeze(-1)) / gradients,
        "ess_coordinates": _ess(draws[kept]) / gradients,
        "log_joint": level,
    }


def _visit(
    chains: Chains, target: Callable[[Tensor], Tensor], run: dict[str, Any], visits: int
) -> tuple[Tensor, Tensor]:
    draws, values = [], []
    for _ in range(visits):
        z = chains.run(target, STEPS, **run)
        draws.append(z.clone())
        with torch.no_grad():
            values.append(target(z))
    return torch.stack(draws), torch.stack(values)


def _ess(draws: Tensor) -> float:
    """Mean over sequences and columns of draws ``(visits, copies, sequences, columns)``."""
    x = draws.double().numpy()
    columns = [x[:, :, i, j].T for i in range(x.shape[2]) for j in range(x.shape[3])]
    return float(np.mean([arviz.ess(column) for column in columns]))  # type: ignore[no-untyped-call]


def ratio(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """Geometric mean of paired ratios, with its 95 % t interval; of one pair, that alone."""
    logs = [torch.tensor(each).log() for each in (ours, theirs)]
    mean = float((logs[0] - logs[1]).mean().exp())
    if len(ours) < 2:
        return mean, mean, mean
    gap = paired_interval(*logs)
    return math.exp(gap.low), mean, math.exp(gap.high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="sizes whose figures mean nothing")
    parser.add_argument("--json", type=Path, help="write what was found there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps, seeds, sizes = (10, 1, (2, 4, 8)) if options.quick else (400, 3, (6, 8, 50))
    rows: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for seed in range(seeds):
        guide = trained(steps, seed)
        for kind, found in rows.items():
            found.append(measure(guide, kind, *sizes, seed))
            print(seed, kind, {k: round(v, 2) for k, v in found[-1].items()}, flush=True)
    ratios: dict[str, dict[str, tuple[float, float, float]]] = {
        kind: {
            name: ratio([a[name] for a in found], [b[name] for b in rows["MALA"]])
            for name in ("ess", "ess_coordinates", "climb")
        }
        for kind, found in rows.items()
    }
    for kind, beside in ratios.items():
        parts = (f"{k} x{m:.2f} [{low:.2f}, {high:.2f}]" for k, (low, m, high) in beside.items())
        both = zip(rows[kind], rows["MALA"], strict=True)
        above = [round(a["log_joint"] - b["log_joint"], 2) for a, b in both]
        print(f"{kind:20s}", ", ".join(parts), "nats above MALA's log joint", above)
    if options.json is not None:
        options.json.write_text(json.dumps({"rows": rows, "ratio_to_MALA": ratios}))


if __name__ == "__main__":
    main()
