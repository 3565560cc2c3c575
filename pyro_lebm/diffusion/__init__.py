"""Diffusion of a value into noise, and back in few steps: samplers, and the chain's density."""

from __future__ import annotations

from .annealed import annealed_langevin
from .chain import GaussianChain
from .implicit import ancestral, implicit

__all__ = ["GaussianChain", "ancestral", "annealed_langevin", "implicit"]
