"""Models: what we believe about the data."""

from __future__ import annotations

from . import datasets
from .convolutions import Deconvolution
from .denoisers import StepNetwork, TransitionDenoiser
from .diffusion_process import DiffusionProcess
from .emissions import BernoulliEmission, Emission, GaussianEmission, PoissonEmission
from .fields import MLPField
from .hierarchy import HierarchicalGenerator, HierarchicalPrior, JointPrior
from .implicit_emission import ImplicitEmission
from .langevin_flow import LangevinFlow
from .latent_ode import LatentODE
from .layers import EnergyLayer, GaussianLayer
from .mixed_emission import MixedEmission
from .potentials import CoupledOscillators
from .recurrent import RecurrentGenerator
from .transformer import TransformerEmission
from .volume_preserving import VolumePreservingFlow

__all__ = [
    "BernoulliEmission",
    "CoupledOscillators",
    "Deconvolution",
    "DiffusionProcess",
    "Emission",
    "EnergyLayer",
    "GaussianEmission",
    "GaussianLayer",
    "HierarchicalGenerator",
    "HierarchicalPrior",
    "ImplicitEmission",
    "JointPrior",
    "LangevinFlow",
    "LatentODE",
    "MLPField",
    "MixedEmission",
    "PoissonEmission",
    "RecurrentGenerator",
    "StepNetwork",
    "TransformerEmission",
    "TransitionDenoiser",
    "VolumePreservingFlow",
    "datasets",
]
