"""Models whose weights go to a file and come back into a model built alike."""

from __future__ import annotations

import os
from typing import Self

from pyro.nn import PyroModule

from pyro_lebm.checkpoint import (
    check_fingerprint,
    check_structure,
    fingerprint,
    read_state,
    write_state,
)


class SavedModel(PyroModule):
    """What all models share: `save` and `load`, which refuses the weights of another model."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights (no chains, no optimiser): beside, then renamed into place."""
        state = {
            "weights": self.state_dict(),
            "fingerprint": fingerprint(self),
            "structure": self.structure(),
        }
        write_state(path, state, kind="model")

    def load(self, path: str | os.PathLike[str]) -> Self:
        """Read weights that `save` wrote into this model, built alike; returns it.

        Raises:
            CheckpointError: for a missing, truncated or foreign file or another model.
        """
        state = read_state(path, kind="model")
        check_fingerprint(state["fingerprint"], self)
        check_structure(state["structure"], self)
        self.load_state_dict(state["weights"])
        return self

    def structure(self) -> dict[str, str]:
        """What equal weights do not tell: which functions they serve."""
        return {
            name: f"{type(module).__qualname__}, activation {getattr(module, 'activation', None)}"
            + (f", sites {[*module.sites]}" if hasattr(module, "sites") else "")
            for name, module in self.named_modules()
            if name  # those without weights too: a base of the prior may have none
        }
