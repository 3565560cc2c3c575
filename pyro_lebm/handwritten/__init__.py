"""Vector-Jacobian products written out in PyTorch, for machines without a compiler and for GPUs."""

from .path import solve
from .workspace import POOL

__all__ = ["POOL", "solve"]
