"""Fused native code, compiled at its first use."""

from .library import NativeError, Network, Task, library, run
from .task import solve

__all__ = ["NativeError", "Network", "Task", "library", "run", "solve"]
