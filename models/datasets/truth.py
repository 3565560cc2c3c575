"""What a simulation knows of its sequences."""

from __future__ import annotations

from torch import Tensor

Truth = dict[str, Tensor]
