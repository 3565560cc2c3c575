"""What an unnormalised density hangs on, read off autograd's graph: one log Z must serve all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pyro.nn import PyroModule
from pyro.poutine.block_messenger import BlockMessenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn
from torch.distributions import Distribution, Transform


def leaves(output: Tensor, *values: Tensor) -> list[Tensor]:
    """The leaf tensors that ``output`` was computed from, except by way of ``values``."""
    found: list[Tensor] = []
    todo, seen = [output.grad_fn], {None, *(value.grad_fn for value in values)}
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            leaf = getattr(node, "variable", None)
            if leaf is not None and all(leaf is not value for value in values):
                found.append(leaf)
            todo += [parent for parent, _ in node.next_functions]  # type: ignore[union-attr]
    return found


def announce(energy: Callable[[Tensor], Tensor]) -> None:
    """Have Pyro note an energy's parameters now: log densities are asked for after the program ran.

    A `PyroModule` says each parameter as it is read, and only while its program runs.
    """
    for module in energy.modules() if isinstance(energy, nn.Module) else ():
        if isinstance(module, PyroModule):
            own = [name for name in module._parameters if not name.endswith("_unconstrained")]
            for name in [*module._pyro_params, *own, *module._modules]:
                getattr(module, name)


def refuse_hidden(energy: Callable[[Tensor], Tensor], found: list[Tensor]) -> None:
    """Refuse an energy whose graph ends elsewhere than in parameters of its own.

    Raises:
        ValueError: the energy closes over a parameter or depends on another sample site.
    """
    modules = [energy, *getattr(energy, "through", ())]
    own = {id(p) for m in modules if isinstance(m, nn.Module) for p in m.parameters()}
    if any(id(leaf) not in own for leaf in found):
        raise ValueError(
            "energy: expected an nn.Module that owns all it learns, got one that depends on a "
            "tensor from outside: make a parameter an attribute of the module; on another sample "
            "site it must not depend (log Z would, too)"
        )


def refuse_unregistered(parameters: list[Tensor]) -> None:
    """Within a step of `pyro.infer.SVI`, refuse parameters that it would not move.

    Raises:
        ValueError: neither a `PyroModule` nor ``pyro.module`` made the parameters known.
    """
    for handler in _PYRO_STACK:
        if isinstance(handler, TraceMessenger) and handler.param_only:
            sites: list[Any] = [site["value"] for site in handler.trace.nodes.values()]
            known = {id(value.unconstrained()) for value in sites}
            if any(id(p) not in known for p in parameters):
                raise ValueError(
                    "energy, base: expected parameters that Pyro knows, got one that SVI would "
                    "never move; hold the module in a PyroModule, call pyro.module, or freeze it "
                    "with requires_grad_(False)"
                )


def unseen() -> bool:
    """Whether what runs now is hidden from SVI's step: a run for the shapes of a program is."""
    within = False
    for handler in _PYRO_STACK:
        if within and isinstance(handler, BlockMessenger):
            return True
        within = within or (isinstance(handler, TraceMessenger) and handler.param_only)
    return False


def refuse_dependence(energy: Callable[[Tensor], Tensor], base: Distribution) -> None:
    """Refuse what hangs on another sample site, as far as the running traces show it.

    Raises:
        ValueError: the energy has sample sites for parameters, or the base was computed from one.
    """
    modules = energy.modules() if isinstance(energy, nn.Module) else ()
    for module in modules:
        if isinstance(module, PyroModule) and module._pyro_samples:
            raise ValueError(
                "energy: expected parameters, got sample sites "
                f"{sorted(module._pyro_samples)} (log Z would depend on them: doubly intractable)"
            )
    values = [
        node["value"]
        for handler in _PYRO_STACK
        if isinstance(handler, TraceMessenger)
        for node in handler.trace.nodes.values()
        if node["type"] == "sample" and isinstance(node["value"], Tensor)
    ]
    # Compared by identity: keep every object alive until then, or identities are reused.
    sampled = [x for value in values for x in (value, value.grad_fn, value._base) if x is not None]
    known = {id(x) for x in sampled}
    for tensor in _tensors(base) if known else ():
        if any(id(x) in known for x in _ancestry(tensor)):
            raise ValueError(
                "base: expected constants or parameters, got a value computed from another sample "
                "site (log Z would depend on it); tilt the joint density instead"
            )


def _tensors(thing: Any) -> Iterator[Tensor]:
    """Tensors that a distribution was built from, however nested."""
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, Distribution | Transform):
        for part in vars(thing).values():
            yield from _tensors(part)
    elif isinstance(thing, list | tuple):
        for part in thing:
            yield from _tensors(part)


def _ancestry(tensor: Tensor) -> list[Any]:
    """A tensor, what it is a view of, and everything in the graph it was computed from."""
    found: list[Any] = [tensor, tensor._base]
    todo, seen = [tensor.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            found += [node, getattr(node, "variable", None)]
            todo += [parent for parent, _ in node.next_functions]
    return found
