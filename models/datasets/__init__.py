"""Data sets: simulated ones with a known truth, and the cuts that tasks make of any."""

from __future__ import annotations

from .balls import bouncing_balls
from .colour import cifar10, svhn
from .digits import digit_images, rotating_digits
from .hopper import hopper
from .images import image_series
from .lotka_volterra import lotka_volterra
from .sines import irregular_sines
from .tasks import Scaling, extrapolation, interpolation, split

__all__ = [
    "Scaling",
    "bouncing_balls",
    "cifar10",
    "digit_images",
    "extrapolation",
    "hopper",
    "image_series",
    "interpolation",
    "irregular_sines",
    "lotka_volterra",
    "rotating_digits",
    "split",
    "svhn",
]
