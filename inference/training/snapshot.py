"""All that a model and a guide carry from one step to the next, copied and put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn


class Stateful(Protocol):
    """A module that keeps its training state to itself, such as persistent chains."""

    def training_state(self) -> dict[str, Tensor]:
        """Copies of the tensors."""

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Put them back."""


def _stateful(module: nn.Module) -> Iterator[tuple[str, Stateful]]:
    for name, child in module.named_modules():
        methods = (getattr(child, m, None) for m in ("training_state", "load_training_state"))
        if all(callable(method) for method in methods):
            yield name, cast(Stateful, child)


def _buffers(module: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Every buffer, also a None and also one that `state_dict` leaves out, but not the chains'."""
    kept = {id(m) for _, owner in _stateful(module) for m in cast(nn.Module, owner).modules()}
    for prefix, owner in module.named_modules():
        if id(owner) not in kept:
            for leaf in owner._buffers:
                yield f"{prefix}.{leaf}", owner, leaf


def take(module: nn.Module) -> dict[str, Any]:
    """A copy of parameters, buffers (persistent or not) and chains of `module`."""
    return {
        "parameters": {n: p.detach().clone() for n, p in module.named_parameters()},
        "buffers": buffers(module),
        "chains": {name: owner.training_state() for name, owner in _stateful(module)},
    }


def buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """A copy of the buffers of `module`, persistent or not, without its chains."""
    return {name: _clone(owner._buffers[leaf]) for name, owner, leaf in _buffers(module)}


def _clone(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.detach().clone()


def restore(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Put back what `take` copied, in place: whoever holds a parameter still holds it.

    What was created since then stays as it is.
    """
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(state["parameters"].get(name, p))
        for name, owner, leaf in _buffers(module):
            if name not in state["buffers"]:
                continue
            saved: Tensor | None = state["buffers"][name]
            held = owner._buffers[leaf]
            if saved is None or held is None or held.shape != saved.shape:
                device = next(module.parameters()).device if held is None else held.device
                owner._buffers[leaf] = None if saved is None else saved.clone().to(device)
            else:
                held.copy_(saved)
        for name, chains in _stateful(module):
            if name in state["chains"]:
                chains.load_training_state(state["chains"][name])
    # Onto itself: some modules derive plain attributes from their buffers when they load.
    module.load_state_dict(module.state_dict())


def is_finite(state: Mapping[str, Any]) -> bool:
    """Whether the parameters, and the positions of chains, are finite numbers."""
    tensors = list(state["parameters"].values())
    tensors += [c["position"] for c in state["chains"].values() if "position" in c]
    return all(bool(torch.isfinite(t).all()) for t in tensors)


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's global generators that a run on `device` draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Put back what `rng_state` returned."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def undone(module: nn.Module, action: Callable[[], None], device: torch.device) -> None:
    """Run `action`, then put `module`'s buffers and chains and the random numbers back."""
    before, rng = take(module), rng_state(device)
    try:
        action()
    finally:
        set_rng_state(rng, device)
        restore(module, before)
