"""The rows of the sequences' benchmark: models, guides, and how each is trained."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from sequences_tasks import POSITION, TASKS, Data, Sizes, Task
from torch import nn

from pyro_lebm.base import FullNormal
from pyro_lebm.energy import MLPEnergy
from pyro_lebm.inference import (
    EncoderGuide,
    GRUEncoder,
    PathGuide,
    RefinedGuide,
    fit,
    fit_prior,
)
from pyro_lebm.inference.guides.guide import Guide
from pyro_lebm.models import (
    DiffusionProcess,
    GaussianEmission,
    LangevinFlow,
    LatentODE,
    MixedEmission,
    MLPField,
    PoissonEmission,
    RecurrentGenerator,
    TransformerEmission,
)
from pyro_lebm.models.denoisers import TransitionDenoiser
from pyro_lebm.prior import EnergyPrior

ROWS = {
    "ldidp_samples": "latent diffusion (LDIDP), trained through its sampler",
    "ldidp_diffusion": "the same by the diffusion-based bound",
    "ldidp_markov": "ldidp_samples, its guide told z_{k-1} and x_k alone",
    "ldidp_diffusion_markov": "ldidp_diffusion, the same",
    "langevin_flow": "LangevinFlow",
    "latent_ode": "latent ODE, encoder",
    "ode_lebm": "latent ODE, chains from its encoder, an energy fitted last",
    "gru_vae": "a GRU that noise drives",
}
STEPS = 5  # of the diffusion, for a transition

REFINED, FITTED = 0.1, 0.1  # shares of the time: chains from the encoder, the energy
# Shares of a training over which latents come to count, and learning rates to their full size.
WARM, RISE = 0.2, 0.1
VISITS = 6
BETAS = (0.9, 0.95)


@dataclass(frozen=True)
class Cell:
    """A row of a task's table, for one seed."""

    row: str
    task: str
    seed: int
    seconds: float = 70.0
    scale: str = "small"
    device: str = "cpu"
    learning_rate: float | None = None
    validation: bool = False
    quick: bool = False

    @property
    def name(self) -> str:
        return f"{self.row}_seed{self.seed}"

    @property
    def of(self) -> Task:
        return TASKS[self.task]

    @property
    def sizes(self) -> Sizes:
        sizes = self.of.full if self.scale == "full" else self.of.small
        tiny = {"validation": 6, "test": 6, "neurons": min(sizes.neurons, 5), "latent": 4}
        tiny |= {"state": 6, "hidden": 8, "draws": 19, "corrupted": 4, "corrupted_draws": 4}
        tiny |= {"train": min(sizes.train, 20), "generated": 20, "points": 12}
        return replace(sizes, **tiny) if self.quick else sizes

    @property
    def rate(self) -> float:
        return self.learning_rate or self.of.learning_rate

    @property
    def clock(self) -> Callable[[], float]:
        """Of a processor; of the wall where that waits for a GPU."""
        return time.perf_counter if self.device == "cuda" else time.process_time

    def data(self) -> Data:
        return self.of.data(self.sizes, self.seed, self.validation).to(self.device)


@dataclass(frozen=True)
class Trained:
    """A row that can be asked."""

    model: Any
    guide: Guide
    iterations: int
    seconds: float
    options: dict[str, Any]  # for its guide's posterior


# Models


def emission_of(cell: Cell, data: Data, state: int) -> nn.Module:
    """Of the task's kind, the same for all rows; mean counts are where rates begin."""
    kind, observed, hidden = cell.of.kind, data.train.observed, (cell.sizes.hidden,)
    if kind == "gaussian":
        return GaussianEmission(state, observed, hidden)
    neurons = observed - POSITION if kind == "mixed" else observed
    spikes = PoissonEmission(state, neurons, ())
    with torch.no_grad():
        bias = spikes.network.layers[-1].bias
        bias.copy_(data.null[:neurons].clamp(min=1e-3).log())
    if kind == "poisson":
        return spikes
    position = GaussianEmission(state, POSITION, hidden)
    return MixedEmission({"spikes": spikes, "position": position})


def model_of(cell: Cell, data: Data) -> Any:
    """The generator of a row."""
    sizes, observed = cell.sizes, data.train.observed
    latent, hidden = sizes.latent, (sizes.hidden,)
    shared: dict[str, Any] = {"unit": data.unit}
    if cell.row.startswith("ldidp"):
        return DiffusionProcess(
            latent,
            observed,
            steps=STEPS,
            stochasticity=1.0 if "diffusion" in cell.row else 0.0,
            denoiser=TransitionDenoiser(latent, hidden),
            emission=emission_of(cell, data, latent),
            **shared,
        )
    if cell.row == "langevin_flow":
        state = 2 * latent
        emission = emission_of(cell, data, state)
        if cell.of.counts:
            emission = TransformerEmission(emission, state, width=sizes.hidden)
        return LangevinFlow(
            latent, observed, emission=emission, learn_friction=True, step_size=0.3, **shared
        )
    if cell.row == "gru_vae":
        emission = emission_of(cell, data, sizes.state)
        return RecurrentGenerator(sizes.state, observed, noise=latent, emission=emission, **shared)
    return LatentODE(
        latent,
        observed,
        field=MLPField(latent, hidden),
        emission=emission_of(cell, data, latent),
        tolerance=1e-2,
    )


def guide_of(cell: Cell, data: Data, model: Any) -> Guide:
    """The guide that a row is trained with, or begins with."""
    task, hidden = cell.of, cell.sizes.hidden
    view = None if task.shown == "all" else task.view
    if isinstance(model, LatentODE):
        encoder = GRUEncoder(data.train.observed, hidden, features=2 * cell.sizes.latent)
        return EncoderGuide(model, data.train, encoder.to(cell.device), view=view)
    markov = cell.row.endswith("markov")
    return PathGuide(
        model,
        data.train,
        hidden,
        history=not markov,
        look_ahead=not markov,
        training="diffusion" if "diffusion" in cell.row else "samples",
        view=view,
        unit=data.unit,
    )


# Training


def train(cell: Cell, data: Data) -> Trained:
    """A row, for the seconds of the cell."""
    torch.manual_seed(cell.seed)
    model = model_of(cell, data).to(cell.device)
    guide = guide_of(cell, data, model)
    watch = Watch(cell)
    late = REFINED + FITTED if cell.row == "ode_lebm" else 0.0
    watch.fit(model, guide, data, 1 - late, kl_warmup=WARM)
    if cell.row != "ode_lebm":
        return watch.trained(model, guide, {})
    assert isinstance(guide, EncoderGuide)
    return _with_energy(watch, data, model, guide)


class Watch:
    """Seconds and iterations since a training began."""

    def __init__(self, cell: Cell) -> None:
        self.cell, self.since, self.iterations = cell, cell.clock(), 0

    @property
    def left(self) -> float:
        """Seconds, and at least a few iterations."""
        return max(self.cell.seconds - (self.cell.clock() - self.since), 0.02 * self.cell.seconds)

    def fit(self, model: nn.Module, guide: Guide, data: Data, share: float, **options: Any) -> None:
        cell = self.cell
        ode = isinstance(model, LatentODE)
        rate = options.pop("learning_rate", cell.rate)
        history = fit(
            model,
            guide,
            data.train,
            max_seconds=min(share * cell.seconds, self.left),
            clock=cell.clock,
            batch_size=cell.sizes.batch,
            learning_rate=rate,
            betas=BETAS,
            rate_warmup=RISE,
            final_rate=0.02,
            clip_norm=5.0 * data.train.length,
            horizon_warmup=options.pop("horizon_warmup", cell.of.horizon if ode else 0.0),
            seed=cell.seed,
            progress=False,
            **options,
        )
        self.iterations += len(history)

    def trained(self, model: Any, guide: Guide, options: dict[str, Any]) -> Trained:
        """What became of it."""
        seconds = self.cell.clock() - self.since
        return Trained(model, guide, self.iterations, seconds, options)


def _with_energy(watch: Watch, data: Data, model: LatentODE, stem: EncoderGuide) -> Trained:
    """Chains from the encoder teach the generator, then the energy learns from their draws."""
    cell = watch.cell
    guide = RefinedGuide(stem, refine_from=0.0)
    watch.fit(model, guide, data, REFINED, learning_rate=0.05 * cell.rate, horizon_warmup=0.0)
    guide.train()
    drawn = torch.cat([guide.draw(data.train) for _ in range(VISITS)])
    guide.eval()
    latent, width = cell.sizes.latent, cell.sizes.hidden
    twin = copy.deepcopy(model)
    energy = MLPEnergy(latent, (width, width))
    prior = EnergyPrior(energy, FullNormal(latent), num_chains=512, refresh=10, steps=3)
    twin.prior = prior.to(cell.device)
    fit_prior(
        twin.prior,
        drawn,
        2e-3,
        max_seconds=watch.left,
        clock=cell.clock,
        batch_size=400,
        final_rate=0.05,
        seed=cell.seed,
        progress=False,
    )
    encoder = EncoderGuide(twin, data.train, copy.deepcopy(stem.encoder), view=stem.view)
    # From the encoder alone and in large steps, so that all tests of a row take seconds.
    options = {"start": "encoder", "keep": 0.2, "moves": 2, "final_moves": 3, "inflation": 2.0}
    return watch.trained(twin, RefinedGuide(encoder, refine_from=0.0), options)
