"""What the energies in a program are to its density: of single sites, and of tilts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..annealing.ratio import LogRatio
from ..distribution import EnergyBased, annealed
from ..programs.program import Program
from ..programs.reading import tilted
from .messenger import TiltedSite


class Part(NamedTuple):
    """One energy of a program.

    Attributes:
        sites: the latent sites that it is over.
        density: the unnormalised density, whose log Z is the energy's.
        batch: as many of it are there as this shape has elements.
        energy: of the values of all sites, ``{name: (*leading, *batch, *event)}`` to
            ``(*leading, *batch)``.
    """

    sites: tuple[str, ...]
    density: EnergyBased
    batch: torch.Size
    energy: Callable[[Mapping[str, Tensor]], Tensor]


def parts(program: Program) -> list[Part]:
    """The energies over latent sites, at the values of the reading run."""
    found, latent = [], program.latent
    for name, fn in latent.items():
        inner = tilted(fn)
        if inner is not None:
            found.append(Part((name,), inner, inner.batch_shape, _of_site(name, fn, inner)))
    tilts = {id(fn.tilting): fn for fn in latent.values() if isinstance(fn, TiltedSite)}
    for fn in tilts.values():
        tilt = fn.tilting.tilt
        found.append(Part(tuple(tilt.names), tilt.density(), fn.batch_shape, tilt.energy.of))
    return found


def _of_site(name: str, fn: Any, inner: EnergyBased) -> Callable[[Mapping[str, Tensor]], Tensor]:
    def energy(values: Mapping[str, Tensor]) -> Tensor:
        return inner.energy_at(_before(fn, values[name]))

    return energy


def unnormalised(program: Program) -> list[str]:
    """Latent sites whose log density lacks a log Z that is not known."""
    return [name for part in parts(program) if part.density.log_z is None for name in part.sites]


def log_constants(program: Program, particles: int = 2048) -> Tensor:
    """What `Program.log_parts` lacks per element to be normalised, by annealing.

    A site that is masked in part, or scaled, counts as if it were not.
    """
    total, elements = torch.zeros(()), max(program.elements.numel(), 1)
    for part in parts(program):
        if part.density.log_z is None:
            copies = part.batch.numel() / elements
            total = total + copies * annealed(part.density, particles).log_evidence
    return total


def estimated(program: Program) -> tuple[tuple[int, LogRatio], ...]:
    """What is known of each log Z that is an estimate, and how often it is in an element's density.

    Sites of one prior share one. Masks and scales count as in `log_constants`.
    """
    elements, found = max(program.elements.numel(), 1), dict[int, tuple[int, LogRatio]]()
    for part in parts(program):
        constant = part.density.constant
        if constant is not None:
            before, _ = found.get(id(constant), (0, constant))
            found[id(constant)] = before + part.batch.numel() // elements, constant
    return tuple(found.values())


def energies(program: Program, z: Tensor) -> Tensor | None:
    """The energy of positions ``(*leading, *elements, dim)`` per element; None where there is none.

    That of all energies together, ``(*leading, *elements)``.
    """
    values = program.unpack(z)
    common = {program.plates[name].dim for name in program.common}
    lead, total = z.ndim - 1 - len(common), None
    for part in parts(program):
        energy = part.energy(values)
        # of a single site, what `to_event` has made one event of, is not in its plates
        sites = {site.name: site for site in program.sites}
        for _ in range(len(part.batch) - len(sites[part.sites[0]].batch)):
            energy = energy.sum(-1)
        drop = [d for d in range(lead, energy.ndim) if d - energy.ndim not in common]
        energy = energy.sum(drop) if drop else energy
        total = energy if total is None else total + energy
    return total


def _before(fn: Any, value: Tensor) -> Tensor:
    """The value of the innermost distribution that a transformed one has made this of."""
    while hasattr(fn, "base_dist"):
        for transform in reversed(getattr(fn, "transforms", ())):
            value = transform.inv(value)
        fn = fn.base_dist
    return value
