"""A Pyro program read as a density: its latent sites, what they hang in, how to score them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from ..dynamics.moves import Whole
from ..engines import COMPILERS, asked, compiler, honoured, pick
from ..frozen import alone, apart, frozen
from ..recorded.density import Density
from ..recorded.sources import Attached
from .layout import Layout
from .reading import MANY, Enough, Reading, noted, reading, unvalidated
from .scoring import Score, ScoreLatent, ScoreTogether, check_met

Model = Callable[..., Any]


@dataclass(frozen=True)
class Program(Layout):
    """A Pyro program and its arguments as a density over one flat vector per element.

    An *element* is one index of the plates that all latent and observed sites share: a sequence,
    in a model of sequences. Elements are independent given the parameters, so a chain may accept or
    reject each on its own. A program with a site outside any common plate has one element.

    Positions are unconstrained, ``(*leading, *elements, dim)``; leading dimensions (chains,
    particles) are mapped by ``torch.func.vmap``, or one by one where that cannot be done.

    Attributes:
        minibatches: size and full size of every plate that is subsampled in this run.
        draw: the site values of the reading run, packed ``(*elements, dim)``: a point to start at.
    """

    model: Model
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    values: dict[str, Tensor]
    minibatches: dict[str, tuple[int, int]]
    random: str = ""  # the observed site whose density is an estimate drawn anew at each call
    _said: dict[str, Any] = field(default_factory=dict, repr=False)
    _loops: list[str] = field(default_factory=list, repr=False)  # why, if it cannot be mapped
    _compared: set[str] = field(default_factory=set, repr=False)  # structures compiled rightly
    _densities: dict[Any, Density] = field(default_factory=dict, repr=False)
    watchers: list[Callable[[str], None]] = field(default_factory=list, repr=False)

    # Reading

    @classmethod
    def read(cls, model: Model, *args: Any, **kwargs: Any) -> Program:
        """Run the program once and note its structure.

        Raises:
            ValueError: for a discrete latent site, one of dynamic support, or no latent site.
        """
        notes = noted(model, args, kwargs)
        if not notes.latent:
            raise ValueError("model: expected at least one latent sample site, got none")
        shared = set.intersection(*(set(names) for names in notes.around.values()))
        common = tuple(sorted(shared, key=lambda name: notes.plates[name].dim))
        sites = tuple(notes.site(name) for name in notes.latent)
        seen = (notes.values, notes.minibatches, notes.random)
        return cls(sites, notes.plates, common, model, args, kwargs, *seen)

    def rebind(self, *args: Any, **kwargs: Any) -> Program:
        """The same structure on other data, read off a run that stops at the last latent site."""
        names = {site.name for site in self.sites}
        seen_by_then = {plate for site in self.sites for plate in site.plates}
        until = names if set(self.plates) == seen_by_then else None
        notes = noted(self.model, args, kwargs, until)
        sites = tuple(notes.site(name) for name in notes.latent)
        if [site.name for site in sites] != [site.name for site in self.sites]:
            raise ValueError(
                f"model: expected the latent sites {[site.name for site in self.sites]} again, "
                f"got {[site.name for site in sites]}"
            )
        return replace(
            self,
            args=args,
            kwargs=kwargs,
            sites=sites,
            plates={**self.plates, **notes.plates},
            values=notes.values,
            minibatches=notes.minibatches,
            _said={},
            _densities={},
        )

    @property
    def draw(self) -> Tensor:
        return self.pack(self.values)

    # Scoring

    def log_parts(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log density of the latent sites (with the transforms' Jacobian) and of the observed ones.

        Parameters are held fixed; scales and masks of the program count, but the factor by which a
        minibatch stands for the whole data set does not: it belongs to no single element.

        Args:
            z: positions ``(*leading, *elements, dim)``.

        Returns:
            two tensors ``(*leading, *elements)``.
        """
        lead = z.shape[: z.ndim - 1 - len(self.common)]
        flat = z.reshape((lead.numel(), *z.shape[len(lead) :]))
        if not len(flat):
            return z.sum(-1), z.sum(-1)
        if asked() in COMPILERS:
            prior, likelihood = self.compiled(flat, asked()).parts(flat)
        else:
            with self._scoring():
                if not lead:
                    return self._score(z)
                prior, likelihood = self.mapped(self._score, flat)
        return prior.reshape(z.shape[:-1]), likelihood.reshape(z.shape[:-1])

    @contextmanager
    def _scoring(self) -> Iterator[None]:
        """Parameters held fixed, out of sight of whatever messengers are around."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(unvalidated())
            # outside of `frozen`, which has to see the parameters
            stack.enter_context(poutine.block())
            stack.enter_context(frozen(self.model))
            yield

    def compiled(self, z: Tensor, name: str = "xla") -> Density:
        """By an engine, for positions such as ``z`` and with the weights and data of now."""
        pick(name)
        known = self._densities.get((name, z.dtype, z.device))
        if known is None or known.stale:
            # recorded at a point of its own: `z` may be a batch of a transform that is under way
            chains = max(z.shape[: z.ndim - 1 - len(self.common)].numel(), 1)
            with torch.inference_mode(False), temporarily_clear_interpreter_stack():
                point = self.draw.detach().to(z.device, z.dtype, copy=True)
                attach = partial(Attached, self.model, self.args, self.kwargs)
                known = Density(
                    self.log_parts,
                    self.watched,
                    attach,
                    point,
                    chains,
                    compiler(name),
                    self._compared,
                )
            self._densities[name, z.dtype, z.device] = known
        return known

    def whole(self, z: Tensor) -> Whole | None:
        """Whole visits to chains compiled as one, where the engine asked for has that."""
        if asked() != "xla":
            return None
        from ..xla.chain import visit

        return partial(visit, self.compiled(z).bound)

    def log_prior(self, z: Tensor) -> Tensor:
        """Log density of the latent sites alone, from a run that stops at the last of them.

        Unlike in `log_parts` parameters are live: gradients reach them; and the density is bare:
        masks and scales within the program are left out, as those of data.

        Args:
            z: positions ``(*leading, *elements, dim)``.

        Returns:
            ``(*leading, *elements)``.
        """
        lead = z.shape[: z.ndim - 1 - len(self.common)]
        flat = z.reshape((lead.numel(), *z.shape[len(lead) :]))
        with self.hidden():
            (found,) = self.mapped(self._score_latent, flat)
        return found.reshape(z.shape[:-1])

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Out of sight of whatever messengers are around, and of Pyro's store of parameters."""
        with torch.inference_mode(False), unvalidated(), alone(), apart(self.model):
            yield

    def _score_latent(self, z: Tensor) -> tuple[Tensor]:
        score = ScoreLatent(self, dict(self.unconstrained(z)))
        with suppress(Enough), score, honoured():
            self.model(*self.args, **self.kwargs)
        score.check()
        return (z.new_zeros(self.elements) + score.prior,)

    def mapped(
        self, score: Callable[[Tensor], tuple[Tensor, ...]], z: Tensor, **options: Any
    ) -> tuple[Tensor, ...]:
        """Scores of each of ``(n, *elements, dim)``, together where the program can be mapped.

        ``options`` are those of ``torch.func.vmap``.
        """
        if len(z) > 1 and not self._loops:
            seen: list[str] = []
            try:
                with self.watched(seen.append):
                    found: tuple[Tensor, ...] = torch.func.vmap(score, **options)(z)
                return found
            except RuntimeError as error:
                # What cannot be mapped (adaptive solvers) says so in these words, each time alike.
                if not any(word in str(error) for word in ("vmap", "functorch", "setup_context")):
                    raise
                where = f"after site {seen[-1]!r}" if seen else "before the first site"
                self._loops.append(f"{where}: {str(error).splitlines()[0]}")
        return tuple(torch.stack(parts) for parts in zip(*map(score, z), strict=True))

    def log_density(self, z: Tensor) -> Tensor:
        """Log joint density per element, ``(*leading, *elements)``; see `log_parts`."""
        prior, likelihood = self.log_parts(z)
        return prior + likelihood

    @property
    def unmapped(self) -> str | None:
        """Where and why vmap could not map the program, once that was tried."""
        return self._loops[0] if self._loops else None

    def log_joint_in_plate(self, z: Tensor) -> Tensor:
        """Log joint densities ``(chains)`` at ``(chains, *elements, dim)``, from one run inside a
        further plate: fast, and right only for a program written to broadcast.

        Raises:
            ValueError: for a site whose log probabilities are not of the plate's shape.
        """
        chains, nesting = len(z), max((-plate.dim for plate in self.plates.values()), default=0)
        values = {}
        for name, (value, jacobian) in self.unconstrained(z):
            batch = len(next(site for site in self.sites if site.name == name).batch)
            pad = (chains, *[1] * (nesting - batch))
            values[name] = (
                value.reshape(pad + value.shape[1:]),
                None if jacobian is None else jacobian.reshape(pad + jacobian.shape[1:]),
            )
        score = ScoreTogether(self, values, -nesting - 1, chains)
        with self._scoring(), honoured(), pyro.plate(MANY, chains, dim=-nesting - 1), score:
            self.model(*self.args, **self.kwargs)
        score.check()
        return z.new_zeros(chains) + score.total

    @property
    def latent(self) -> dict[str, Any]:
        """The latent sites' distributions, at the values of the reading run."""
        return dict(self._run(self.values).latent)

    def _score(self, z: Tensor) -> tuple[Tensor, Tensor]:
        score = Score(self, dict(self.unconstrained(z)))
        with score, honoured():
            self.model(*self.args, **self.kwargs)
        score.check()
        zero = z.new_zeros(self.elements)
        return zero + score.prior, zero + score.likelihood

    @contextmanager
    def watched(self, watcher: Callable[[str], None]) -> Iterator[None]:
        """Tell ``watcher`` the name of each site as soon as it is scored."""
        self.watchers.append(watcher)
        try:
            yield
        finally:
            self.watchers.remove(watcher)

    # Sampling and saying

    def prior_draws(self, n: int, given: Mapping[str, Tensor] | None = None) -> Tensor:
        """Draws of the latent sites from the program itself, ``(n, *elements, dim)``.

        ``given`` are values of some sites, ``(n, *site shape)``, which the others are drawn upon.
        """
        given = given or {}
        if n > 1:
            # all at once, where the program broadcasts over a further plate
            with suppress(ValueError, RuntimeError, IndexError):
                return self._draws_at_once(n, given)
        each = ({name: value[i] for name, value in given.items()} for i in range(n))
        return torch.stack([self.pack(self._run(values or None).values) for values in each])

    def _run(
        self,
        values: dict[str, Tensor] | None = None,
        around: AbstractContextManager[Any] | None = None,
    ) -> Reading:
        """Draw the latent sites that ``values`` does not give, in the plates as they are."""
        given = {plate.name: plate.index for plate in self.plates.values()} | (values or {})
        until = {site.name for site in self.sites}
        cheap = values is not None
        with reading(until, given=given, cheap=cheap) as notes, around or nullcontext():
            self.model(*self.args, **self.kwargs)
        check_met([site.name for site in self.sites], notes.values)
        return notes

    def _draws_at_once(self, n: int, given: Mapping[str, Tensor]) -> Tensor:
        nesting = max((-plate.dim for plate in self.plates.values()), default=0)
        aside = {}
        for site in self.sites:
            if site.name in given:
                value = given[site.name]
                pad = (n, *[1] * (nesting - len(site.batch)))
                aside[site.name] = value.reshape(pad + value.shape[1:])
        notes = self._run(aside or None, pyro.plate(MANY, n, dim=-nesting - 1))
        values = {name: notes.values[name].reshape(n, *v.shape) for name, v in self.values.items()}
        last = {name: value[-1] for name, value in values.items()}
        # A program not written for it may mix the draws up without a word: compare the last one.
        alone = self._run(last)
        with torch.no_grad():
            for name, value in last.items():
                together = notes.latent[name].log_prob(notes.values[name])[-1]
                expected = alone.latent[name].log_prob(value)
                if not torch.allclose(together.reshape(expected.shape), expected, rtol=1e-3):
                    raise ValueError(f"site {name!r} does not broadcast over a further plate")
        return self.pack(values)

    @contextmanager
    def inside(self, names: tuple[str, ...]) -> Iterator[None]:
        """The named plates again, with the indices this run saw: for a guide's own sites."""
        with ExitStack() as stack:
            for name in names:
                if name not in self._said:  # entering it again must not say the plate's site again
                    plate = self.plates[name]
                    self._said[name] = pyro.plate(
                        name, plate.full_size, subsample=plate.index, dim=plate.dim
                    )
                stack.enter_context(self._said[name])
            yield

    def say(self, z: Tensor) -> None:
        """As a guide: put each latent site at its value in ``z`` as a point mass."""
        values = self.unpack(z.detach())
        for site in self.sites:
            with self.inside(site.plates):
                pyro.sample(site.name, dist.Delta(values[site.name], event_dim=site.event_dim))
