"""A recurrent generator: the baseline whose states a GRU carries from time to time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_lebm.number_checks import check_numbers

from .emissions import GaussianEmission
from .fields import check_sizes
from .stepwise import StepwiseModel


class RecurrentGenerator(StepwiseModel):
    r"""States of a gated recurrent unit that noise drives, seen through an emission.

    .. math:: z_k = \text{GRU}([\varepsilon_k, \Delta_k / \text{unit}, u_k],\, z_{k-1})

    With a recurrent guide it is a sequential variational autoencoder in the manner of LFADS
    (Sussillo et al. 2016, arXiv 1608.06315; Pandarinath et al. 2018, Nature Methods 15), whose
    inferred inputs are here the noise, N(0, I) and independent from step to step, and whose
    generator's first state is ``z0`` itself. Gaps are an input, so that times may be irregular; a
    gap of 0 moves the state like any other. The unit is that of Cho et al. (2014, arXiv
    1406.1078) as `torch.nn.GRUCell` has it.

    Sites as for :class:`~pyro_lebm.models.stepwise.StepwiseModel`.

    Args:
        state: S, units of the GRU.
        observed: D, size of an observation.
        noise: M, numbers that drive a step; default S.
        prior: module whose call returns the distribution of ``z0``; default N(0, I).
        emission: module from paths ``(..., K, S)``; default Gaussian with learned scale.
        covariates: C, size of known inputs to the steps.
        unit: a usual gap, in the series' unit.

    Raises:
        TypeError: for a size that is no whole number or a unit that is no number.
        ValueError: for sizes below one or a unit that is not positive; and as `StepwiseModel` does.

    Example:
        >>> model = RecurrentGenerator(state=8, observed=2, noise=3)
        >>> model.generate(4, torch.tensor([0.0, 0.5, 2.0])).shape
        torch.Size([4, 3, 2])
    """

    def __init__(
        self,
        state: int,
        observed: int,
        *,
        noise: int | None = None,
        prior: nn.Module | None = None,
        emission: nn.Module | None = None,
        covariates: int = 0,
        unit: float = 1.0,
    ) -> None:
        check_sizes(state=state, observed=observed)
        check_numbers(unit=unit)
        if not 0 < unit < math.inf:
            raise ValueError(f"unit: expected a positive number, got {unit}")
        noise = state if noise is None else noise
        emission = GaussianEmission(state, observed) if emission is None else emission
        super().__init__(
            state, observed, noise, prior=prior, emission=emission, covariates=covariates
        )
        self.unit = unit
        self.cell = _GatedUnit(noise + 1 + covariates, state)

    def step(self, z: Tensor, gap: Tensor, noise: Tensor, u: Tensor | None = None) -> Tensor:
        """The next state; the arguments of `StepwiseModel.step`."""
        parts = [noise, gap / self.unit] if u is None else [noise, gap / self.unit, u]
        shape = torch.broadcast_shapes(z.shape[:-1], *(part.shape[:-1] for part in parts))
        driven = torch.cat([part.expand(*shape, part.shape[-1]) for part in parts], -1)
        after: Tensor = self.cell(driven, z)
        return after

    def structure(self) -> dict[str, str]:
        """What equal weights do not tell: also the unit of the gaps."""
        return {"dynamics": f"unit {self.unit:g}", **super().structure()}


class _GatedUnit(nn.Module):
    """`torch.nn.GRUCell`, its weights as they start there, for any leading dimensions."""

    def __init__(self, inputs: int, state: int) -> None:
        super().__init__()
        self.inward, self.across = nn.Linear(inputs, 3 * state), nn.Linear(state, 3 * state)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(state**-0.5), state**-0.5)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """``(..., inputs)`` and ``(..., S)`` to ``(..., S)``."""
        inward, across = self.inward, self.across
        reset_x, keep_x, new_x = F.linear(x, inward.weight, inward.bias).chunk(3, -1)
        reset_z, keep_z, new_z = F.linear(z, across.weight, across.bias).chunk(3, -1)
        keep = torch.sigmoid(keep_x + keep_z)
        new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_z) * new_z)
        return new + keep * (z - new)
