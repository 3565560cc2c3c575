"""Fused native code, compiled at its first use."""

from .compilation import NativeError, library
from .task import solve

__all__ = ["NativeError", "library", "solve"]
