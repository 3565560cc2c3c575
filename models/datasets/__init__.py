"""Data sets: simulated ones with a known truth, and the cuts that tasks make of any."""

from __future__ import annotations

from .balls import bouncing_balls
from .co2 import co2
from .colour import cifar10, svhn
from .digits import digit_images, rotating_digits
from .hopper import hopper
from .images import image_series
from .lorenz import LorenzSystem, lorenz_system
from .lotka_volterra import lotka_volterra
from .neural import reaching
from .nwb import NeuralLatents, neural_latents
from .sines import irregular_sines
from .spikes import lorenz_spikes
from .spirals import spirals
from .tasks import Scaling, extrapolation, interpolation, split

__all__ = [
    "LorenzSystem",
    "NeuralLatents",
    "Scaling",
    "bouncing_balls",
    "cifar10",
    "co2",
    "digit_images",
    "extrapolation",
    "hopper",
    "image_series",
    "interpolation",
    "irregular_sines",
    "lorenz_spikes",
    "lorenz_system",
    "lotka_volterra",
    "neural_latents",
    "reaching",
    "rotating_digits",
    "spirals",
    "split",
    "svhn",
]
