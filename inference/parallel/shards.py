"""The state of a run of several ranks: as one file holds it, and as each rank takes it up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyro_lebm.series import Series

from ..training.snapshot import buffers, restore, take
from .ranks import Ranks, derived

Chains = Mapping[str, Tensor]
OTHERS = "others"


def whole(state: dict[str, Any], ranks: Ranks, series: Series) -> dict[str, Any]:
    """The state as rank 0 writes it; the other ranks get their own back.

    Parameters and optimiser are the same on all ranks. The chain of a sequence is that of the rank
    it belongs to. What else is a rank's own, such as random numbers and an energy prior's
    negatives, stays apart for each rank but the first, under ``others``.

    Args:
        state: of this rank, as `Training.state` gives it.
        ranks: who trains.
        series: the data.
    """
    if ranks.alone:
        return state
    every = ranks.gather_on_first(_own(state))
    if every is None:
        return state
    first, *others = every
    chains = {
        name: _joined(name, [one["chains"][name] for one in every], series)
        for name in first["chains"]
    }
    apart = [one | {"chains": _without_sequences(one["chains"], series)} for one in others]
    return {**_with_own(state, {**first, "chains": chains}), OTHERS: apart}


def share_of(
    state: dict[str, Any], ranks: Ranks, both: nn.Module, series: Series
) -> dict[str, Any]:
    """The state as this rank takes it up, from a file of any number of ranks.

    With as many ranks as before, it is what the rank had. A rank that there was not before takes
    the negatives of one that there was, and random numbers derived from its.

    Args:
        state: as `whole` gave it.
        ranks: who trains now.
        both: model and guide, whose chains of other ranks' sequences stay as they are.
        series: the data.
    """
    state = dict(state)
    first, others = _own(state), state.pop(OTHERS, [])
    before = [first, *others]
    own = before[ranks.rank % len(before)]
    chains = {name: {**saved, **own["chains"][name]} for name, saved in first["chains"].items()}
    if not ranks.alone:
        held = take(both)["chains"]
        for name in chains.keys() & held.keys():
            chains[name] |= _mine(name, held[name], first["chains"][name], ranks, series)
    order, done = state["order"], state["position"]
    if len(before) != ranks.size:  # what is left of the epoch may lie with a few of the ranks
        order = torch.cat([order[:done], ranks.dealt(order[done:])])
    new = ranks.rank >= len(before)
    rng = derived(own["rng"], ranks.rank) if new else own["rng"]
    return {**_with_own(state, {**own, "rng": rng, "chains": chains}), "order": order}


def _own(state: Mapping[str, Any]) -> dict[str, Any]:
    """What of a state is a rank's own."""
    modules = state["modules"]
    return {"rng": state["rng"], "buffers": modules["buffers"], "chains": modules["chains"]}


def _with_own(state: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The state with a rank's own part exchanged."""
    modules = {**state["modules"], "buffers": own["buffers"], "chains": own["chains"]}
    return {**state, "rng": own["rng"], "modules": modules}


def begin_alike(both: nn.Module, ranks: Ranks) -> None:
    """Let all ranks start from the parameters and buffers of rank 0."""
    if not ranks.alone:
        state = take(both)
        restore(both, ranks.first({**state, "chains": {}}))


def act_on_first(action: Callable[[], object], module: nn.Module, ranks: Ranks) -> None:
    """Let rank 0 do something to a module's buffers and parameters, and all ranks have them so."""
    if ranks.alone:
        action()
        return
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    ranks.on_first(lambda: (action(), None)[1])
    # Parameters are the same already, but those that it wrote to: sending all takes its time.
    now = {name: p.detach() for name, p in module.named_parameters()}
    changed = {name: p for name, p in now.items() if not torch.equal(p, before[name])}
    shared = ranks.first({"parameters": changed, "buffers": buffers(module)})
    restore(module, {**shared, "chains": {}})


def check_parameters(parameters: Mapping[str, Tensor], ranks: Ranks) -> None:
    """Raise if the ranks train different parameters.

    Raises:
        RuntimeError: on all ranks; names one that differs by more than rounding explains, which may
            be another on other hardware.
    """
    if ranks.alone:
        return
    norms = torch.stack([p.norm().double().cpu() for p in parameters.values()]).tolist()
    first, *others = ranks.gather(dict(zip(parameters, norms, strict=True)))
    for rank, theirs in enumerate(others, 1):
        for name in {**first, **theirs}:
            ours, their = first.get(name, math.nan), theirs.get(name, math.nan)
            if not math.isclose(ours, their, rel_tol=1e-3):
                raise RuntimeError(
                    f"{name}: expected the same parameter on all ranks, got one of norm {ours:.6g} "
                    f"on rank 0 and {their:.6g} on rank {rank}"
                )


def share_buffers(module: nn.Module, ranks: Ranks) -> None:
    """Let all ranks have the buffers of rank 0."""
    if not ranks.alone:
        shared = ranks.first(buffers(module))
        restore(module, {"parameters": {}, "buffers": shared, "chains": {}})


def end_alike(both: nn.Module, ranks: Ranks, series: Series) -> None:
    """Let all ranks have every sequence's chain, and the buffers of rank 0."""
    if ranks.alone:
        return
    share_buffers(both, ranks)
    chains = take(both)["chains"]
    for name, held in chains.items():
        every = ranks.gather({k: held[k] for k in _sequence_dims(name, held, series)})
        chains[name] = {**held, **_joined(name, every, series)}
    restore(both, {"parameters": {}, "buffers": {}, "chains": chains})


def _sequence_dims(name: str, chains: Chains, series: Series) -> dict[str, int]:
    """The tensors with an entry for each sequence, and in which dimension: those of a guide."""
    if not name.startswith("guide.") or "position" not in chains:
        return {}
    shape = chains["position"].shape[:-1]
    if series.total not in shape:
        return {}
    per_chain = [key for key, value in chains.items() if value.shape[: len(shape)] == shape]
    return dict.fromkeys(per_chain, shape.index(series.total))


def _joined(name: str, every: list[dict[str, Tensor]], series: Series) -> dict[str, Tensor]:
    """The first rank's chains, but each sequence's from its owner."""
    joined = dict(every[0])
    for key, dim in _sequence_dims(name, joined, series).items():
        joined[key] = joined[key].clone()
        for rank, chains in enumerate(every):
            rows = series.index.cpu()[rank :: len(every)]
            joined[key].index_copy_(dim, rows, chains[key].index_select(dim, rows))
    return joined


def _mine(
    name: str, held: Chains, saved: Chains, ranks: Ranks, series: Series
) -> dict[str, Tensor]:
    """The chains held, but this rank's sequences' as they were saved."""
    found = {}
    for key, dim in _sequence_dims(name, saved, series).items():
        rows = series.index.cpu()[ranks.rank :: ranks.size]
        now = held[key].cpu().clone() if key in held else saved[key].clone()
        found[key] = now.index_copy_(dim, rows, saved[key].cpu().index_select(dim, rows))
    return found


def _without_sequences(
    chains: Mapping[str, Chains], series: Series
) -> dict[str, dict[str, Tensor]]:
    return {
        name: {k: v for k, v in held.items() if k not in _sequence_dims(name, held, series)}
        for name, held in chains.items()
    }
