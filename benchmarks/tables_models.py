"""What is trained for the tables: a cell's model and its encoder, the same for all its rows."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from tables_tasks import TASKS, Data, Protocol, Sizes, Task
from torch import nn

from pyro_lebm.energy import MLPEnergy
from pyro_lebm.inference import ConvolutionalReader, EncoderGuide, GRUEncoder, ODERNNEncoder
from pyro_lebm.models import Deconvolution, GaussianEmission, LatentODE, MLPField
from pyro_lebm.prior import EnergyPrior

Group = Literal["encoder", "langevin", "short_run", "whole", "background"]
WIDTH = 100  # of encoders and energies


@dataclass(frozen=True)
class Cell:
    """A training: of what, on what, for how long. Its branches are rows of the table."""

    task: str
    group: Group
    protocol: Protocol
    seed: int
    seconds: float
    scale: str = "small"
    device: str = "cpu"
    encoder: str = "odernn"
    emission: str = "mlp"
    learning_rate: float = 1e-2
    validation: bool = False
    quick: bool = False

    @property
    def name(self) -> str:
        return f"{self.group}_{self.protocol}"

    @property
    def of(self) -> Task:
        return TASKS[self.task]

    @property
    def sizes(self) -> Sizes:
        sizes = self.of.full if self.scale == "full" else self.of.small
        few = replace(
            sizes,
            train=min(sizes.train, 60),
            test=12,
            scored=6,
            particles=4,
            draws=4,
            known=min(sizes.known, 40),
        )
        return few if self.quick else sizes

    @property
    def trained_as(self) -> Cell:
        """The cell with the same training: without an encoder, that knows no protocol."""
        alone = self.group in ("langevin", "short_run") and self.of.same_data
        return replace(self, protocol="interpolation") if alone else self

    def data(self) -> Data:
        data = self.of.data(self.sizes, self.seed, self.protocol, self.validation)
        moved = {name: x.to(self.device) for name, x in data.strange.items()}
        outside = None if data.outside is None else data.outside.to(self.device)
        train, test = data.train.to(self.device), data.test.to(self.device)
        return replace(data, train=train, test=test, strange=moved, outside=outside)


def latent_ode(cell: Cell, *, fine: bool = False, **options: Any) -> LatentODE:
    """The one generator that all rows of a task share.

    Args:
        fine: as Langevin from scratch needs its solver, which learns rough curves where it may.
        options: ``static=`` for another split of the latents, and for the emission.
    """
    task, sizes = cell.of, cell.sizes
    static = options.pop("static", sizes.static)
    latent = sizes.latent + sizes.static - static
    drives = task.drives and static > 0
    network = None
    if cell.emission == "conv" and task.image is not None:
        network = Deconvolution(static + latent, task.image)
    options |= {"activation": "relu"} if task.pixels else {}  # edges are sharp
    emission = GaussianEmission(
        static + latent, task.observed, sizes.emission, network=network, **options
    )
    return LatentODE(
        latent,
        task.observed,
        static=static,
        static_in_field=drives,
        field=MLPField(latent, sizes.hidden, covariates=static if drives else 0),
        emission=emission,
        tolerance=task.tolerance * (1 if fine else 10),
    ).to(cell.device)


def encoder_guide(cell: Cell, model: LatentODE, data: Data) -> EncoderGuide:
    """An encoder that sees of a training sequence such as it will see of a test one."""
    observed, image = data.train.observed, cell.of.image
    reader = None if image is None else ConvolutionalReader(image, 64)
    features = 2 * (model.static + model.latent)
    kind = ODERNNEncoder if cell.encoder == "odernn" else GRUEncoder
    encoder = kind(observed, WIDTH, features=features, reader=reader).to(cell.device)
    view = partial(cell.of.view, cell.protocol)
    return EncoderGuide(model, data.train, encoder, view=view)


def with_energy(cell: Cell, model: LatentODE, base: int | nn.Module, **options: Any) -> LatentODE:
    """A copy whose prior has an energy, yet to be learned."""
    size = model.static + model.latent
    twin = copy.deepcopy(model)
    prior = EnergyPrior(MLPEnergy(size, (WIDTH, WIDTH)), base, **options)
    twin.prior = prior.to(cell.device)
    return twin
