"""The run of a tilted program: joint draws for sites that nobody fixed, and the tilt's factor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.subsample_messenger import _Subsample
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor
from torch.distributions import Distribution, kl_divergence, register_kl

from ..distribution import EnergyBased, drawing_from_base
from ..factor import Sites, TiltFactor


class Tilts(Protocol):
    """What a run needs to know of a tilt: see `pyro_lebm.tilting.tilt.Tilt`."""

    @property
    def name(self) -> str:
        """Of the factor's site."""

    @property
    def names(self) -> Sequence[str]:
        """Of the sites."""

    @property
    def energy(self) -> Any:
        """Of vectors, and ``of`` sites."""

    def density(self) -> EnergyBased:
        """Of the sites, as vectors."""

    def draw(self, batch: torch.Size, fixed: Sites) -> Mapping[str, Tensor]:
        """Values of all sites, given those that are fixed."""

    def factor(self, run: Tilting) -> TiltFactor:
        """The tilt's factor at the values of a run."""


class TiltedSite(TorchDistribution):
    """A site's own distribution, whose draws are those of the tilted density.

    Whether anyone fixes the site is not known before its value is asked for.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - the name and type are torch's
    has_rsample = False

    def __init__(self, base_dist: Any, tilting: Tilting, name: str) -> None:
        self.base_dist, self.tilting, self.name = base_dist, tilting, name
        super().__init__(base_dist.batch_shape, base_dist.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """The site's own."""
        return self.base_dist.support

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> TiltedSite:
        """The same site in further plates."""
        return TiltedSite(self.base_dist.expand(batch_shape), self.tilting, self.name)

    def log_prob(self, value: Tensor) -> Tensor:
        """The program's own: what the tilt adds is its factor."""
        log_prob: Tensor = self.base_dist.log_prob(value)
        return log_prob

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """A draw of the tilted density, of all sites at once."""
        if torch.Size(sample_shape):
            raise ValueError(f"sample_shape: expected (), got {tuple(sample_shape)}; use plates")
        if drawing_from_base():
            value: Tensor = self.base_dist.sample()
            return value
        return self.tilting.drawn(self.name, self.batch_shape)


class Tilting(Messenger):
    """Around the program: wraps its sites, and notes what the factor needs."""

    def __init__(self, tilt: Tilts) -> None:
        super().__init__()
        self.tilt = tilt
        self.values: dict[str, Tensor] = {}
        self.said: list[Tensor] = []  # before they were broadcast
        self.inner: dict[str, tuple[Any, ...]] = {}  # plates of the program's own, scale and mask
        self.plates: dict[str, list[CondIndepStackFrame]] = {}
        self.indices: dict[str, Tensor] = {}
        self._fns: dict[str, TiltedSite] = {}
        self._drawn: Mapping[str, Tensor] = {}

    def drawn(self, name: str, batch: torch.Size) -> Tensor:
        """The value of a site that nobody fixed; the first such draws for the others too.

        Where one of those has been fixed since, the others are drawn anew, given what there is.
        """
        kept = all(_same(self._drawn.get(n), value) for n, value in self.values.items())
        if not self._drawn or not kept:
            self._drawn = self.tilt.draw(batch, self.values)
        return self._drawn[name]

    def _pyro_sample(self, msg: Any) -> None:
        name, fn = msg["name"], msg["fn"]
        if name not in self.tilt.names:
            return
        if msg["is_observed"]:
            raise ValueError(f"tilt: expected latent sites, got {name!r}, which is observed")
        frames = tuple(f for f in msg["cond_indep_stack"] if f.vectorized)
        self.inner[name] = (frames, msg["scale"], msg["mask"])
        msg["fn"] = TiltedSite(fn, self, name)

    def _pyro_post_sample(self, msg: Any) -> None:
        name = msg["name"]
        if isinstance(msg["fn"], _Subsample):
            self.indices[name] = msg["value"]
        elif name in self.tilt.names:
            fn, value = msg["fn"], msg["value"]
            self._fns[name] = fn
            shape = torch.broadcast_shapes(value.shape, fn.batch_shape + fn.event_shape)
            self.said.append(value)
            self.values[name] = value.expand(shape)
            self.plates[name] = [f for f in msg["cond_indep_stack"] if f.vectorized]

    def log_prior(self, values: Sites | None = None) -> Tensor:
        """The sites' own log density, for each element; at these values, of other sites' places."""
        at = self.values if values is None else values
        each = [self._fns[name].log_prob(at[name]) for name in self.tilt.names]
        return sum(each[1:], each[0])

    def say(self) -> None:
        """The factor, in the plates of the sites."""
        self._check()
        frames, scale, mask = self.inner[self.tilt.names[0]]
        factor = self.tilt.factor(self)
        with ExitStack() as stack:
            for f in frames:
                full = f.full_size or f.size
                index = self.indices.get(f.name, torch.arange(f.size))
                with poutine.block():  # the plate has said its indices before
                    plate = pyro.plate(f.name, full, subsample=index, dim=f.dim)
                stack.enter_context(plate)
                scale = scale / (full / f.size)
            stack.enter_context(poutine.scale(scale=scale))
            if mask is not None:
                stack.enter_context(poutine.mask(mask=mask))
            pyro.sample(self.tilt.name, factor, obs=factor.sample(), infer={"is_auxiliary": True})

    def _check(self) -> None:
        for handler in _PYRO_STACK:
            if isinstance(handler, TraceMessenger) and self.tilt.name in handler.trace.nodes:
                raise ValueError(
                    f"name: expected one of its own for each tilt of a model, got a second "
                    f"{self.tilt.name!r}"
                )
        missing = [name for name in self.tilt.names if name not in self.values]
        if missing:
            raise ValueError(
                f"tilt: expected the sites {list(self.tilt.names)}, got a run without {missing}"
            )
        first = self.tilt.names[0]
        for name in self.tilt.names[1:]:
            if {f.name for f in self.plates[name]} != {f.name for f in self.plates[first]}:
                raise ValueError(
                    "tilt: expected all sites in one set of plates, got "
                    f"{_named(self.plates[first])} around {first!r} and "
                    f"{_named(self.plates[name])} around {name!r}"
                )
            (_, scale, mask), (_, first_scale, first_mask) = self.inner[name], self.inner[first]
            if not (_alike(scale, first_scale) and _alike(mask, first_mask)):
                raise ValueError(
                    f"tilt: expected one scale and one mask around all sites, got others around "
                    f"{name!r} than around {first!r}"
                )


def _same(a: Tensor | None, b: Tensor) -> bool:
    return a is b or (a is not None and a.shape == b.shape and torch.equal(a, b))


def _alike(a: Any, b: Any) -> bool:
    """Whether two scales, or two masks, where there are any, are one."""
    if a is None or b is None:
        return a is b
    return torch.equal(torch.as_tensor(a), torch.as_tensor(b))


def _named(frames: Sequence[CondIndepStackFrame]) -> list[str]:
    return sorted(frame.name for frame in frames)


@register_kl(Distribution, TiltedSite)  # type: ignore[untyped-decorator]
def _kl(p: Any, q: TiltedSite) -> Tensor:
    """That from the site's own distribution: the factor stands beside it."""
    found: Tensor = kl_divergence(p, q.base_dist)
    return found


@register_kl(Delta, TiltedSite)  # type: ignore[untyped-decorator]
def _kl_delta(p: Delta, q: TiltedSite) -> Tensor:
    return -q.log_prob(p.v)
