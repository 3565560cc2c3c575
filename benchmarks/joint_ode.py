"""The same question without images: a joint prior of what stands still and what moves."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from joint_models import Cell
from joint_train import ENERGY_FROM, Watch, common, rates
from pyro.nn import PyroModule
from tables_tasks import MORE, TASKS, Data
from torch import Tensor, nn

from pyro_lebm import EnergyPrior, LayerwiseEnergy, MLPEnergy, tilt
from pyro_lebm.inference import EncoderGuide, GRUEncoder, log_evidence, posterior_predict
from pyro_lebm.inference.scores import classifier_auc, median_bandwidth, mmd, mse
from pyro_lebm.learned import LearnedDensity
from pyro_lebm.models import GaussianEmission, HierarchicalPrior, LatentODE, MLPField
from pyro_lebm.partition import log_z

ODE_ROWS = {
    "ode_normal": "z0 ~ N(0, I)",
    "ode_energy": "one energy of z0",
    "ode_hierarchy": "z_d given z_s, no energy",
    "ode_joint": "a tilt of z_d given z_s",
}
TASK = TASKS["digits"]
STATIC, MOVING = TASK.small.static, TASK.small.latent


class StillAndMoving(PyroModule):
    """A prior of two layers, z_s above z_d, as the initial state of a latent ODE."""

    def __init__(self, prior: nn.Module) -> None:
        super().__init__()
        self.prior = prior

    def forward(self) -> Tensor:
        moving, still = self.prior()
        return torch.cat([still, moving], -1)


def prior_of(cell: Cell) -> nn.Module | None:
    """That of a row."""
    sizes, size = cell.sizes, STATIC + MOVING
    chains: dict[str, Any] = {"num_chains": sizes.num_chains, "refresh": 25}
    if cell.row == "ode_normal":
        return None
    if cell.row == "ode_energy":
        return EnergyPrior(MLPEnergy(size, sizes.energy), size, **chains)
    hierarchy = HierarchicalPrior((MOVING, STATIC), sizes.conditional)
    if cell.row == "ode_hierarchy":
        return StillAndMoving(hierarchy)
    energies = {"z1": MLPEnergy(MOVING, sizes.energy), "z2": MLPEnergy(STATIC, sizes.energy)}
    return StillAndMoving(tilt(hierarchy, LayerwiseEnergy(energies), coordinates="noise", **chains))


def ode_figures(cell: Cell) -> dict[str, Any]:
    """Train a row on turning digits, and measure it."""
    torch.manual_seed(cell.seed)
    watch, sizes = Watch(), TASK.small
    data = TASK.data(sizes, cell.seed, "interpolation", cell.validation)
    train = data.train[torch.arange(24)] if cell.quick else data.train
    model = LatentODE(
        MOVING,
        TASK.observed,
        static=STATIC,
        prior=prior_of(cell),
        field=MLPField(MOVING, sizes.hidden),
        emission=GaussianEmission(STATIC + MOVING, TASK.observed, sizes.emission),
        tolerance=TASK.tolerance,
    )
    encoder = GRUEncoder(TASK.observed, features=2 * (STATIC + MOVING))
    guide = EncoderGuide(model, train, encoder, view=partial(TASK.view, "interpolation"))
    options = common(cell, cell.seconds) | {"learning_rate": TASK.learning_rate, "batch_size": 50}
    options["learning_rates"] = rates(cell, model)
    watch.fit(model, guide, train, kl_warmup=0.1, energy_from=ENERGY_FROM, **options)
    return {**watch.told(), **_measured(cell, model, guide, data)}


def _measured(cell: Cell, model: LatentODE, guide: EncoderGuide, data: Data) -> dict[str, Any]:
    few = torch.arange(6 if cell.quick else 32)
    given = data.familiar.hide(0.5, torch.Generator().manual_seed(cell.seed))
    draws = guide.posterior(given, draws=20)
    mean = posterior_predict(model, draws, given, mean=True, batch_size=4).mean((0, 1))
    found: dict[str, Any] = {"mse": mse(mean, data.familiar.values)}
    n = 40 if cell.quick else 500
    real, more = (data.fresh(n, seed) for seed in MORE)
    drawn, width = model.generate(n, data.train.times), median_bandwidth(real)
    for name, x in (("drawn", drawn), ("floor", more)):
        found[f"mmd_{name}"] = mmd(x, real, width)
        found[f"auc_{name}"] = classifier_auc(x, real, components=30)
    rungs = 6 if cell.quick else 100
    for module in model.modules():
        if isinstance(module, LearnedDensity):
            found["log_z_gap"] = float(log_z(module, particles=64, rungs=2 * rungs).gap)
    ratio = log_evidence(guide, data.familiar[few], particles=16, repeats=2, rungs=rungs)
    found["evidence"] = {
        "estimate": float(ratio.estimate.mean()),
        "median": float(ratio.estimate.median()),
        "gap": float(ratio.gap.median()),
    }
    return found
