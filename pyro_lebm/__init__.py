"""Latent energy-based models as Pyro programs: the mathematics.

Models are in `pyro_lebm.models`, ways to learn them in `pyro_lebm.inference`.
"""

from __future__ import annotations

from .annealing.ratio import LogRatio
from .annealing.smc import annealed_smc
from .base import FullNormal, StandardNormal
from .conditional import ConditionalEnergyBased
from .distribution import EnergyBased
from .dynamics import langevin
from .energy import ConvolutionalEnergy, JointEnergy, LayerwiseEnergy, MLPEnergy
from .engines import engine
from .frame import series_from_frame
from .partition import log_z
from .prior import EnergyPrior
from .programs.potential import Potential, potential
from .series import Series
from .tilting.tilt import Tilt, tilt
from .trajectories.ode import choose_step, interpolate, trajectory

__all__ = [
    "ConditionalEnergyBased",
    "ConvolutionalEnergy",
    "EnergyBased",
    "EnergyPrior",
    "FullNormal",
    "JointEnergy",
    "LayerwiseEnergy",
    "LogRatio",
    "MLPEnergy",
    "Potential",
    "Series",
    "StandardNormal",
    "Tilt",
    "annealed_smc",
    "choose_step",
    "engine",
    "interpolate",
    "langevin",
    "log_z",
    "potential",
    "series_from_frame",
    "tilt",
    "trajectory",
]
