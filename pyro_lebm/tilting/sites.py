"""Some latent sites of a program, read as a density of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.nn import PyroModule

from ..conditional import ConditionalEnergyBased
from ..dependence import leaves
from ..distribution import EnergyBased
from ..frozen import apart, held
from ..programs.program import Program
from ..programs.reading import Reading, innermost, noted
from .messenger import TiltedSite


def read_sites(
    program: Callable[..., Any], names: Sequence[str] | None, args: tuple[Any, ...]
) -> Program:
    """The density of these latent sites, by default of all, which nothing else goes into.

    Raises:
        ValueError: for a name that is no latent site, sites in different plates, one that depends
            on another latent site or on a parameter that the program does not hold, that carries a
            mask or an energy, whose density differs from element to element, or is a `PyroSample`.
    """
    _refuse_samples(program)
    with apart(program):
        notes = noted(program, args, {}, None if names is None else set(names))
        found = _chosen(program, args, names, notes)
    _refuse_differences(found)
    return found


def _chosen(
    program: Callable[..., Any],
    args: tuple[Any, ...],
    names: Sequence[str] | None,
    notes: Reading,
) -> Program:
    chosen = list(notes.latent) if names is None else list(names)
    missing = [name for name in chosen if name not in notes.latent]
    if missing or not chosen:
        observed = sorted(set(missing) & set(notes.around))
        raise ValueError(
            f"sites: expected latent sites, of which there are {list(notes.latent)}, got {missing}"
            + (f", of which {observed} are observed" if observed else "")
        )
    chosen = [name for name in notes.latent if name in chosen]
    around = {name: notes.around[name] for name in chosen}
    first = chosen[0]
    for name in chosen:
        if set(around[name]) != set(around[first]):
            raise ValueError(
                f"sites: expected all in one set of plates, got {sorted(around[first])} around "
                f"{first!r} and {sorted(around[name])} around {name!r}"
            )
        if len(notes.latent[name].batch_shape) > len(around[name]):
            raise ValueError(
                f"sites: expected every dimension in a plate or in to_event, got batch shape "
                f"{tuple(notes.latent[name].batch_shape)} of {name!r} in plates {around[name]}"
            )
        _refuse_mask(notes.latent[name], name)
        _refuse_energy(notes.latent[name], name)
    sites = tuple(notes.site(name) for name in chosen)
    _refuse_dependence(program, notes, chosen)
    common = tuple(sorted(around[first], key=lambda name: notes.plates[name].dim))
    # values of all latent sites: of those that are not tilted, none of these depends on them
    return Program(sites, notes.plates, common, program, args, {}, notes.values, notes.minibatches)


def _refuse_samples(program: Callable[..., Any]) -> None:
    for top in held(program):
        for module in top.modules():
            if isinstance(module, PyroModule) and module._pyro_samples:
                raise ValueError(
                    "program: expected sites that pyro.sample draws, got the PyroSample attributes "
                    f"{sorted(module._pyro_samples)}, whose names hang on where the module stands"
                )


def _refuse_mask(fn: Any, name: str) -> None:
    while fn is not None:
        if isinstance(fn, MaskedDistribution):
            raise ValueError(
                f"sites: expected no mask in a distribution, got one in that of {name!r}; put "
                "poutine.mask around all sites"
            )
        fn = getattr(fn, "base_dist", None)


def _refuse_energy(fn: Any, name: str) -> None:
    """Its own log Z would not be part of what the negatives' gradient is of."""
    inner = innermost(fn)
    if isinstance(fn, TiltedSite) or isinstance(inner, EnergyBased | ConditionalEnergyBased):
        kind = "a tilt" if isinstance(fn, TiltedSite) else type(inner).__name__
        raise ValueError(
            f"sites: expected distributions that are normalised, got {kind} at {name!r}: add its "
            "energy to that of the tilt, or leave the site out of `sites`"
        )


@torch.no_grad()
def _refuse_differences(structure: Program) -> None:
    """One row in the place of each element: has it one density?"""
    count = structure.elements.numel()
    if count < 2:
        return
    draw = structure.draw
    same = draw.reshape(count, -1)[:1].expand(count, -1).reshape(draw.shape)
    each = structure.log_prior(same).reshape(-1)
    if not torch.allclose(each, each[:1].expand(count), rtol=1e-4, atol=1e-5):
        raise ValueError(
            f"program: expected one density of all elements of {list(structure.common)}, got one "
            "that differs between them (log Z would, too): leave its plates outside"
        )


def _refuse_dependence(program: Callable[..., Any], notes: Reading, chosen: Sequence[str]) -> None:
    own = {id(p) for module in held(program) for p in module.parameters()}
    at = [notes.leaves[name] for name in chosen]
    for name in chosen:
        found = leaves(notes.latent[name].log_prob(notes.leaves[name]), *at)
        others = [n for n, leaf in notes.leaves.items() if any(leaf is x for x in found)]
        if others:
            raise ValueError(
                f"sites: expected {name!r} to depend on tilted sites alone, got one that depends "
                f"on {others} (log Z would, too): tilt these as well"
            )
        if any(id(x) not in own for x in found):
            raise ValueError(
                f"program: expected a module that owns all it learns, got a parameter of {name!r} "
                "from outside: make it an attribute of a PyroModule"
            )
