"""What a run of Markov chain Monte Carlo has in common, whichever back end made it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from pyro.infer.mcmc.util import diagnostics, print_summary, select_samples
from torch import Tensor

from .targets import Target


class Run(ABC):
    """Draws of several chains, with Pyro's own ways to look at them.

    Attributes:
        model: the program, or None where a potential function was sampled.
        args, kwargs: what the program was run with.
        method: how the draws were made, in words.
        adjusted: whether a Metropolis test keeps them free of bias.
        restarts: how often, in the warm-up, a chain was moved to where another was.
        statistics: per draw, ``(chains, draws)`` each: lp, acceptance_rate, step_size, n_steps,
            diverging and, of kernels with momentum, energy (the Hamiltonian).
    """

    model: Any
    method: str
    adjusted: bool
    restarts = 0

    def __init__(self) -> None:
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}
        self._target: Target | None = None

    @property
    @abstractmethod
    def statistics(self) -> dict[str, Tensor]:
        """Statistics of each draw."""

    @abstractmethod
    def _drawn(self) -> Tensor | None:
        """Positions ``(chains, draws, dim)``; None before there are any."""

    def get_samples(
        self, num_samples: int | None = None, group_by_chain: bool = False
    ) -> dict[str, Tensor]:
        """Draws by site, ``(chains * draws, *shape)`` or ``(chains, draws, *shape)``.

        Raises:
            RuntimeError: before a run.
        """
        z = self._drawn()
        if z is None or self._target is None:
            raise RuntimeError("run: expected a finished run, got none; call run() first")
        named = {name: value.detach() for name, value in self._target.constrain(z).items()}
        found: dict[str, Tensor] = select_samples(named, num_samples, group_by_chain)
        return found

    def diagnostics(self) -> dict[str, Any]:
        """R-hat and effective sample size by site; divergences and acceptance by chain."""
        samples = self.get_samples(group_by_chain=True)
        # Pyro's R-hat splits chains in two, and needs two draws of each half
        enough = next(iter(samples.values())).shape[1] >= 4
        found: dict[str, Any] = diagnostics(samples) if enough else {}
        stats = self.statistics
        if "diverging" in stats:
            found["divergences"] = {
                f"chain {c}": row.nonzero().flatten().tolist()
                for c, row in enumerate(stats["diverging"])
            }
        if "acceptance_rate" in stats:
            found["acceptance rate"] = {
                f"chain {c}": row.mean().item() for c, row in enumerate(stats["acceptance_rate"])
            }
        return found

    def summary(self, prob: float = 0.9) -> None:
        """Print Pyro's table: mean, sd, median, interval, effective sample size, R-hat."""
        print_summary(self.get_samples(group_by_chain=True), prob=prob)
        if "diverging" in self.statistics:
            print(f"Number of divergences: {int(self.statistics['diverging'].sum())}")
