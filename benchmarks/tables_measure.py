"""What the tables say of a trained row."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import arviz
import numpy as np
import pyro
import torch
from tables_models import Cell
from tables_tasks import MORE, Data
from tables_train import Row
from torch import Tensor

from pyro_lebm.ais import LogRatio
from pyro_lebm.inference import (
    MALA,
    EncoderGuide,
    VectorizedMCMC,
    chains,
    diagnose,
    log_evidence,
    posterior_predict,
    strangeness,
    to_arviz,
)
from pyro_lebm.inference.diagnosis import Diagnosis
from pyro_lebm.inference.draws import Draws
from pyro_lebm.inference.scores import (
    block_r2,
    classifier_auc,
    crps,
    dci,
    detection,
    median_bandwidth,
    mmd,
    mutual_information_gap,
    sap,
)
from pyro_lebm.models import LatentODE
from pyro_lebm.partition import log_z
from pyro_lebm.prior import EnergyPrior
from pyro_lebm.series import Series

Figures = dict[str, Any]
COMPONENTS = 30  # that the classifier of generated sequences sees
GAUSSIAN = 0.1  # nats, below which an energy is Gaussian in effect
CLOSED = 1.0  # nats, within which both estimates of log p(x) of a sequence agree


@dataclass(frozen=True)
class Effort:
    """How much computing the scores are worth."""

    generated: int = 500
    rungs: int = 100
    prior_rungs: int = 400
    chain: int = 500
    told: int = 50  # sequences of each kind that scores are to tell apart
    annealed: int = 16  # draws of each


FULL, QUICK = Effort(), Effort(20, 6, 6, 20, 6, 4)


def measure(cell: Cell, row: Row, data: Data, background: dict[str, Tensor] | None) -> Figures:
    """All figures of a row; those of its model where that is trained, some under one protocol."""
    effort = QUICK if cell.quick else FULL
    found: Figures = dict(row.trained)
    for share in cell.of.given:
        found[f"errors {share:g}"] = errors(cell, row, data, share)
    if cell.trained_as != cell:
        return found
    found |= _prior(row, effort)
    if cell.protocol == "interpolation":
        found["generation"] = generation(row, data, effort)
        found["evidence"] = evidence(cell, row, data, effort)
        found["strange"] = strange(row, data, effort, background)
        if data.static and data.moving:
            found["meaning"] = meaning(row, data)
    found["chains"] = mixing(row, data, effort)
    return found


def _prior(row: Row, effort: Effort) -> Figures:
    """The energy's strength, and log Z from both sides."""
    prior = row.model.prior
    if not isinstance(prior, EnergyPrior):
        return {}
    z = prior().sample((1000,)).requires_grad_(True)
    energy = prior.energy(z)
    (slope,) = torch.autograd.grad(energy.sum(), z)
    ratio = log_z(prior, particles=64, rungs=effort.prior_rungs)
    sd = float(energy.detach().std())
    return {
        "energy_sd": sd,
        "energy_slope": float(slope.norm(dim=-1).mean()),
        "gaussian_in_effect": sd < GAUSSIAN,
        "log_z": {
            "forward": float(ratio.estimate),
            "reverse": float(ratio.reverse),
            "gap": float(ratio.gap),
            "effective": float(ratio.effective),
            "rungs": effort.prior_rungs,
        },
    }


# Errors


def errors(cell: Cell, row: Row, data: Data, share: float) -> Figures:
    """Errors of the posterior mean by the row's own inference; per sequence too, for pairing."""
    found = _errors(cell, row, data.familiar, data.test, share)
    few = torch.arange(cell.sizes.scored // 2)
    if cell.of.few is not None and cell.protocol == "interpolation":
        sparse = _errors(cell, row, data.familiar[few], data.test[few], cell.of.few)
        found["mse_few"] = sparse["mse"]
    if data.outside is not None:
        outside = data.outside[few].cut(float(data.train.times[-1]))
        other = _errors(cell, row, outside, data.outside[few], share)
        found |= {f"outside_{name}": other[name] for name in ("mse", "mse_beyond")}
    return found


def _errors(cell: Cell, row: Row, whole: Series, longer: Series, share: float) -> Figures:
    generator = torch.Generator().manual_seed(cell.seed)
    given = cell.of.cut(cell.protocol, whole, share, generator)
    draws = row.guide.posterior(given, draws=cell.sizes.draws)
    args = (row.model, draws, given, longer.times)
    mean = posterior_predict(*args, mean=True, batch_size=4).flatten(0, 1).mean(0)
    hidden = whole.without(given).mask
    scored = whole.mask if cell.protocol == "interpolation" else hidden
    until = whole.length
    square = (mean - longer.values).square()
    each = _masked_mean(square[:, :until], scored)
    values = posterior_predict(row.model, draws, given, batch_size=4)
    return {
        "mse": float(square[:, :until][scored].mean()),
        "mse_hidden": float(square[:, :until][hidden].mean()),
        "mse_beyond": float(square[:, until:].mean()) if longer.length > until else None,
        "crps": crps(values, whole.values, hidden),
        "each": each.tolist(),
    }


def _masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Of each sequence."""
    return (x * mask).sum((1, 2)) / mask.sum((1, 2))


# The model itself


def generation(row: Row, data: Data, effort: Effort) -> Figures:
    """Unconditional sequences against fresh data, with and without the energy, and the floor."""
    n, times = effort.generated, data.train.times
    real, more = (data.fresh(n, seed) for seed in MORE)
    width = median_bandwidth(real)
    samples = {"drawn": row.model.generate(n, times), "floor": more}
    if isinstance(row.model.prior, EnergyPrior):
        samples["base"] = _without_energy(row.model, n, times)
    found = {}
    for name, x in samples.items():
        x = torch.nan_to_num(x.cpu(), nan=1e3, posinf=1e3, neginf=-1e3)  # a path that ran away
        found[f"mmd_{name}"] = mmd(x, real, width)
        found[f"auc_{name}"] = classifier_auc(x, real, components=COMPONENTS)
    return found


def _without_energy(model: LatentODE, n: int, times: Tensor) -> Tensor:
    """Sequences from the prior's base alone: what the energy has to do better than."""
    z = model.prior.base().sample(torch.Size((n,)))
    told = pyro.poutine.trace(pyro.poutine.condition(model, data={"z0": z}))
    value = told.get_trace(times=times, n=n).nodes["x_new"]["value"]
    assert isinstance(value, Tensor)
    return value


def evidence(cell: Cell, row: Row, data: Data, effort: Effort) -> Figures:
    """log p(x) of test sequences, nats a number observed, from both sides."""
    series = data.familiar[torch.arange(cell.sizes.scored)]
    ratio = log_evidence(
        row.guide, series, particles=cell.sizes.particles, repeats=2, rungs=effort.rungs
    )
    numbers = int(series.mask[0].sum())
    found = {"estimate": ratio.estimate, "reverse": ratio.reverse}
    told: Figures = {name: (x / numbers).tolist() for name, x in found.items()}
    closed = (ratio.gap.abs() < CLOSED).to(ratio.gap).mean()
    told |= {"gap": float(ratio.gap.median()), "closed": float(closed)}
    told["effective"] = float(ratio.effective.median())
    if isinstance(row.model.prior, EnergyPrior):
        told["base"] = (_of_base(row, series, ratio, effort) / numbers).tolist()
    return told


def _of_base(row: Row, series: Series, ratio: LogRatio, effort: Effort) -> Tensor:
    r"""log p(x) of the same model with its energy taken away.

    :math:`p_b(x) = p(x)\, Z\, E_{p(z|x)}[e^{E(z)}]`, as :math:`b = Z e^{E} p`.
    """
    z = row.guide.annealed(series, effort.annealed).flat("z0")
    prior = row.model.prior
    with torch.no_grad():
        energy = prior.energy(z)
    return ratio.estimate + prior.log_z + energy.logsumexp(0) - math.log(len(energy))


def strange(
    row: Row, data: Data, effort: Effort, background: dict[str, Tensor] | None
) -> dict[str, dict[str, list[float]]]:
    """How well each score tells sequences of another kind: AUROC, AUPRC, FPR95."""
    scores = {}
    for name, series in _kinds(data, effort).items():
        draws = _quickly_annealed(row, series, effort)
        known = None if background is None else background[name]
        log_p = draws.stats["log_evidence"][0, 0]
        scores[name] = strangeness(row.guide, series, draws=draws, log_p=log_p, background=known)
    return {
        name: {
            score: list(detection(_told(scores[""][score]), _told(each[score]))) for score in each
        }
        for name, each in scores.items()
        if name
    }


def _told(score: Tensor) -> Tensor:
    """A score that is no number is of a sequence that the model knows nothing of."""
    return torch.nan_to_num(score, nan=math.inf, posinf=math.inf, neginf=-math.inf)


def background_log_p(row: Row, data: Data, effort: Effort) -> dict[str, Tensor]:
    """log p(x) by a background model, of what `strange` tells apart."""
    return {
        name: _quickly_annealed(row, series, effort).stats["log_evidence"][0, 0]
        for name, series in _kinds(data, effort).items()
    }


def _kinds(data: Data, effort: Effort) -> dict[str, Series]:
    """The familiar ones, whose name is empty, and the strange ones."""
    few = torch.arange(min(effort.told, len(data.test)))
    return {name: x[few] for name, x in {"": data.familiar, **data.strange}.items()}


def _quickly_annealed(row: Row, series: Series, effort: Effort) -> Draws:
    """In steps as large as a ranking allows: the way to a strange sequence is long."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "annealed_smc: the target was not reached")
        return row.guide.annealed(series, effort.annealed, keep=0.3, moves=2)


def meaning(row: Row, data: Data) -> Figures:
    """Which latents know what, of the posterior means of whole sequences."""
    z = row.guide.annealed(data.familiar, 16).flat("z0").mean(0)
    factors = {**data.static, **data.moving}
    s = row.model.static
    found: Figures = {
        "mig": mutual_information_gap(z, factors),
        "sap": sap(z, factors),
        "dci": dict(dci(z, factors)._asdict()),
    }
    blocks = {"static": z[:, :s], "dynamic": z[:, s:]} if s else {"all": z}
    found["blocks"] = block_r2(blocks, factors)
    return found


# Chains


def mixing(row: Row, data: Data, effort: Effort) -> Figures:
    """Long chains from scattered starts, and beside them the short ones of the training."""
    few = data.familiar[torch.arange(4)]
    n = effort.chain
    long = chains(row.guide.program, few, num_chains=4, draws=n, warmup=n)
    found = {"posterior": _mixed(diagnose(to_arviz(long)), long)}
    short = _training_chains(row, data, 8 if n < 100 else 20)
    if short is not None:
        found["posterior, training"] = _mixed(diagnose(to_arviz(short)), short)
    if isinstance(row.model.prior, EnergyPrior):
        found |= _prior_mixing(row.model.prior, n)
    return found


def _training_chains(row: Row, data: Data, visits: int) -> Draws | None:
    """The chains that the model learned from, one a sequence, over some more visits."""
    if isinstance(row.guide, EncoderGuide):
        return None
    row.guide.train()
    few = data.train[torch.arange(4)]
    drawn = torch.stack([row.guide.draw(few) for _ in range(visits)])
    row.guide.eval()
    return Draws({"z0": drawn[None]})


def _prior_mixing(prior: EnergyPrior, n: int) -> Figures:
    def alone() -> None:
        pyro.sample("z", prior())

    run = VectorizedMCMC(MALA(alone), 2 * n, n, num_chains=4, progress=False)
    with torch.no_grad():
        run.run()
    data = to_arviz(run)
    found = {"prior": _mixed(diagnose(data), Draws({"z": torch.tensor(_values(data))[:, :, None]}))}
    if prior.negatives == "persistent" and not prior.chains.visited.any():
        return found
    visits = 8 if n < 100 else 20
    prior.train()
    kept = []
    for _ in range(visits):
        prior.forget()
        kept.append(prior._negatives()[:4].detach())
    prior.eval()
    short = Draws({"z": torch.stack(kept, 1).unsqueeze(2)})
    return found | {"prior, training": _mixed(diagnose(to_arviz(short)), short)}


def _values(data: Any) -> np.ndarray:
    found: np.ndarray = data.posterior["z"].values
    return found


def _mixed(told: Diagnosis, draws: Draws) -> Figures:
    """The worst R-hat and effective sizes; draws that a chain stays correlated for."""
    (site,) = draws.sites
    x = draws[site].flatten(2).double().cpu().numpy()  # (chains, draws, components)
    times = [_correlated(x[..., k]) for k in range(x.shape[-1])]
    return {
        "r_hat": told.r_hat,
        "ess_bulk": told.ess_bulk,
        "ess_tail": told.ess_tail,
        "draws": x.shape[0] * x.shape[1],
        "autocorrelation_time": float(np.nanmax(times)),
    }


def _correlated(x: np.ndarray) -> float:
    """Integrated autocorrelation time, within chains: of the first lags until one is negative."""
    rho = np.mean([arviz.autocorr(chain) for chain in x], 0)  # type: ignore[no-untyped-call]
    end = int(np.argmax(rho < 0)) if (rho < 0).any() else len(rho)
    return float(1 + 2 * rho[1:end].sum())
