"""Sequences seen along a path, their density computed in slices of time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_lebm.observations.rescored import Rescored
from pyro_lebm.trajectories import recompute

ROWS = 4096  # states in a slice: enough to keep a processor busy

Emit = Callable[[Tensor], TorchDistribution]


class SeenInSlices(Rescored):
    """Sequences seen along a path through an emission that treats each time by itself.

    The gradient of the density computes the emission's inner values anew, slice by slice: beside
    the path it holds those of one slice, however many times there are. Anything but the density is
    left to the distribution of all times at once.

    Args:
        path: ``(..., N, T, L)``.
        mask: ``(N, T, D)``.
        emit: the distribution of batch shape ``(..., N, t, D)`` of states ``(..., N, t, L)``.
        network: whose parameters it uses, see `recompute.again`.
    """

    def __init__(self, path: Tensor, mask: Tensor, emit: Emit, network: nn.Module) -> None:
        super().__init__(path.shape[:-2], mask.shape[1:], partial(_seen, emit, path, mask))
        self._path, self._mask = path, mask
        self._emit, self._network = emit, network

    def log_prob(self, value: Tensor) -> Tensor:
        """Log likelihood of each sequence, ``(..., N)``."""
        size = max(1, ROWS // max(self._path.shape[:-2].numel(), 1))

        def of(path: Tensor, mask: Tensor, part: Tensor) -> Tensor:
            found: Tensor = _seen(self._emit, path, mask).log_prob(part)
            return found

        total = self._path.new_zeros(self.batch_shape)
        paths, masks = self._path.split(size, -2), self._mask.split(size, -2)
        for path, mask, part in zip(paths, masks, value.split(size, -2), strict=True):
            total = total + recompute.again(of, path, mask, part, of=self._network)
        return total


def _seen(emit: Emit, path: Tensor, mask: Tensor) -> TorchDistribution:
    x: TorchDistribution = emit(path).mask(mask).to_event(2)
    return x


@torch.no_grad()
def check_each_time_alone(emit: Emit, latent: int, like: Tensor) -> None:
    """Refuse an emission in which the times of a path see each other, or chance has a part.

    Raises:
        ValueError: where two times together give another density than one by one.
    """
    with torch.random.fork_rng():
        path = torch.randn(2, 3, latent, dtype=like.dtype, device=like.device)
        together = emit(path)
        x = together.sample()
        alone = [emit(path[:, i : i + 1]).log_prob(x[:, i : i + 1]) for i in range(3)]
    if not torch.allclose(together.log_prob(x), torch.cat(alone, 1), rtol=1e-3, atol=1e-4):
        raise ValueError(
            "recompute: expected an emission that treats each time by itself, alike each time, "
            "got one that gives two times together another density than one by one"
        )
