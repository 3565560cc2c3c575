"""How many Langevin steps a visit to persistent chains takes, by what the last ones gained."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .langevin import State

GROW, SHRINK, MEMORY = 1.25, 0.9, 0.8
SURE = 2.0  # standard errors


class InnerSteps(nn.Module):
    r"""A number of steps between two bounds that follows what visits gain.

    A visit that takes chains from z to z' says two things. Whether they still climb: at
    equilibrium the log density rises as often as it falls, whatever the target, as reversed in time
    a chain is another such. And how much they renew: by Stein's identity

    .. math:: R = \frac{1}{2d}\, \mathrm{E}\,
              \langle z' - z,\; \nabla\log p(z) - \nabla\log p(z') \rangle

    is 1 for an independent z' of any smooth density, and for a Gaussian the mean of one minus the
    autocorrelation over its principal axes. With the sums over visits and chains forgetting by .8
    a visit, the number of steps K is multiplied

    .. math:: K \leftarrow \begin{cases}
              1.25\, K & \text{if } \sum \mathrm{sgn}(\log p(z') - \log p(z)) >
                2 \sqrt{\sum 1} \text{ or } \bar R < r \\
              0.9\, K & \text{otherwise} \end{cases}

    within its bounds. Chains that begin far away, or whose density moved, get more steps; settled
    ones get as few as renew them by r. It costs no gradient. The state lies in buffers that are
    training state and no weights, so that a run that is taken up again goes on with the same steps.

    Args:
        least, most: the bounds.
        renewal: r, what is wanted of a visit; 0 looks at the climb alone.

    Raises:
        ValueError: for bounds that are not ``1 <= least <= most``, a renewal outside [0, 1).

    Example:
        >>> steps = InnerSteps(2, 20)
        >>> int(steps)
        2
        >>> far = State(torch.zeros(8, 1), torch.zeros(8), torch.zeros(8, 1))
        >>> steps.learn(far, far._replace(log_density=torch.ones(8)))  # every chain rose
        >>> steps.exact
        2.5
    """

    count: Tensor
    rise: Tensor
    spread: Tensor
    renewed: Tensor

    def __init__(self, least: int = 3, most: int = 40, *, renewal: float = 0.25) -> None:
        super().__init__()
        if not 1 <= least <= most or int(least) != least or int(most) != most:
            raise ValueError(
                f"steps: expected whole numbers 1 <= least <= most, got ({least}, {most})"
            )
        if not 0 <= renewal < 1:
            raise ValueError(f"renewal: expected a number in [0, 1), got {renewal}")
        self.least, self.most, self.renewal = least, most, renewal
        for name, value in (("count", least), ("rise", 0), ("spread", 0), ("renewed", 0)):
            start = torch.tensor(float(value), dtype=torch.float64)
            self.register_buffer(name, start, persistent=False)

    @property
    def exact(self) -> float:
        """K before it is rounded."""
        return float(self.count)

    def __int__(self) -> int:
        return round(self.exact)

    @torch.no_grad()
    def learn(self, begin: State, end: State) -> None:
        """Take in a visit, by the states ``(*chains)`` it began and ended with."""
        sign = (end.log_density - begin.log_density).sign().nan_to_num(nan=0.0).double()
        self.rise.mul_(MEMORY).add_(sign.sum())
        self.spread.mul_(MEMORY**2).add_(sign.abs().sum())
        self.renewed.mul_(MEMORY).add_((1 - MEMORY) * _renewal(begin, end).mean())
        climbing = bool(self.rise > SURE * math.sqrt(float(self.spread)))
        wanted = climbing or float(self.renewed) < self.renewal
        self.count.mul_(GROW if wanted else SHRINK).clamp_(self.least, self.most)


def _renewal(begin: State, end: State) -> Tensor:
    """R of each chain, bounded alike on both sides, so that no chain far out decides the mean."""
    moved = (end.position - begin.position) * (begin.gradient - end.gradient)
    found = moved.double().sum(-1).div(2 * moved.shape[-1]).nan_to_num(nan=0.0)
    bound = max(4.0, found.numel() / 8)
    return found.clamp(-bound, bound)
