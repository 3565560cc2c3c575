"""An energy-based density that is learned: its parts, and the chains that feed its gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple, TypedDict, get_args

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from .annealing.ratio import LogRatio
from .base import white_metric
from .clock import timed
from .distribution import EnergyBased, annealed_draws, is_real
from .dynamics.chains import Chains
from .dynamics.langevin import check_step_size, evaluate, ula_step
from .dynamics.moves import Dynamics
from .frozen import frozen

Sampling = Literal["annealed", "persistent", "short_run"]
Negatives = Literal["persistent", "short_run", "annealed"]


class Options(TypedDict, total=False):
    """Of the chains and draws of a `LearnedDensity`; see `pyro_lebm.EnergyPrior`."""

    negatives: Negatives
    sampler: Sampling
    num_chains: int
    steps: int | None
    step_size: float
    adjusted: bool | None
    dynamics: Dynamics
    adapt: bool | None
    refresh: int


class LearnedDensity(PyroModule):
    r"""An energy network, its base, and the negative chains of :math:`\exp(-E(z))\, b(z) / Z`.

    What `pyro_lebm.EnergyPrior` and `pyro_lebm.Tilt` share; arguments are those of the former.

    The chains advance only in the backward pass of a parameter gradient, once for each value of the
    parameters however often the density is evaluated in between. ``train()`` / ``eval()`` says
    whether they are written back.

    Args:
        energy: module ``(*batch, dim) -> (*batch)``.
        base: module returning the base distribution with event shape ``(dim,)``.

    Attributes:
        learning: False holds the energy fixed (`fit` phases the energy in).
    """

    def __init__(
        self,
        energy: nn.Module,
        base: nn.Module,
        *,
        negatives: Negatives = "persistent",
        sampler: Sampling = "annealed",
        num_chains: int = 512,
        steps: int | None = None,
        step_size: float = 0.4,
        adjusted: bool | None = None,
        dynamics: Dynamics = "overdamped",
        adapt: bool | None = None,
        refresh: int = 0,
    ) -> None:
        super().__init__()
        short = negatives == "short_run"
        steps = steps if steps is not None else (60 if short else 5)
        if num_chains < 1 or steps < 1:
            raise ValueError(
                f"num_chains, steps: expected at least 1, got {num_chains} and {steps}"
            )
        if refresh < 0:
            raise ValueError(f"refresh: expected 0 or more visits, got {refresh}")
        check_step_size(step_size)
        _check_name("negatives", negatives, get_args(Negatives))
        _check_name("sampler", sampler, get_args(Sampling))
        self.base, self.energy = base, energy
        self.negatives, self.sampler = negatives, sampler
        self.num_chains, self.steps, self.step_size = num_chains, steps, step_size
        self.adjusted = (not short) if adjusted is None else adjusted
        self.adapt, self.refresh = adapt, refresh
        self.visits: Tensor
        self.register_buffer("visits", torch.zeros((), dtype=torch.long), persistent=False)
        self.learning = True
        self._log_z: _LogZ | None = None
        self._cache: tuple[Tensor, list[Tensor]] | None = None
        self._seen: dict[str, float] = {}
        start = self._checked_start()
        self.chains = Chains(start, step_size=step_size, dynamics=dynamics)

    def _checked_start(self) -> Tensor:
        """Draws of the base for the chains to start at, on which the energy's shape is checked."""
        with torch.no_grad(), frozen(self):
            base = self.base()
            if not is_real(base.support):
                raise ValueError(
                    "base: expected an unconstrained support, as Langevin steps need (transform "
                    f"the base), got {base.support}"
                )
            start: Tensor = base.sample(torch.Size((self.num_chains,)))
            EnergyBased(self.energy, base).log_prob(start)
        return start

    def density(self) -> EnergyBased:
        """The distribution as the parameters stand now."""
        known = self._known()
        return EnergyBased(
            self.energy,
            self.base(),
            negatives=self._negatives,
            sampler=self._sample,
            log_z=known and (known.source or known.value),
            learn=self.learning,
            watch=self._watch,
        )

    # Negatives

    def _negatives(self) -> Tensor:
        """Negatives for the density as it is: drawn once, then remembered."""
        if self._cache is None or not _same(self._density(), self._cache[1]):
            with timed("prior chains"):
                self._cache = (self._new_negatives(), _copies(self._density()))
        return self._cache[0]

    def forget(self) -> None:
        """Draw negatives anew at the next gradient, though the parameters may stand still."""
        self._cache = None

    def _new_negatives(self) -> Tensor:
        if self.negatives == "annealed":
            return annealed_draws(self._fixed(), self.num_chains, particles=512)
        if self.negatives == "short_run":
            return self.short_run(self.num_chains)
        start = None
        if self.training and self.refresh:
            self.visits += 1
            if int(self.visits) % self.refresh == 0:
                start = annealed_draws(self._fixed(), self.num_chains, particles=512)
        metric = white_metric(self.base())
        white = self.chains.run(
            self._log_density if metric is None else metric.target(self._log_density),
            self.steps,
            start=start if start is None or metric is None else metric.white(start),
            adjusted=self.adjusted,
            adapt=self.adapt,
            keep=self.training,
        )
        return white if metric is None else metric.position(white)

    def _fixed(self) -> EnergyBased:
        return EnergyBased(self.energy, self.base(), learn=False)

    def _log_density(self, z: Tensor) -> Tensor:
        return self._fixed().log_prob(z)

    # Sampling

    def _sample(self, distribution: EnergyBased, n: int) -> Tensor:
        # chains that no training has moved, as in a model just loaded, are draws of the base
        moved = bool(self.chains.visited.any())
        if self.sampler == "annealed" or (self.sampler == "persistent" and not moved):
            return annealed_draws(distribution, n)
        if self.sampler == "short_run":
            return self.short_run(n)
        # n distinct chains where there are enough
        order = torch.randperm(self.num_chains, device=self.chains.position.device)
        chosen = self.chains.position[order.repeat(math.ceil(n / self.num_chains))[:n]]
        metric = white_metric(self.base())
        return chosen if metric is None else metric.position(chosen)

    def short_run(self, n: int) -> Tensor:
        """``n`` points after ``steps`` Langevin steps from the base: not converged, by design."""
        start = self.base().sample(torch.Size((n,)))
        if self.adjusted:
            return Chains(start, step_size=self.step_size).run(self._log_density, self.steps)
        state = evaluate(self._log_density, start)
        for _ in range(self.steps):
            state = ula_step(self._log_density, state, self.step_size)
        return state.position

    # The constant

    @property
    def log_z(self) -> Tensor | None:
        """log Z if it was set for parameters and buffers as they are, as `pyro_lebm.log_z` does.

        A number that it is set to counts as known exactly; a `LogRatio` brings its error along.
        """
        known = self._known()
        return None if known is None else known.value

    @log_z.setter
    def log_z(self, value: LogRatio | Tensor | float) -> None:
        source = value if isinstance(value, LogRatio) else None
        number = torch.as_tensor(value if source is None else source.estimate).detach()
        self._log_z = _LogZ(number, source, _copies(self._density()))

    def _known(self) -> _LogZ | None:
        return self._log_z if self._log_z and _same(self._density(), self._log_z.of) else None

    def _density(self) -> list[Tensor]:
        """All that the density is made of: buffers too, such as a matched base's."""
        parts = (self.energy, self.base)
        return [*self.parameters(), *(b for part in parts for b in part.buffers())]

    # For the trainer

    def energy_parameters(self) -> list[nn.Parameter]:
        """What ``learning`` holds fixed, and `fit` moves more slowly than all else."""
        return list(self.parameters())

    def _watch(self, positive: Tensor, negative: Tensor) -> None:
        self._seen = {
            "energy_positive": float(positive.mean()),
            "energy_negative": float(negative.mean()),
        }

    def statistics(self) -> dict[str, float]:
        """Mean energies of the last positives and negatives, and the chains' acceptance."""
        if not self._seen:
            return {}
        return {
            **self._seen,
            "negative_acceptance": float(self.chains.acceptance),
            "negative_step_size": float(self.chains.step_size.mean()),
        }


class _LogZ(NamedTuple):
    """log Z, whence it is if it was estimated, and of which parameters and buffers."""

    value: Tensor
    source: LogRatio | None
    of: list[Tensor]


def _copies(values: Iterable[Tensor]) -> list[Tensor]:
    # torch's count of in-place writes would miss optimisers that write to `p.data`
    return [v.detach().clone() for v in values]


def _same(now: Iterable[Tensor], then: list[Tensor]) -> bool:
    return all(
        (a.dtype, a.device) == (b.dtype, b.device) and torch.equal(a, b)
        for a, b in zip(now, then, strict=True)
    )


def _check_name(argument: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{argument}: expected one of {sorted(allowed)}, got {value!r}")
