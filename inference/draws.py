"""Draws of the latent sites of a model, and the point estimate that is not one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

_AXES = {"chains": 0, "draws": 1, "sequences": 2}


@dataclass(frozen=True)
class Draws:
    r"""Draws :math:`z^{(c,s)}_n \sim p(z \mid x_n)` of several chains, for several sequences.

    Args:
        samples: site name -> constrained values, shape ``(chains, draws, N, *event)``.
        stats: name -> a number per draw, shape ``(chains, draws)`` or ``(chains, draws, N)``,
            for example ``acceptance_rate`` or ``lp`` (an unnormalised log joint, in nats).
        method: how they were drawn, in words ("annealed SMC from the prior").

    Raises:
        TypeError: if a value is not a tensor, or ``method`` not a string.
        ValueError: if nothing was drawn or shapes disagree.

    Example:
        >>> draws = Draws({"z0": torch.zeros(4, 25, 3, 2)}, method="prior")
        >>> draws.num_chains, draws.num_draws, draws.num_sequences
        (4, 25, 3)
        >>> draws.flat("z0").shape
        torch.Size([100, 3, 2])
    """

    samples: Mapping[str, Tensor]
    stats: Mapping[str, Tensor] = field(default_factory=dict)
    method: str = "unknown"

    def __post_init__(self) -> None:
        if not isinstance(self.method, str):
            raise TypeError(f"method: expected a string, got {type(self.method).__name__}")
        if not self.samples:
            raise ValueError("samples: expected at least one site, got none")
        for name, value in self.samples.items():
            _check_tensor("samples", name, value)
            if value.dim() < 3 or 0 in value.shape[:3]:
                raise ValueError(
                    f"samples[{name!r}]: expected shape (chains, draws, N, *event) with at least "
                    f"one of each, got {tuple(value.shape)}"
                )
            if value.shape[:3] != self.shape:
                raise ValueError(
                    f"samples[{name!r}]: expected (chains, draws, N) = {self.shape} as in "
                    f"{self.sites[0]!r}, got {tuple(value.shape[:3])}"
                )
        for name, value in self.stats.items():
            _check_tensor("stats", name, value)
            if tuple(value.shape) not in (self.shape[:2], self.shape):
                raise ValueError(
                    f"stats[{name!r}]: expected shape {self.shape[:2]} or {self.shape}, "
                    f"got {tuple(value.shape)}"
                )

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the latent sites."""
        return tuple(self.samples)

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(chains, draws, N)``."""
        chains, draws, sequences = next(iter(self.samples.values())).shape[:3]
        return chains, draws, sequences

    @property
    def num_chains(self) -> int:
        """How many chains."""
        return self.shape[0]

    @property
    def num_draws(self) -> int:
        """How many draws per chain."""
        return self.shape[1]

    @property
    def num_sequences(self) -> int:
        """How many sequences, N."""
        return self.shape[2]

    def __getitem__(self, name: str) -> Tensor:
        """Values of one site, ``(chains, draws, N, *event)``."""
        if name not in self.samples:
            raise KeyError(f"name: expected one of {list(self.sites)}, got {name!r}")
        return self.samples[name]

    def flat(self, name: str) -> Tensor:
        """Values of one site with chains and draws as one: ``(chains * draws, N, *event)``."""
        return self[name].flatten(0, 1)

    def select(self, index: Tensor | Sequence[int] | slice) -> Draws:
        """The draws of some sequences: ``index`` is a slice, positions, or a boolean mask."""
        if not isinstance(index, slice):
            index = torch.as_tensor(index, device=next(iter(self.samples.values())).device)
            if index.dim() != 1:
                raise ValueError(f"index: expected one dimension, got shape {tuple(index.shape)}")
        samples = {name: value[:, :, index] for name, value in self.samples.items()}
        stats = {k: v[:, :, index] if v.dim() == 3 else v for k, v in self.stats.items()}
        return Draws(samples, stats, self.method)

    def thin(self, every: int) -> Draws:
        """Every ``every``-th draw of each chain."""
        if every < 1:
            raise ValueError(f"every: expected at least 1, got {every}")
        samples = {name: value[:, ::every] for name, value in self.samples.items()}
        return Draws(samples, {k: v[:, ::every] for k, v in self.stats.items()}, self.method)

    def to(self, *args: torch.device | torch.dtype | str) -> Draws:
        """The same draws on another device or, for floating values, in another precision."""
        samples = {name: _to(value, *args) for name, value in self.samples.items()}
        return Draws(samples, {k: _to(v, *args) for k, v in self.stats.items()}, self.method)

    @classmethod
    def concat(cls, parts: Sequence[Draws], over: str = "sequences") -> Draws:
        """Join draws over ``"sequences"``, ``"draws"`` or ``"chains"``.

        Statistics that not every part has, or that have no such dimension, are left out.
        """
        if over not in _AXES:
            raise ValueError(f"over: expected one of {list(_AXES)}, got {over!r}")
        if not parts:
            raise ValueError("parts: expected at least one Draws, got none")
        first = parts[0]
        for part in parts[1:]:
            if set(part.sites) != set(first.sites):
                raise ValueError(
                    f"parts: expected sites {list(first.sites)} in each, got {list(part.sites)}"
                )
        axis = _AXES[over]
        samples = {name: torch.cat([p.samples[name] for p in parts], axis) for name in first.sites}
        stats = {
            name: torch.cat([p.stats[name] for p in parts], axis)
            for name, value in first.stats.items()
            if all(name in p.stats and p.stats[name].dim() == value.dim() for p in parts)
            and axis < value.dim()
        }
        method = "; ".join(dict.fromkeys(p.method for p in parts))
        return cls(samples, stats, method)


@dataclass(frozen=True)
class PointEstimate:
    """One value per sequence, the best that a search found: an estimate, not a draw.

    It has no spread, so no interval, coverage or diagnostic can be had from it.

    Args:
        values: site name -> constrained values, shape ``(N, *event)``.
        log_joint: log p(x_n, z_n) up to a constant at that value, shape ``(N,)``, in nats.
        method: how it was found, in words ("best of 8 Langevin starts").

    Raises:
        TypeError: if a value is not a tensor.
        ValueError: if shapes disagree.

    Example:
        >>> PointEstimate({"z0": torch.zeros(3, 2)}, torch.zeros(3), "best of 8").num_sequences
        3
    """

    values: Mapping[str, Tensor]
    log_joint: Tensor
    method: str

    def __post_init__(self) -> None:
        _check_tensor("point estimate", "log_joint", self.log_joint)
        if self.log_joint.dim() != 1:
            raise ValueError(f"log_joint: expected shape (N,), got {tuple(self.log_joint.shape)}")
        if not self.values:
            raise ValueError("values: expected at least one site, got none")
        for name, value in self.values.items():
            _check_tensor("values", name, value)
            if value.dim() < 1 or value.shape[0] != self.num_sequences:
                raise ValueError(
                    f"values[{name!r}]: expected shape ({self.num_sequences}, *event), "
                    f"got {tuple(value.shape)}"
                )

    @property
    def num_sequences(self) -> int:
        """How many sequences, N."""
        return self.log_joint.shape[0]


def _check_tensor(argument: str, name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{argument}[{name!r}]: expected a tensor, got {type(value).__name__}")


def _to(value: Tensor, *args: torch.device | torch.dtype | str) -> Tensor:
    for arg in args:
        if not isinstance(arg, torch.dtype):
            value = value.to(device=arg)
        elif value.is_floating_point():
            value = value.to(dtype=arg)
    return value
