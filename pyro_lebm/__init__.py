"""Latent energy-based models as Pyro programs: the mathematics.

Models are in `pyro_lebm.models`, ways to learn them in `pyro_lebm.inference`.
"""

from __future__ import annotations

from . import langevin
from .base import FullNormal, StandardNormal
from .distribution import EnergyBased
from .energy import MLPEnergy
from .engines import engine
from .frame import series_from_frame
from .ode import choose_step, interpolate, trajectory
from .partition import log_z
from .potential import Potential, potential
from .prior import EnergyPrior
from .ratio import LogRatio
from .series import Series
from .smc import annealed_smc

__all__ = [
    "EnergyBased",
    "EnergyPrior",
    "FullNormal",
    "LogRatio",
    "MLPEnergy",
    "Potential",
    "Series",
    "StandardNormal",
    "annealed_smc",
    "choose_step",
    "engine",
    "interpolate",
    "langevin",
    "log_z",
    "potential",
    "series_from_frame",
    "trajectory",
]
