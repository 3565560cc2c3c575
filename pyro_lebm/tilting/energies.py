"""What the energies in a program are to its density: of single sites, and of tilts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..annealing.ratio import LogRatio
from ..distribution import EnergyBased, annealed
from ..programs.program import Program
from ..programs.reading import noted, tilted
from .messenger import TiltedSite, Tilting


class Part(NamedTuple):
    """One energy of a program.

    Attributes:
        sites: the latent sites that it is over, without those that are fixed.
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
        free = tuple(name for name in tilt.names if name in latent)
        found.append(Part(free, tilt.density(), fn.batch_shape, _of_tilt(fn.tilting, free)))
    return found


def _of_tilt(run: Tilting, free: Sequence[str]) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """Of the tilt's sites alone; those that are fixed have the values of the run."""

    def energy(values: Mapping[str, Tensor]) -> Tensor:
        first = free[0]
        lead = values[first].shape[: values[first].ndim - run.values[first].ndim]
        here = {name: value.expand(lead + value.shape) for name, value in run.values.items()}
        here |= {name: values[name] for name in free}
        found: Tensor = run.tilt.energy.of({name: here[name] for name in run.tilt.names})
        return found

    return energy


def _of_site(name: str, fn: Any, inner: EnergyBased) -> Callable[[Mapping[str, Tensor]], Tensor]:
    def energy(values: Mapping[str, Tensor]) -> Tensor:
        return inner.energy_at(_before(fn, values[name]))

    return energy


def unnormalised(program: Program) -> list[str]:
    """Sites whose log density lacks a log Z that is not known: latent ones, or else fixed ones."""
    latent = [name for part in parts(program) if part.density.log_z is None for name in part.sites]
    fixed = noted(program.model, program.args, program.kwargs).fixed
    return latent or [name for name, density in fixed.items() if density.log_z is None]


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
