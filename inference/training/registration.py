"""Which parameters a model and a guide really hand to Pyro, checked before training starts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from pyro import poutine
from pyro.nn import PyroModule
from pyro.params.param_store import normalize_param_name
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_lebm.conditional import ConditionalEnergyBased
from pyro_lebm.factor import TiltFactor
from pyro_lebm.programs.reading import tilted


class RefuseUnnormalised(Messenger):
    """Around a guide: an energy-based site has no log-probability that an ELBO could use."""

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        if tilted(fn) or isinstance(fn, TiltFactor | ConditionalEnergyBased):
            kind = "EnergyBased" if tilted(fn) else type(fn).__name__
            raise ValueError(
                f"guide: expected normalised densities, got {kind} at site {msg['name']!r}: "
                "its log Z is unknown and depends on the guide's parameters"
            )


def check_names(model: nn.Module, guide: nn.Module) -> None:
    """Raise if Pyro would take a parameter of the guide for one of the model.

    Raises:
        ValueError: names them.
    """
    ours, theirs = _pyro_names(model), _pyro_names(guide)
    clashes = [name for name in ours if name in theirs and ours[name] is not theirs[name]]
    if clashes:
        raise ValueError(_clash(clashes))


def _clash(names: Iterable[str]) -> str:
    return (
        f"model, guide: expected different names for different parameters, got {_listed(names)} "
        "in both; rename a submodule, or give one root a name: PyroModule(name=...)"
    )


def _pyro_names(root: nn.Module) -> dict[str, Tensor]:
    if not isinstance(root, PyroModule):
        return {}  # named by its own pyro.module statements, unknown until it runs
    prefix = f"{root._pyro_name}." if root._pyro_name else ""
    return {prefix + name: p for name, p in root.named_parameters()}


def never_registered(names: str) -> str:
    """What is wrong where programs never met some parameters."""
    return (
        f"model, guide: the parameters {names} are never registered with Pyro and would never be "
        "trained; hold them in a PyroModule, call pyro.module, or freeze them with "
        "requires_grad_(False)"
    )


def never_stepped(names: str) -> str:
    """The same, of a model that goes from time to time and was given but one."""
    return (
        "series: expected at least two times, between which a model learns its steps, got 1: the "
        f"parameters {names} would never be trained; freeze them with requires_grad_(False) to "
        "train the others"
    )


def register(
    modules: nn.Module,
    run: Callable[[], None],
    exempt: Collection[Tensor] = (),
    unmet: Callable[[str], str] = never_registered,
) -> dict[str, Tensor]:
    """Run the programs once and see which parameters Pyro's store was handed.

    Args:
        modules: holds the model and the guide.
        run: runs guide and model, as a step of training does.
        exempt: parameters that may stay unseen.
        unmet: what to say of the names of others that do.

    Returns:
        The parameters to be trained, by dotted name.

    Raises:
        ValueError: a trainable parameter of a module that Pyro never sees and so would never move;
            a parameter that belongs to no module and so would be lost; two with one name.
    """
    before = dict(modules.named_parameters())
    trainable = {id(p) for p in before.values() if p.requires_grad}
    with poutine.trace(param_only=True) as capture:
        run()
    seen: dict[str, Tensor] = {}
    for name, site in capture.trace.nodes.items():
        if site["type"] == "param":
            value: Any = site["value"]
            seen[normalize_param_name(name)] = value.unconstrained()
    after = dict(modules.named_parameters())
    replaced = [name for name, p in before.items() if after.get(name) is not p]
    if replaced:
        raise ValueError(_clash(name.partition(".")[2] for name in replaced))
    owned = {id(p) for p in after.values()}
    stray = [name for name, p in seen.items() if id(p) not in owned]
    if stray:
        raise ValueError(
            f"model, guide: the parameters {_listed(stray)} belong to neither module and would be "
            "lost after training; make them nn.Parameter or PyroParam attributes"
        )
    known = {id(p) for p in seen.values()} | {id(p) for p in exempt}
    unseen = [n for n, p in after.items() if id(p) not in known and id(p) in trainable]
    if unseen:
        raise ValueError(unmet(_listed(unseen)))
    return seen


def _listed(names: Iterable[str], shown: int = 5) -> str:
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
