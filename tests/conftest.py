"""Every test starts from the same state of torch and Pyro, whatever ran before it."""

from __future__ import annotations

import os
from collections.abc import Iterator

# Before matplotlib or JAX are imported by anything: no window and no search for accelerators.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pyro
import pytest
import torch


@pytest.fixture(autouse=True)
def same_start() -> Iterator[None]:
    """Seeds, an empty parameter store and one thread; global settings are put back afterwards."""
    dtype, settings = torch.get_default_dtype(), pyro.settings.get()
    torch.set_num_threads(1)
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    yield
    torch.set_default_dtype(dtype)
    pyro.settings.set(**settings)
