"""Messengers that fix a program's latent sites and add up its log probabilities."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, Protocol

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from ..conditional import ConditionalEnergyBased
from ..factor import TiltFactor
from .reading import Enough, Plate, drawn_density

Fixed = Mapping[str, tuple[Tensor, Tensor | None]]  # value, and log |Jacobian| of its transform


class Structure(Protocol):
    """What scoring needs to know of a program: see `pyro_lebm.programs.program.Program`."""

    @property
    def plates(self) -> Mapping[str, Plate]:
        """Plates by name."""

    @property
    def common(self) -> Sequence[str]:
        """Names of the plates that elements are indexed by."""

    @property
    def watchers(self) -> Sequence[Callable[[str], None]]:
        """Told each site that is scored."""

    @property
    def values(self) -> Mapping[str, Tensor]:
        """Of the reading run, latent sites that are not scored among them."""

    def reduce(self, log_prob: Tensor) -> Tensor:
        """Log probabilities per element."""


class Fixing(Messenger):
    """Puts latent sites and plate indices where they are to be."""

    def __init__(self, program: Structure, values: Fixed) -> None:
        super().__init__()
        self.program, self.values = program, values
        self.met: set[str] = set()

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if isinstance(msg["fn"], _Subsample):
            msg["value"] = self.program.plates[name].index if name in self.program.plates else None
        elif name in self.values:
            msg["value"] = self.values[name][0]
            self.met.add(name)

    def check(self) -> None:
        """After a run: it has met all latent sites, or the density would lack some.

        Raises:
            ValueError: naming those that it has not.
        """
        check_met(list(self.values), self.met)


def check_met(sites: Sequence[str], met: Container[str]) -> None:
    """Raise ValueError, naming them, for latent sites that a run has not met."""
    missing = sorted(name for name in sites if name not in met)
    if missing:
        raise ValueError(
            f"model: expected the latent sites {list(sites)}, got a run without {missing}; which "
            "sites there are must not depend on their values"
        )


def refuse_drawn(name: str, fn: Any) -> None:
    """Raise ValueError for a log probability that is an estimate, with other noise at each call."""
    if drawn_density(fn):
        raise ValueError(
            f"site {name!r}: expected a density, got an estimate of one that is drawn anew at each "
            "call: train it by the ELBO of an encoder or a path guide"
        )


class RefuseDrawn(Messenger):
    """Around a program that somebody else scores: refuses a density that is an estimate."""

    def _pyro_post_sample(self, msg: Any) -> None:
        refuse_drawn(msg["name"], msg["fn"])


class Score(Fixing):
    """Fixes latent sites and adds up log probabilities per element."""

    def __init__(self, program: Structure, values: Fixed) -> None:
        super().__init__(program, values)
        self.prior: Tensor | float = 0.0
        self.likelihood: Tensor | float = 0.0
        shares = [program.plates[name] for name in program.common]
        self.minibatch = torch.Size(p.full_size for p in shares).numel() / max(
            torch.Size(p.size for p in shares).numel(), 1
        )

    def _pyro_post_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], _Subsample) or msg["infer"].get("_deterministic"):
            return
        self._add(msg)
        for watcher in self.program.watchers:
            watcher(msg["name"])

    def _add(self, msg: Any) -> None:
        if msg["name"] not in self.values and not msg["is_observed"]:
            raise ValueError(
                f"model: expected the latent sites {list(self.values)}, got {msg['name']!r} too; "
                "which sites there are must not depend on their values"
            )
        if isinstance(msg["fn"], ConditionalEnergyBased):
            raise ValueError(
                f"site {msg['name']!r}: expected a density whose constant is the same everywhere, "
                "got one of an energy given another site, whose log Z has a gradient and no value: "
                "train it by the ELBO of an encoder or a bottom-up guide"
            )
        refuse_drawn(msg["name"], msg["fn"])
        log_prob = msg["fn"].log_prob(msg["value"], *msg["args"], **msg["kwargs"])
        log_prob = scale_and_mask(log_prob, msg["scale"] / self.minibatch, msg["mask"])
        if isinstance(msg["fn"], TiltFactor):
            self.prior = self.prior + self.program.reduce(log_prob)
            return
        if msg["name"] not in self.values:
            self.likelihood = self.likelihood + self.program.reduce(log_prob)
            return
        self.prior = self.prior + self.program.reduce(log_prob)
        jacobian = self.values[msg["name"]][1]
        if jacobian is not None:
            self.prior = self.prior + self.program.reduce(jacobian)


class ScoreLatent(Score):
    """Adds up the latent sites alone, and ends the run when it has met them all."""

    def _pyro_sample(self, msg: Any) -> None:
        super()._pyro_sample(msg)
        if msg["name"] not in self.values and msg["name"] in self.program.values:
            msg["value"] = self.program.values[msg["name"]]  # another latent, that no site hangs on

    def _add(self, msg: Any) -> None:
        """The bare density: what scale or mask the program itself has is that of data."""
        if msg["name"] not in self.values:
            return
        value, jacobian = self.values[msg["name"]]
        self.prior = self.prior + self.program.reduce(msg["fn"].log_prob(value))
        if jacobian is not None:
            self.prior = self.prior + self.program.reduce(jacobian)
        if len(self.met) == len(self.values):
            raise Enough


class ScoreTogether(Fixing):
    """Adds up log probabilities of many chains, which are the plate at ``dim`` around the program.

    Right only for a program whose sites broadcast over a further plate on the left.
    """

    def __init__(self, program: Structure, values: Fixed, dim: int, chains: int) -> None:
        super().__init__(program, values)
        self.dim, self.chains = dim, chains
        self.total: Tensor | float = 0.0

    def _pyro_post_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], _Subsample) or msg["infer"].get("_deterministic"):
            return
        log_prob = msg["fn"].log_prob(msg["value"], *msg["args"], **msg["kwargs"])
        log_prob = scale_and_mask(log_prob, msg["scale"], msg["mask"])
        self.total = self.total + self._by_chain(msg["name"], log_prob)
        if msg["name"] in self.values:
            jacobian = self.values[msg["name"]][1]
            if jacobian is not None:
                self.total = self.total + self._by_chain(msg["name"], jacobian)

    def _by_chain(self, site: str, log_prob: Tensor) -> Tensor:
        chain = log_prob.ndim + self.dim
        if chain < 0:
            return log_prob.sum()  # the same for all chains
        if chain > 0 or log_prob.shape[chain] not in (1, self.chains):
            raise ValueError(
                f"strategy: 'plate' expects site {site!r} to broadcast over a further plate on the "
                f"left, got log probabilities of shape {tuple(log_prob.shape)} for {self.chains} "
                "chains; use strategy='vmap' or 'loop'"
            )
        return log_prob.reshape(len(log_prob), -1).sum(-1)
