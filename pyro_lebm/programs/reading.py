"""One run of a Pyro program, observed: its latent sites, its plates, and what hangs in which."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor
from torch.distributions import Distribution, biject_to
from torch.distributions.constraints import Constraint

from ..distribution import EnergyBased, drawn_by, from_base, is_real
from ..factor import TiltFactor
from ..frozen import alone

IDENTITY = torch.distributions.transforms.identity_transform
MANY = "_pyro_lebm_draws"  # a further plate around the program, no part of it


@dataclass(frozen=True)
class Plate:
    """A plate as one run of the program saw it."""

    name: str
    dim: int
    size: int
    full_size: int
    index: Tensor


@dataclass(frozen=True)
class Site:
    """A continuous latent site: constrained to its support outside, unconstrained inside.

    ``batch`` and ``event`` are shapes of the unconstrained value, ``plates`` the names around it.
    """

    name: str
    transform: Any
    event_dim: int
    batch: torch.Size
    event: torch.Size
    plates: tuple[str, ...]

    @property
    def moves(self) -> bool:
        """Whether the transform is anything but the identity."""
        return self.transform is not IDENTITY


class Enough(Exception):
    """All latent sites were seen: the rest of the program need not run."""


class Reading(Messenger):
    """Notes plates, latent sites and what surrounds every scored site.

    Args:
        until: stop when these sites were seen.
        given: values of sites and indices of plates, instead of drawing them.
    """

    def __init__(self, until: set[str] | None, given: dict[str, Tensor]) -> None:
        super().__init__()
        self.waiting = None if until is None else set(until)
        self.given = given
        self.latent: dict[str, Any] = {}
        self.values: dict[str, Tensor] = {}
        self.leaves: dict[str, Tensor] = {}
        self.plates: dict[str, Plate] = {}
        self.around: dict[str, tuple[str, ...]] = {}
        self.indices: dict[str, Tensor] = {}
        self.minibatches: dict[str, tuple[int, int]] = {}
        self.random = ""
        self.fixed: dict[str, EnergyBased] = {}  # energies of observed sites, and tilts' factors

    def _pyro_sample(self, msg: Any) -> None:
        if msg["value"] is not None:
            return
        if msg["name"] in self.given:
            msg["value"] = self.given[msg["name"]]
        elif isinstance(innermost(msg["fn"]), dist.ImproperUniform):
            msg["value"] = _anywhere(msg["fn"])

    def _pyro_post_sample(self, msg: Any) -> None:
        name = msg["name"]
        if isinstance(msg["fn"], _Subsample):
            self.indices[name] = torch.as_tensor(msg["value"])
            return
        if msg["infer"].get("_deterministic"):
            return
        frames = [f for f in msg["cond_indep_stack"] if f.name != MANY]
        self._note(frames)
        self.around[name] = tuple(f.name for f in frames if f.vectorized)
        if self.waiting is None and (tilted(msg["fn"]) or isinstance(msg["fn"], TiltFactor)):
            msg["fn"].log_prob(msg["value"])  # refuses an energy that hangs on another site
        if msg["is_observed"]:
            density = msg["fn"].density if isinstance(msg["fn"], TiltFactor) else tilted(msg["fn"])
            if density is not None:
                self.fixed[name] = density
            self.random = name if drawn_density(msg["fn"]) else self.random
            return
        self.latent[name] = msg["fn"]
        self.values[name] = msg["value"].detach()
        if msg["value"].is_floating_point():
            # A leaf, so that a density which hangs on this site is found out and refused.
            msg["value"] = self.leaves[name] = self.values[name].clone().requires_grad_(True)
        if self.waiting is not None:
            self.waiting.discard(name)
            if not self.waiting:
                raise Enough

    def _note(self, frames: list[Any]) -> None:
        for f in frames:
            full = f.full_size or f.size
            if f.size < full:
                self.minibatches[f.name] = (f.size, full)
            if f.vectorized and f.name not in self.plates:
                index = self.indices.get(f.name, torch.arange(f.size))
                self.plates[f.name] = Plate(f.name, f.dim, f.size, full, index)

    def site(self, name: str) -> Site:
        """The latent site of this name.

        Raises:
            ValueError: a discrete one, or one whose support is not fixed.
        """
        fn = self.latent[name]
        if fn.support.is_discrete:
            raise ValueError(
                f"site {name!r}: expected a continuous latent, got {type(fn).__name__}"
            )
        if _moving(fn.support):
            raise ValueError(
                f"site {name!r}: expected a support that depends on no other site and no "
                f"parameter, got {fn.support}"
            )
        transform = IDENTITY if is_real(fn.support) else biject_to(fn.support)
        event = transform.inv(self.values[name]).shape[len(fn.batch_shape) :]
        return Site(name, transform, fn.event_dim, fn.batch_shape, event, self.around[name])


def tilted(fn: Any) -> EnergyBased | None:
    """The energy-based distribution that a site's distribution wraps, if it is one."""
    fn = innermost(fn)
    return fn if isinstance(fn, EnergyBased) else None


def innermost(fn: Any) -> Any:
    """The distribution within all that wrap it."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def drawn_density(fn: Any) -> bool:
    """Whether a log probability is an estimate, with other noise at each call."""
    return bool(getattr(innermost(fn), "random_density", False))


def _anywhere(fn: Any) -> Tensor:
    """A value of a flat density, which cannot be drawn: uniform in unconstrained space."""
    transform = biject_to(fn.support)
    value: Tensor = transform(torch.empty(transform.inverse_shape(fn.shape())).uniform_(-2, 2))
    return value


def _moving(bound: Any) -> bool:
    """Whether a support has bounds that were computed from something that may move."""
    if isinstance(bound, Tensor):
        return bound.requires_grad
    if isinstance(bound, Constraint):
        return any(_moving(part) for part in vars(bound).values())
    return isinstance(bound, list | tuple) and any(_moving(part) for part in bound)


@contextmanager
def reading(
    until: set[str] | None = None, *, given: dict[str, Tensor] | None = None, cheap: bool = True
) -> Iterator[Reading]:
    """Within the block, run the program: what it does is noted, unseen by handlers outside."""
    notes = Reading(until, given or {})
    with ExitStack() as stack:
        # Outermost, so that the handlers see the exception and clean up: a loop over a plate that
        # it interrupts is still on Pyro's stack.
        stack.enter_context(suppress(Enough))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if cheap:
            stack.enter_context(drawn_by(from_base))
        stack.enter_context(alone())
        stack.enter_context(notes)
        stack.enter_context(poutine.trace())  # inside: it has to see the leaves
        yield notes


def noted(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], until: set[str] | None = None
) -> Reading:
    """One run, observed: at a draw of the prior, where the density may well be undefined."""
    try:
        with reading(until) as notes:
            model(*args, **kwargs)
    except ValueError:  # Pyro's validation of a path that overflows; anything else comes again
        with pyro.validation_enabled(False), reading(until) as notes:
            model(*args, **kwargs)
    return notes


@contextmanager
def unvalidated() -> Iterator[None]:
    """Within the block, no distribution looks at its arguments or at values.

    Those built before, such as a prior given to `pyro.nn.PyroSample`, carry their own flag: it is
    the method that is switched off. What is outside of a support has a density of zero or NaN.
    """
    check = Distribution._validate_sample
    try:
        Distribution._validate_sample = _unchecked  # type: ignore[method-assign]
        with pyro.validation_enabled(False):
            yield
    finally:
        Distribution._validate_sample = check  # type: ignore[method-assign]


def _unchecked(self: Distribution, value: Tensor) -> None:
    pass
