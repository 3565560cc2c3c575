"""Models: what we believe about the data."""

from __future__ import annotations

from . import datasets
from .convolutions import Deconvolution
from .emissions import BernoulliEmission, Emission, GaussianEmission, PoissonEmission
from .fields import MLPField
from .hierarchy import HierarchicalGenerator, HierarchicalPrior, JointPrior
from .latent_ode import LatentODE
from .layers import EnergyLayer, GaussianLayer

__all__ = [
    "BernoulliEmission",
    "Deconvolution",
    "Emission",
    "EnergyLayer",
    "GaussianEmission",
    "GaussianLayer",
    "HierarchicalGenerator",
    "HierarchicalPrior",
    "JointPrior",
    "LatentODE",
    "MLPField",
    "PoissonEmission",
    "datasets",
]
