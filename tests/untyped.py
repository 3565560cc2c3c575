"""Parts of Pyro whose annotations do not say what they take."""

from __future__ import annotations

from typing import Any

import pyro
from pyro import poutine as _poutine
from pyro.nn import PyroModule
from torch import nn

poutine: Any = _poutine
optim: Any = pyro.optim
PyroLinear: Any = PyroModule[nn.Linear]
