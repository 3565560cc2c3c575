"""The fused engines that this machine has, to test each of them."""

from __future__ import annotations

import pytest

from pyro_lebm.native import NativeError, library


def compiled() -> bool:
    """Whether there is native code here: a machine may have no compiler."""
    try:
        library()
    except NativeError:
        return False
    return True


needs_native = pytest.mark.skipif(not compiled(), reason="no native code here")
FUSED = [pytest.param("native", marks=needs_native), "vjp"]
