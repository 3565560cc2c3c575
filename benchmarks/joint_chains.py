"""Chains of the joint prior's benchmark: whether they mix, and what a network makes of them."""

from __future__ import annotations

from typing import Any

import arviz
import numpy as np
import torch
from joint_data import Images
from joint_models import Cell
from joint_train import Row
from torch import Tensor

from pyro_lebm.dynamics.chains import Chains
from pyro_lebm.frozen import frozen
from pyro_lebm.inference import chains
from pyro_lebm.inference.draws import Draws
from pyro_lebm.inference.scores import kernel_stein_discrepancy
from pyro_lebm.learned import LearnedDensity
from pyro_lebm.models.datasets import image_series

Figures = dict[str, Any]
LONG, EVERY = 2500, 25  # steps of a prior chain, and between two looks at it
STARTS = 32
FEW = 16  # images whose posterior is looked at


def prior_chains(cell: Cell, prior: LearnedDensity) -> Figures:
    """Adjusted chains from draws of the base: energies on the way, R-hat of the second half."""
    steps = 4 * EVERY if cell.quick else LONG
    density = prior.density().fixed()
    start = density.base.sample(torch.Size((STARTS,)))
    run, rows, energies = Chains(start, step_size=prior.step_size), [start], []
    with frozen(prior):
        for _ in range(steps // EVERY):
            energies.append(float(density.energy_at(rows[-1]).mean()))
            rows.append(run.run(density.log_prob, EVERY))
        energies.append(float(density.energy_at(rows[-1]).mean()))
    kept = torch.stack(rows[len(rows) // 2 :], 1).double().cpu().numpy()  # (chains, draws, dim)
    return {
        "profile": {"every": EVERY, "energy": energies},
        "prior": {**_mixed(kept), "acceptance": float(run.acceptance)},
    }


def _mixed(x: np.ndarray) -> Figures:
    data = arviz.convert_to_dataset({"z": x})  # type: ignore[no-untyped-call]
    return {
        "r_hat": float(arviz.rhat(data)["z"].max()),  # type: ignore[no-untyped-call]
        "ess_bulk": float(arviz.ess(data)["z"].min()),  # type: ignore[no-untyped-call]
        "draws": x.shape[0] * x.shape[1],
    }


def against_chains(cell: Cell, row: Row, found: Images) -> Figures:
    """The inference network's posterior beside long adjusted chains of the same images."""
    few = image_series(found.real[:FEW]).to(next(row.model.parameters()).device)
    n = 20 if cell.quick else 1000
    long = chains(row.guide.program, few, num_chains=4, draws=n, warmup=n)
    net = row.guide.posterior(few, draws=200)
    told: Figures = {"layers": {name: _moments(long, net, name) for name in long.sites}}
    told["r_hat"] = max(
        _mixed(long[name].double().cpu().numpy().reshape(4, n, -1))["r_hat"] for name in long.sites
    )
    here = row.guide.program.rebind(few)
    z = here.pack({name: long.flat(name) for name in long.sites})
    unit = z.std(0)  # of both, or an overconfident network would measure itself
    told["stein_network"] = _stein(here, net, unit)
    told["stein_chains"] = _stein(here, long.thin(max(4 * n // 200 // 4, 1)), unit)
    return told


def _moments(long: Draws, net: Draws, name: str) -> Figures:
    """Of a layer: how far the means are apart in standard deviations, and the spreads' ratio."""
    a, b = (d[name].flatten(0, 1).double() for d in (long, net))
    sd = a.std(0)
    return {
        "mean_apart": float(((b.mean(0) - a.mean(0)) / sd).square().mean().sqrt()),
        "sd_ratio": float((b.std(0) / sd).log().mean().exp()),
    }


def _stein(program: Any, draws: Draws, unit: Tensor) -> float:
    """Mean over images, in coordinates of unit scale."""
    z = program.pack({name: draws.flat(name) for name in draws.sites})  # (draws, images, dim)
    z = z.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(program.log_density(z).sum(), z)
    white, slope = z.detach() / unit, gradient * unit
    each = [kernel_stein_discrepancy(white[:, i], slope[:, i]) for i in range(z.shape[1])]
    return float(np.mean(each))
