"""What the energy-based sites of a program are to its density."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..annealing.ratio import LogRatio
from ..distribution import EnergyBased, annealed
from .program import Program
from .reading import tilted


def energy_based(program: Program) -> dict[str, EnergyBased]:
    """The energy-based latent sites, at the values of the reading run."""
    found = {name: tilted(fn) for name, fn in program.latent.items()}
    return {name: fn for name, fn in found.items() if fn is not None}


def unnormalised(program: Program) -> list[str]:
    """Latent sites whose log density lacks a log Z that is not known."""
    return [name for name, fn in energy_based(program).items() if fn.log_z is None]


def log_constants(program: Program, particles: int = 2048) -> Tensor:
    """What `Program.log_parts` lacks per element to be normalised, by annealing.

    A site that is masked in part, or scaled, counts as if it were not.
    """
    total, elements = torch.zeros(()), max(program.elements.numel(), 1)
    for fn in energy_based(program).values():
        if fn.log_z is None:
            copies = fn.batch_shape.numel() / elements
            total = total + copies * annealed(fn, particles).log_evidence
    return total


def estimated(program: Program) -> tuple[tuple[int, LogRatio], ...]:
    """What is known of each log Z that is an estimate, and how often it is in an element's density.

    Sites of one prior share one. Masks and scales count as in `log_constants`.
    """
    elements, found = max(program.elements.numel(), 1), dict[int, tuple[int, LogRatio]]()
    for fn in energy_based(program).values():
        if fn.constant is not None:
            before, _ = found.get(id(fn.constant), (0, fn.constant))
            found[id(fn.constant)] = before + fn.batch_shape.numel() // elements, fn.constant
    return tuple(found.values())


def energies(program: Program, z: Tensor) -> Tensor | None:
    """The energy of positions ``(*leading, *elements, dim)`` per element; None where there is none.

    That of all energy-based sites together, ``(*leading, *elements)``.
    """
    values = program.unpack(z)
    common = {program.plates[name].dim for name in program.common}
    lead, total = z.ndim - 1 - len(common), None
    for name, fn in program.latent.items():
        inner = tilted(fn)
        if inner is None:
            continue
        part = inner.energy_at(_before(fn, values[name]))
        # what `to_event` has made one event of
        for _ in range(len(inner.batch_shape) - len(fn.batch_shape)):
            part = part.sum(-1)
        drop = [d for d in range(lead, part.ndim) if d - part.ndim not in common]
        part = part.sum(drop) if drop else part
        total = part if total is None else total + part
    return total


def _before(fn: Any, value: Tensor) -> Tensor:
    """The value of the innermost distribution that a transformed one has made this of."""
    while hasattr(fn, "base_dist"):
        for transform in reversed(getattr(fn, "transforms", ())):
            value = transform.inv(value)
        fn = fn.base_dist
    return value
