"""Running a Pyro program with its parameters held fixed, so that only latents carry gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from inspect import getclosurevars, isfunction
from typing import Any

import pyro
from pyro import poutine
from pyro.nn import PyroModule
from pyro.nn.module import _Context
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK
from torch import Tensor, nn


class _Detached(Messenger):
    """Hands detached values to whoever asks for ``pyro.param`` inside."""

    def _pyro_post_param(self, msg: Any) -> None:
        if isinstance(msg["value"], Tensor):
            msg["value"] = msg["value"].detach()


def held(program: Callable[..., Any]) -> list[nn.Module]:
    """The modules that a program is, is bound to, or names."""
    if isinstance(program, nn.Module):
        return [program]
    if isinstance(program, partial):
        parts = (program.func, *program.args, *program.keywords.values())
        return [m for part in parts for m in held(part)]
    found = [getattr(program, "__self__", None)]
    if isfunction(program):
        with suppress(ValueError):  # a variable of the closure that is not set yet
            names = getclosurevars(program)
            found += [*names.nonlocals.values(), *names.globals.values()]
    return [module for module in found if isinstance(module, nn.Module)]


@contextmanager
def frozen(program: Callable[..., Any]) -> Iterator[None]:
    """Within the block, the program's parameters are constants.

    ``requires_grad_(False)`` would be undone by Pyro, which registers parameters again; so each
    module's parameters are swapped for detached views and PyroModules read their own values rather
    than the parameter store's. Call the program once a block (`PyroSample` attributes keep their
    values within it). Of a plain function the modules that it names itself are found; those in
    containers or in functions that it calls escape: make them submodules.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> with frozen(layer):
        ...     layer.weight.requires_grad
        False
        >>> layer.weight.requires_grad
        True
    """
    modules = [module for top in held(program) for module in top.modules()]
    swapped = [(module, dict(module._parameters)) for module in modules if module._parameters]
    try:
        for module, parameters in swapped:
            for name, parameter in parameters.items():
                if parameter is not None:
                    module._parameters[name] = parameter.detach()  # type: ignore[assignment]
        with apart(program), _Detached():
            yield
    finally:
        for module, parameters in swapped:
            module._parameters.update(parameters)


@contextmanager
def alone() -> Iterator[None]:
    """Within the block, no handler from outside is there, nor a plate: for a run within a run.

    To hide from handlers is not enough: a program's plates could not be entered a second time.
    """
    stack, dims = [*_PYRO_STACK], [*_DIM_ALLOCATOR._stack]
    _PYRO_STACK.clear()
    _DIM_ALLOCATOR._stack.clear()
    try:
        yield
    finally:
        _PYRO_STACK[:] = stack
        _DIM_ALLOCATOR._stack[:] = dims


@contextmanager
def apart(program: Callable[..., Any]) -> Iterator[None]:
    """Within the block, PyroModules read their own parameters, and no store or trace is told.

    Call the program once a block, as for `frozen`.
    """
    modules = [module for top in held(program) for module in top.modules()]
    contexts = {m._pyro_context: m._pyro_context.used for m in modules if isinstance(m, PyroModule)}
    try:
        # An active context does not swap the parameter store, which would cost and, in the middle
        # of an optimiser's step, strip what SVI needs from the parameters.
        for context in contexts:
            context.active += 1
            context.used = True
        with ExitStack() as stack:
            stack.enter_context(pyro.settings.context(module_local_params=bool(contexts)))
            # Nor may SVI's own trace see stand-ins for the parameters.
            stack.enter_context(poutine.block(hide_types=["param"]))
            if not isinstance(program, PyroModule):  # it may call `pyro.module`, which would warn
                stack.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", ".*was not registered in the param store")
            yield
    finally:
        for context, used in contexts.items():
            context.active -= 1
            context.used = used  # a module that never ran may still join a larger one
            if not context.active:
                context.cache.clear()


def renewed(program: Callable[..., Any]) -> None:
    """Let modules that have run join a larger one, which PyroModules otherwise refuse to."""
    for top in held(program):
        for module in top.modules():
            if isinstance(module, PyroModule):
                module._pyro_context = _Context()
