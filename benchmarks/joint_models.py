"""Rows of the joint prior's benchmark: hierarchical generators under priors that differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from joint_data import Images, images
from torch import Tensor, nn

from pyro_lebm import EnergyPrior, JointEnergy, LayerwiseEnergy, MLPEnergy, Series, Tilt
from pyro_lebm.inference import BottomUpGuide, ConvolutionalReader
from pyro_lebm.models import (
    Deconvolution,
    EnergyLayer,
    GaussianEmission,
    GaussianLayer,
    HierarchicalGenerator,
    HierarchicalPrior,
)
from pyro_lebm.models.datasets import image_series

Scale = Literal["small", "full"]
ROWS = {
    "vae": "one layer, N(0, I)",
    "hvae": "two layers, no energy",
    "lebm_network": "one layer, an energy; inference network",
    "lebm_langevin": "one layer, an energy; Langevin",
    "conditional": "an energy for each layer given the one above; inference network",
    "joint_network": "one tilt of both layers; inference network",
    "joint_langevin": "one tilt of both layers; Langevin",
    "two_stage": "hvae, then the energy in noise space",
}
ABLATIONS = {
    "joint_concatenated": "one network over both layers",
    "joint_no_contrast": "without the conditionals' contrastive gradient",
    "joint_own": "chains in the layers' own values, not their noise",
    "hvae_sigma": "two layers, no energy; sigma .3, as published",
    "joint_sigma": "one tilt of both layers; sigma .3, as published",
    "hvae_4": "four layers, no energy",
    "joint_4": "four layers",
    "hvae_8": "eight layers, no energy",
    "joint_8": "eight layers",
}


@dataclass(frozen=True)
class Sizes:
    """Of networks."""

    latents: Mapping[int, tuple[int, ...]]
    conditional: tuple[int, ...]
    energy: tuple[int, ...]
    encoder: tuple[int, ...]
    emission: tuple[int, ...]  # widths of a perceptron, or channels of an image's coarse maps
    convolutional: bool
    scale: float  # of the emission, at the start
    learn_scale: bool
    num_chains: int


SIZES: dict[Scale, Sizes] = {
    "small": Sizes(
        {1: (16,), 2: (16, 8), 4: (16, 12, 8, 6), 8: (16, 14, 12, 10, 8, 7, 6, 5)},
        conditional=(64,),
        energy=(64, 64),
        encoder=(128, 128),
        emission=(128, 128),
        convolutional=False,
        scale=0.3,
        learn_scale=True,
        num_chains=256,
    ),
    # CIFAR-10's of Cui, Wu & Han (2023): facts of their code are in the README's sources
    "full": Sizes(
        {1: (128,), 2: (128, 100), 4: (128, 100, 64, 32), 8: (128, 112, 96, 80, 64, 48, 32, 16)},
        conditional=(200, 200, 200, 200),
        energy=(200, 200, 200),
        encoder=(400,),
        emission=(512, 256, 128),
        convolutional=True,
        scale=0.3,
        learn_scale=False,
        num_chains=512,
    ),
}
QUICK = Sizes(
    {1: (4,), 2: (4, 3), 4: (4, 3, 3, 2), 8: (4, 3, 3, 3, 2, 2, 2, 2)},
    (8,),
    (8,),
    (16,),
    (8,),
    False,
    0.3,
    True,
    16,
)


@dataclass(frozen=True)
class Cell:
    """One training: a row, a seed, and the settings that all of a run share."""

    row: str
    seed: int
    seconds: float = 150.0
    steps: int = 3000
    data: str = "digits"
    folder: str | None = None
    scale: Scale = "small"
    device: str = "cpu"
    learning_rate: float = 2e-3
    validation: bool = False
    quick: bool = False

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.row}_seed{self.seed}"

    @property
    def sizes(self) -> Sizes:
        """Those of the scale; a smoke run's are tiny, convolutions apart."""
        if not self.quick:
            return SIZES[self.scale]
        full = self.scale == "full"
        return QUICK if not full else Sizes(**{**vars(QUICK), "convolutional": True})

    @property
    def layers(self) -> int:
        """How many latent layers the row has."""
        if self.row in ("vae", "lebm_network", "lebm_langevin"):
            return 1
        *_, last = self.row.split("_")
        return int(last) if last.isdigit() else 2

    @property
    def energetic(self) -> bool:
        """Whether the row has an energy."""
        return not (self.row == "vae" or self.row.startswith("hvae"))

    def images(self) -> Images:
        """What it learns from."""
        folder = None if self.folder is None else Path(self.folder)
        found = images(self.data, folder, self.seed, validation=self.validation)
        if not self.quick:
            return found
        train, real, anomalies, others = (x[:60] for x in found[:4])
        labelled = tuple(x[:60] for x in found.labelled)
        return Images(train, real, anomalies, others, (labelled[0], labelled[1]))


def model_of(cell: Cell, shape: tuple[int, int, int]) -> HierarchicalGenerator:
    """The generator of a row, untrained."""
    sizes, latents = cell.sizes, cell.sizes.latents[cell.layers]
    options: dict[str, Any] = {"emission": _emission(cell, latents[0], shape)}
    observed = math.prod(shape)
    hierarchy = HierarchicalPrior(latents, sizes.conditional)
    chains: dict[str, Any] = {"num_chains": sizes.num_chains, "refresh": 25}
    if cell.row.startswith("lebm"):
        prior = EnergyPrior(MLPEnergy(latents[0], sizes.energy), latents[0], **chains)
        options["prior"] = HierarchicalPrior(latents, top=prior)
    elif cell.row == "conditional":
        options["prior"] = _energies_apart(cell, chains)
    elif cell.energetic:
        options["prior"] = _tilted(cell, hierarchy, chains)
    else:
        options["prior"] = hierarchy
    return HierarchicalGenerator(latents, observed, **options).to(cell.device)


def _emission(cell: Cell, latent: int, shape: tuple[int, int, int]) -> GaussianEmission:
    sizes, observed = cell.sizes, math.prod(shape)
    network = None
    if sizes.convolutional:
        network = Deconvolution(latent, shape, sizes.emission)
    return GaussianEmission(
        latent,
        observed,
        sizes.emission,
        scale=sizes.scale,
        learn_scale=sizes.learn_scale and not cell.row.endswith("_sigma"),
        activation="silu",
        network=network,
    )


def _energies_apart(cell: Cell, chains: dict[str, Any]) -> HierarchicalPrior:
    sizes, latents = cell.sizes, cell.sizes.latents[2]
    low, top = latents
    layer = GaussianLayer(top, low, sizes.conditional)
    conditional = EnergyLayer(layer, MLPEnergy(low + top, sizes.energy), steps=20)
    prior = EnergyPrior(MLPEnergy(top, sizes.energy), top, **chains)
    return HierarchicalPrior(latents, layers=[conditional], top=prior)


def _tilted(cell: Cell, hierarchy: HierarchicalPrior, chains: dict[str, Any]) -> Tilt:
    names = {f"z{i}": size for i, size in enumerate(hierarchy.latents, 1)}
    energy: nn.Module = LayerwiseEnergy(
        {name: MLPEnergy(int(size), cell.sizes.energy) for name, size in names.items()}
    )
    if cell.row == "joint_concatenated":
        size = sum(int(s) for s in names.values())
        energy = JointEnergy(MLPEnergy(size, cell.sizes.energy), dict.fromkeys(names, 1))
    kind = WithoutContrast if cell.row == "joint_no_contrast" else Tilt
    # without its gradient the conditionals are no part of what chains in noise would learn
    own = cell.row in ("joint_own", "joint_no_contrast")
    return kind(hierarchy, energy, coordinates="own" if own else "noise", **chains)


class WithoutContrast(Tilt):
    """A tilt whose log Z is taken not to depend on the conditionals: an ablation, and wrong."""

    def learned(self, run: Any) -> Tensor:
        return super().learned(run).detach()


class ImageEncoder(nn.Module):
    """A convolutional reader of images, for a bottom-up guide."""

    def __init__(self, shape: tuple[int, int, int], features: int) -> None:
        super().__init__()
        self.reader = ConvolutionalReader(shape, features, (64, 128, 256))

    def forward(self, series: Series) -> Tensor:
        seen = torch.cat([series.filled, series.mask.to(series.filled)], -1)
        found: Tensor = self.reader(seen).squeeze(1)
        return found


def guide_of(cell: Cell, model: HierarchicalGenerator, found: Images) -> BottomUpGuide:
    """The inference network."""
    sizes, series = cell.sizes, image_series(found.train).to(cell.device)
    encoder = None
    if sizes.convolutional:
        encoder = ImageEncoder(found.shape, 2 * int(model.latents[0]))
    return BottomUpGuide(model, series, encoder, hidden=sizes.encoder)


def joint_of(cell: Cell, model: HierarchicalGenerator) -> HierarchicalGenerator:
    """The trained hierarchy under an energy: of the second stage."""
    prior = model.prior
    assert isinstance(prior, HierarchicalPrior)
    chains: dict[str, Any] = {"num_chains": cell.sizes.num_chains, "refresh": 25}
    tilted = _tilted(cell, prior, chains)
    joint = HierarchicalGenerator(
        model.latents, model.observed, emission=model.emission, prior=tilted
    )
    return joint.to(cell.device)
