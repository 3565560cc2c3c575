"""Models: what we believe about the data."""

from __future__ import annotations

from . import datasets
from .convolutions import Deconvolution
from .emissions import BernoulliEmission, Emission, GaussianEmission, PoissonEmission
from .fields import MLPField
from .latent_ode import LatentODE

__all__ = [
    "BernoulliEmission",
    "Deconvolution",
    "Emission",
    "GaussianEmission",
    "LatentODE",
    "MLPField",
    "PoissonEmission",
    "datasets",
]
