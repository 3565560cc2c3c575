"""Whether chains of the tables' models mix, and populations agree; the training's own chains."""

from __future__ import annotations

import math
from typing import Any

import arviz
import numpy as np
import pyro
import torch
from tables_scores import Effort
from tables_tasks import Data
from tables_train import Row

from pyro_lebm.inference import (
    MALA,
    EncoderGuide,
    LangevinGuide,
    VectorizedMCMC,
    chains,
    diagnose,
    to_arviz,
)
from pyro_lebm.inference.diagnosis import Diagnosis
from pyro_lebm.inference.draws import Draws
from pyro_lebm.prior import EnergyPrior
from pyro_lebm.series import Series

Figures = dict[str, Any]
FEW = 4  # sequences, and chains
VISITS = 20  # that the training's own chains are followed for


def mixing(row: Row, data: Data, effort: Effort) -> Figures:
    """Long chains from scattered starts; beside them the short ones of the training."""
    n, few = effort.chain, data.familiar[torch.arange(FEW)]
    long = chains(row.guide.program, few, num_chains=FEW, draws=n, warmup=n)
    found = {"posterior": _mixed(diagnose(to_arviz(long)), long)}
    found["posterior, annealed"] = _populations(row, few, effort.population)
    visits = min(VISITS, n)
    if not isinstance(row.guide, EncoderGuide):
        restarted = isinstance(row.guide, LangevinGuide) and row.guide.restart
        name = "posterior, training" + (", restarted" if restarted else "")
        short = _training_chains(row, data, visits)
        found[name] = _mixed(diagnose(to_arviz(short)), short)
    if isinstance(row.model.prior, EnergyPrior):
        found |= _prior(row.model.prior, n, visits)
    return found


def _populations(row: Row, few: Series, n: int) -> Figures:
    """R-hat over independent populations. Their particles have ancestors, not a past."""
    draws = row.guide.annealed(few, n, runs=FEW)
    x = draws["z0"][:, torch.randperm(n)]
    return {"r_hat": diagnose(to_arviz(Draws({"z0": x}))).r_hat, "draws": FEW * n}


def _training_chains(row: Row, data: Data, visits: int) -> Draws:
    """The chains that the model learned from, one a sequence, over some more visits."""
    row.guide.train()
    few = data.train[torch.arange(FEW)]
    drawn = torch.stack([row.guide.draw(few) for _ in range(visits)])
    row.guide.eval()
    return Draws({"z0": drawn[None]})


def _prior(prior: EnergyPrior, n: int, visits: int) -> Figures:
    def alone() -> None:
        pyro.sample("z", prior())

    run = VectorizedMCMC(MALA(alone), 2 * n, n, num_chains=FEW, progress=False)
    with torch.no_grad():
        run.run()
    data = to_arviz(run)
    long = Draws({"z": torch.tensor(data.posterior["z"].values)[:, :, None]})
    found = {"prior": _mixed(diagnose(data), long)}
    persistent = prior.negatives == "persistent"
    if persistent and not prior.chains.visited.any():
        return found
    prior.train()
    kept = []
    for _ in range(visits):
        prior.forget()
        kept.append(prior._negatives()[:FEW].detach())
    prior.eval()
    short = Draws({"z": torch.stack(kept, 1).unsqueeze(2)})
    name = "prior, training" + ("" if persistent else ", restarted")
    return found | {name: _mixed(diagnose(to_arviz(short)), short)}


def _mixed(told: Diagnosis, draws: Draws) -> Figures:
    """The worst R-hat and effective sizes; draws that a chain stays correlated for."""
    (site,) = draws.sites
    x = draws[site].flatten(2).double().cpu().numpy()  # (chains, draws, components)
    return {
        "r_hat": told.r_hat,
        "ess_bulk": told.ess_bulk,
        "ess_tail": told.ess_tail,
        "draws": x.shape[0] * x.shape[1],
        "autocorrelation_time": max(_correlated(x[..., k]) for k in range(x.shape[-1])),
    }


def _correlated(x: np.ndarray) -> float:
    """Integrated autocorrelation time, within chains: of the first lags until one is negative."""
    if bool((np.ptp(x, axis=1) == 0).any()):
        return math.inf  # a chain that never moved
    rho = np.mean([arviz.autocorr(chain) for chain in x], 0)  # type: ignore[no-untyped-call]
    end = int(np.argmax(rho < 0)) if (rho < 0).any() else len(rho)
    return float(1 + 2 * rho[1:end].sum())
