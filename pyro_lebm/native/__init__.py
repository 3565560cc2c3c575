"""Fused native code, compiled at its first use."""

from .library import NativeError, Network, Task, library, run

__all__ = ["NativeError", "Network", "Task", "library", "run"]
