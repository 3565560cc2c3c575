"""Tilts: an energy over several sites of a Pyro program at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal, Unpack, get_args

import torch
from torch import Tensor, nn

from ..base import StandardNormal
from ..dependence import leaves
from ..distribution import EnergyBased
from ..dynamics.chains import Chains
from ..factor import Sites, TiltFactor
from ..frozen import frozen, renewed
from ..learned import LearnedDensity, Options
from .coordinates import Noise, Own
from .messenger import Tilting
from .site_energy import OfSites
from .sites import read_sites

CoordinateName = Literal["own", "noise"]
GIVEN = 200  # steps of chains for sites that are not fixed, given those that are


class Tilt(LearnedDensity):
    r"""A Pyro program whose latent sites have the density :math:`\exp(-E(z))\, p(z) / Z`.

    Called like the program, and inside whatever plates the program was called in: the sites keep
    their names and their own distributions, and a factor :math:`-E(z) - \log Z` for each element of
    their plates stands beside them. Its gradient is that of the normalised density, contrastive in
    the parameters of the energy *and* of the sites' distributions,

    .. math:: \nabla \log Z = \mathrm{E}_{\mathrm{tilted}}[\nabla (\log p(z) - E(z))],

    and of nothing else: what only an emission uses integrates out (Cui, Wu & Han 2023, arXiv
    2306.06323). Sites that nobody fixes are drawn together from the tilted density; given some that
    were fixed before, as under ``pyro.condition``, the others by adjusted Langevin steps. A run
    does not know which of the sites to come will be fixed: for draws given those, use a kernel.

    One Z serves all elements: the sites must depend on nothing but each other and parameters.

    Args:
        program: a Pyro program, a module where it has parameters. What it returns is returned. It
            may have observed sites, which stay as they are, and plates of its own. It becomes part
            of this module, as PyroModules do, and leaves another that it was part of: of a trained
            model's prior, tilt a copy (``copy.deepcopy``).
        energy: of the values of sites, ``{name: (*batch, *event)} -> (*batch)``, a module if it
            has parameters.
        sites: names of those that are tilted, by default all latent ones.
        example: arguments with which the program can be run once, to read its structure. The
            negatives' runs use them too, up to the last of the sites.
        coordinates: in which chains move and particles are annealed: the sites' ``own`` values,
            unconstrained, or the ``noise`` of which Gaussian sites are made: there a hierarchy is
            round, however narrow its conditionals, and the conditionals' gradient is taken through
            the draws. In values of their own chains hardly move where a conditional is narrow, and
            draws do not say so (`log_z` does, by a gap and few effective particles).
        name: of the factor's site.
        options: of the chains, as for `pyro_lebm.EnergyPrior`.

    Raises:
        ValueError: for a discrete or observed site, a name that no site has, sites in different
            plates or under different masks, one that depends on another latent site, on data that
            needs gradients or on a parameter that is not the program's, an energy that asks for
            other sites or returns more than one number per element, or a site that has an energy of
            its own already.
        TypeError: for a program or an energy that cannot be called, or an example that is no tuple.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> _ = torch.manual_seed(0)
        >>> def chain():
        ...     top = pyro.sample("top", dist.Normal(0.0, 1.0))
        ...     return pyro.sample("low", dist.Normal(top, 1.0))
        >>> tilted = Tilt(chain, lambda z: 2.0 * z["low"], num_chains=16)  # its mean moves by -4
        >>> with pyro.plate("elements", 500):
        ...     low = tilted()
        >>> bool((low.mean() + 4.0).abs() < 0.4)
        True
    """

    def __init__(
        self,
        program: Callable[..., Any],
        energy: Callable[[Sites], Tensor],
        *,
        sites: Sequence[str] | None = None,
        example: tuple[Any, ...] = (),
        coordinates: CoordinateName = "own",
        name: str = "tilt",
        **options: Unpack[Options],
    ) -> None:
        for label, part in (("program", program), ("energy", energy)):
            if not callable(part):
                raise TypeError(f"{label}: expected a callable, got {type(part).__name__}")
        if not isinstance(example, tuple):
            raise TypeError(f"example: expected a tuple of arguments, got {type(example).__name__}")
        if coordinates not in get_args(CoordinateName):
            raise ValueError(
                f"coordinates: expected one of {sorted(get_args(CoordinateName))}, got "
                f"{coordinates!r}"
            )
        structure = read_sites(program, sites, example)
        flat = Own(structure) if coordinates == "own" else Noise(structure)
        base = flat if isinstance(flat, Own) else StandardNormal(structure.dim).to(structure.draw)
        super().__init__(OfSites(energy, flat), base, **options)
        self.name, self.names = name, tuple(site.name for site in structure.sites)
        # not submodules: the program's parameters are registered once, as its own
        object.__setattr__(self, "coordinates", flat)
        object.__setattr__(self, "own", flat if isinstance(flat, Own) else Own(structure))
        renewed(program)
        self.program = program

    coordinates: Own | Noise
    own: Own
    energy: OfSites

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program, and add the factor."""
        with Tilting(self) as tilting:
            result = self.program(*args, **kwargs)
        tilting.say()
        if args or kwargs:
            self._refuse_arguments(tilting)
        return result

    def factor(self, run: Tilting) -> TiltFactor:
        """The factor at the values of a run."""
        density = self.density()

        def compute() -> Tensor:
            return self._log_factor(density, run)

        first = self.own.structure.sites[0]
        value = run.values[first.name].detach()
        one: Any = (..., *[0] * first.event_dim)  # number of each element
        return TiltFactor(compute, value[one], density, self.energy.of)

    def _log_factor(self, density: EnergyBased, run: Tilting) -> Tensor:
        """Of energies held at zero there is nothing to learn from."""
        with nullcontext() if self.learning else frozen(self.energy.energy):
            energy = self.energy.of(run.values)
        log_factor = -energy
        if density.log_z is not None:
            log_factor = log_factor - torch.as_tensor(density.log_z).detach()
        parameters = leaves(self.learned(run) - energy, *run.said)
        self._refuse_foreign(parameters)
        if parameters and (self.learning or bool(energy.detach().any())):
            log_factor = density.contrasted(log_factor, energy, parameters)
        return log_factor

    def learned(self, run: Tilting) -> Tensor:
        """The part of the log density, besides the energy, that the contrastive gradient is of."""
        return run.log_prior()

    def _refuse_arguments(self, tilting: Tilting) -> None:
        """Arguments must not change the density: log Z would differ, and the chains not know."""
        with torch.no_grad():
            rows = self.own.rows({n: v.detach() for n, v in tilting.values.items()})
            # at values that have been there and back: near a support's edge they are others
            here, known = tilting.log_prior(self.own.values(rows)), self.own().log_prob(rows)
            jacobian = self.own.log_jacobian(rows)
        if not torch.allclose(here, known - jacobian, rtol=1e-3, atol=1e-3):
            raise ValueError(
                "program: expected tilted sites whose density the arguments do not change, got "
                "another than that of the example: log Z would differ"
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Tilt:
        """What was read of the program moves along, with its example's tensors."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        known = self.own.structure
        moved = replace(
            known,
            args=tuple(fn(x) if isinstance(x, Tensor) else x for x in known.args),
            values={name: fn(value) for name, value in known.values.items()},
            plates={n: replace(p, index=fn(p.index)) for n, p in known.plates.items()},
            _densities={},
        )
        self.own.structure = self.coordinates.structure = moved
        return self

    def _density(self) -> list[Tensor]:
        buffers = self.program.buffers() if isinstance(self.program, nn.Module) else ()
        return [*super()._density(), *buffers]

    def energy_parameters(self) -> list[nn.Parameter]:
        """The energy's own: the sites' densities are the program's to learn."""
        energy = self.energy.energy
        return list(energy.parameters()) if isinstance(energy, nn.Module) else []

    def _refuse_foreign(self, parameters: Sequence[Tensor]) -> None:
        own = {id(p) for p in self.parameters()}
        if any(id(p) not in own for p in parameters):
            raise ValueError(
                "tilt: expected sites and an energy that depend on parameters of the program's and "
                "the energy's own alone, got another sample site or a tensor from outside (log Z "
                "would depend on it, too): tilt a module that owns what it learns"
            )

    # Sampling

    def draw(self, batch: torch.Size, fixed: Sites) -> Mapping[str, Tensor]:
        """Values of all sites ``(*batch, *event)``, given those of some."""
        with torch.inference_mode(False):
            if not fixed:
                found = self.coordinates.values(self.density().sample(batch))
            else:
                found = self.own.values(self._given(batch, fixed))
        return {name: value.detach() for name, value in found.items()}

    def _given(self, batch: torch.Size, fixed: Sites) -> Tensor:
        """Vectors ``(*batch, dim)``: the program's own draws given some sites, then Langevin."""
        start, known = self.own.given(batch, {n: v.detach() for n, v in fixed.items()})
        density = EnergyBased(OfSites(self.energy.energy, self.own), self.own(), learn=False)

        def target(rows: Tensor) -> Tensor:
            return density.log_prob(torch.where(known, start, rows))

        with frozen(self):
            rows = Chains(start, step_size=self.step_size).run(target, GIVEN)
        return torch.where(known, start, rows)


def tilt(program: Callable[..., Any], energy: Callable[[Sites], Tensor], **options: Any) -> Tilt:
    """The program under the energy: `Tilt` as a verb, with the arguments of that class.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def pair():
        ...     a = pyro.sample("a", dist.Normal(0.0, 1.0))
        ...     pyro.sample("b", dist.Normal(a, 1.0))
        >>> with pyro.plate("elements", 3), pyro.poutine.trace() as trace:
        ...     tilt(pair, lambda z: (z["a"] - z["b"]) ** 2, num_chains=16)()
        >>> trace.trace.nodes["b"]["value"].shape
        torch.Size([3])
    """
    return Tilt(program, energy, **options)
