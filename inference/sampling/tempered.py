"""Parallel tempering: chains at several temperatures that trade places."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_lebm.dynamics.langevin import OPTIMAL_ACCEPTANCE, LogDensity, State, mala_move

from .kernel import Kernel
from .sampler import Move


class Tempered(Kernel):
    r"""Parallel tempering of MALA (Geyer 1991), with deterministic even-odd swaps (Syed, Bouchard-
    Cote, Deligiannidis & Doucet 2022, arXiv 1905.02939).

    Replicas of each chain run on :math:`p^{\beta_k}`, :math:`1 = \beta_0 > \dots > \beta_K`; hot
    ones cross between modes, and neighbours trade places with probability
    :math:`\min\{1, e^{(\beta_k - \beta_{k+1})(\log p(z_{k+1}) - \log p(z_k))}\}`. What is kept is
    the coldest, whose density is p itself. A move costs a gradient per replica. ``step_size`` is
    the noise's standard deviation of the coldest, in white coordinates; replica k's is
    :math:`\beta_k^{-1/2}` times that.

    Args:
        temperatures: how many replicas, the coldest included.
        hottest: :math:`1 / \beta_K`; the others lie between in geometric progression.
        options: as for `Kernel`, whose first two arguments are the first here.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro.infer import MCMC
        >>> def model():
        ...     return pyro.sample("x", dist.Normal(0.0, 1.0))
        >>> mcmc = MCMC(Tempered(model), num_samples=10, warmup_steps=10, disable_progbar=True)
        >>> mcmc.run()
        >>> mcmc.get_samples()["x"].shape
        torch.Size([10])
    """

    acceptance: ClassVar[float] = OPTIMAL_ACCEPTANCE

    def __init__(
        self,
        model: Any = None,
        potential_fn: Any = None,
        *,
        temperatures: int = 8,
        hottest: float = 50.0,
        **options: Any,
    ) -> None:
        super().__init__(model, potential_fn, **options)
        if int(temperatures) != temperatures or temperatures < 2:
            raise ValueError(
                f"temperatures: expected a whole number of at least 2, got {temperatures}"
            )
        if not (hottest > 1 and math.isfinite(hottest)):
            raise ValueError(f"hottest: expected a number above 1, got {hottest}")
        self.gradients, self.hottest = temperatures, hottest

    def inverse_temperatures(self, like: Tensor) -> Tensor:
        """Of all replicas, from 1 down, ``(temperatures,)``."""
        exponent = torch.linspace(0, 1, self.gradients, dtype=like.dtype, device=like.device)
        return self.hottest**-exponent

    def begin(self, state: State) -> Tensor:
        """All replicas where the chain is: ``(chains, temperatures - 1, 2 * dim + 2)``."""
        hot = torch.cat(
            [
                state.position,
                state.gradient,
                state.log_density[..., None],
                torch.zeros_like(state.log_density[..., None]),
            ],
            -1,
        )
        return hot.unsqueeze(-2).repeat_interleave(self.gradients - 1, -2)

    def move(self, target: LogDensity, state: State, momentum: Tensor, step_size: Tensor) -> Move:
        """A step of every replica, then the swaps."""
        beta = self.inverse_temperatures(state.position)
        replicas = _joined(state, momentum)
        step = step_size.to(beta).unsqueeze(-1) * beta.rsqrt()
        tempered = State(
            replicas.position, beta * replicas.log_density, beta[:, None] * replicas.gradient
        )
        flat = tempered.position.shape[:-2]

        def hot(z: Tensor) -> Tensor:
            values: Tensor = beta * target(z.reshape(-1, z.shape[-1])).reshape(z.shape[:-1])
            return values

        moved, probability, log_ratio = mala_move(hot, tempered, step.expand((*flat, len(beta))))
        replicas = State(moved.position, moved.log_density / beta, moved.gradient / beta[:, None])
        odd = int(momentum[..., 0, -1].flatten()[0])
        replicas = _swapped(replicas, beta, odd)
        cold = State(*(part[:, 0] for part in replicas))
        return Move(cold, _split(replicas, 1 - odd), probability[..., 0], -log_ratio[..., 0])


def _joined(state: State, hot: Tensor) -> State:
    dim = state.position.shape[-1]
    position, gradient, log_density, _ = hot.split([dim, dim, 1, 1], -1)
    return State(
        torch.cat([state.position.unsqueeze(-2), position], -2),
        torch.cat([state.log_density.unsqueeze(-1), log_density.squeeze(-1)], -1),
        torch.cat([state.gradient.unsqueeze(-2), gradient], -2),
    )


def _split(replicas: State, odd: int) -> Tensor:
    hot = [part[:, 1:] for part in replicas]
    turn = torch.full_like(hot[1], float(odd))
    return torch.cat([hot[0], hot[2], hot[1].unsqueeze(-1), turn.unsqueeze(-1)], -1)


def _swapped(replicas: State, beta: Tensor, odd: int) -> State:
    """Neighbours (0, 1), (2, 3), ... or, in odd turns, (1, 2), (3, 4), ... trade places."""
    log_p = replicas.log_density
    chains, k = log_p.shape
    order = torch.arange(k, device=log_p.device).expand(chains, k).clone()
    low = torch.arange(odd, k - 1, 2, device=log_p.device)
    ratio = (beta[low] - beta[low + 1]) * (log_p[:, low + 1] - log_p[:, low])
    trade = torch.rand_like(ratio).log() < ratio.nan_to_num(nan=-math.inf)
    order[:, low] += trade.long()
    order[:, low + 1] -= trade.long()
    wide = order.unsqueeze(-1).expand_as(replicas.position)
    return State(
        replicas.position.gather(1, wide), log_p.gather(1, order), replicas.gradient.gather(1, wide)
    )
