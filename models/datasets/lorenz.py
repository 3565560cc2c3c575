"""Lorenz's system, and neurons that fire with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from pyro_lebm.trajectories.ode import trajectory

SIGMA, RHO, BETA = 10.0, 28.0, 8.0 / 3.0
# Mean and standard deviation of x, y and z on the attractor, by long runs; x and y have mean 0 by
# symmetry. One transform for all data, whatever its seed.
CENTRE, SCALE = (0.0, 0.0, 23.55), (7.92, 9.01, 8.63)
SPEED = 2.0  # units of Lorenz's time in a second: about 2.7 turns
LONGEST_STEP, BURN_IN, BURN_IN_STEP = 0.01, (10.0, 20.0), 0.02  # in Lorenz's time
SPREAD = 1.4  # of log rates: about 1 bit a spike
MEAN_RATE = (5.0, 20.0)  # Hz
ATTRACTOR_DRAWS = 1000


@dataclass(frozen=True, eq=False)
class LorenzSystem:
    """Neurons whose log rates are linear in a standardised Lorenz state: see `lorenz_system`.

    Attributes:
        loading: ``(neurons, 3)``.
        offset: ``(neurons,)``, log Hz at the attractor's mean.
        points: number of bins.
        bin_width: in seconds.
    """

    loading: Tensor
    offset: Tensor
    points: int
    bin_width: float

    @property
    def times(self) -> Tensor:
        """Starts of the bins, ``(points,)`` seconds, in double precision."""
        return self.bin_width * torch.arange(self.points, dtype=torch.float64)

    def path(self, z0: Tensor) -> Tensor:
        """States at the starts of the bins, by RK4 in double precision; differentiable.

        Args:
            z0: ``(..., 3)``, standardised states at time 0.

        Returns:
            ``(..., points, 3)`` in z0's dtype, z0 first.

        Raises:
            ValueError: for another shape.

        Example:
            >>> lorenz_system(points=5).path(torch.zeros(2, 3)).shape
            torch.Size([2, 5, 3])
        """
        if z0.dim() < 1 or z0.shape[-1] != 3:
            raise ValueError(f"z0: expected shape (..., 3), got {tuple(z0.shape)}")
        times, gap = SPEED * self.times.to(z0.device), SPEED * self.bin_width
        # Steps end at every bin; the least bit longer, lest rounding make one step more.
        step = gap / math.ceil(gap / LONGEST_STEP) * (1 + 1e-9)
        return trajectory(_field, z0.double(), times, t0=0.0, step_size=step).to(z0.dtype)

    def rates(self, path: Tensor) -> Tensor:
        r"""Expected counts in each bin, ``(..., 3) -> (..., neurons)``, in the path's dtype.

        .. math:: \lambda_d = \Delta \exp(w_d \cdot z + c_d)
        """
        log_rate = path @ self.loading.to(path).mT + self.offset.to(path)
        return self.bin_width * log_rate.exp()

    def sample_initial(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """States on the attractor, ``(n, 3)``, standardised, in double precision.

        Gaussian draws about its mean, each moved on by a time ~ U(10, 20) of Lorenz's, which all
        but forget where they began.

        Raises:
            ValueError: fewer than 1.
        """
        if n < 1:
            raise ValueError(f"n: expected at least 1 state, got {n}")
        return _on_attractor(n, generator)


def lorenz_system(
    neurons: int = 30, *, points: int = 100, bin_width: float = 0.02, system_seed: int = 0
) -> LorenzSystem:
    r"""Neurons driven by Lorenz's system (Lorenz 1963), as in the trials of LFADS.

    .. math:: \dot x = 10 (y - x), \quad \dot y = x (28 - z) - y, \quad \dot z = x y - 8 z / 3

    at 2 units of its time a second; the state, standardised by fixed constants, gives log rates
    :math:`w_d \cdot z + c_d`. Each w has a direction at random, and such a length that log rates
    have a standard deviation of 1.4 on the attractor, about 1 bit a spike; c is such that the
    neuron's mean rate there is U(5, 20) Hz. (After Sussillo et al. 2016, arXiv 1608.06315; the
    sizes are ours.) What the true model's own smoothing needs is here: the dynamics are
    deterministic, so that a trial is known by its first state.

    Args:
        neurons: how many.
        points: number of bins.
        bin_width: in seconds.
        system_seed: of the neurons; the seed of `lorenz_spikes` is another.

    Raises:
        ValueError: fewer than 1 neuron or 2 points, a width that is not positive.

    Example:
        >>> system = lorenz_system(neurons=4, points=50)
        >>> path = system.path(system.sample_initial(7, torch.Generator().manual_seed(0)))
        >>> path.shape, system.rates(path).shape
        (torch.Size([7, 50, 3]), torch.Size([7, 50, 4]))
    """
    if neurons < 1 or points < 2:
        raise ValueError(f"neurons, points: expected at least 1 and 2, got {neurons} and {points}")
    if not 0 < bin_width < math.inf:
        raise ValueError(f"bin_width: expected a positive number of seconds, got {bin_width}")
    generator = torch.Generator().manual_seed(system_seed)
    direction = torch.randn(neurons, 3, generator=generator, dtype=torch.float64)
    low, high = MEAN_RATE
    mean_rate = low + (high - low) * torch.rand(neurons, generator=generator, dtype=torch.float64)
    states = _reference()
    loading = SPREAD * direction / (states @ direction.mT).std(0)[:, None]
    offset = mean_rate.log() - (states @ loading.mT).exp().mean(0).log()
    return LorenzSystem(loading, offset, points, bin_width)


@cache  # the same for all neurons
def _reference() -> Tensor:
    return _on_attractor(ATTRACTOR_DRAWS, torch.Generator().manual_seed(0))


def _on_attractor(n: int, generator: torch.Generator | None) -> Tensor:
    low, high = BURN_IN
    start = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    times = low + (high - low) * torch.rand(n, 1, generator=generator, dtype=torch.float64)
    return trajectory(_field, start, times, t0=0.0, step_size=BURN_IN_STEP)[:, 0]


def _field(t: Tensor, z: Tensor) -> Tensor:
    """Of the standardised state."""
    x, y, height = (
        centre + scale * part
        for centre, scale, part in zip(CENTRE, SCALE, z.unbind(-1), strict=True)
    )
    change = (SIGMA * (y - x), x * (RHO - height) - y, x * y - BETA * height)
    return torch.stack([part / scale for part, scale in zip(change, SCALE, strict=True)], -1)
