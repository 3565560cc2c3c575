"""Ways to compute the same density: which one is asked for, and which was picked."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, get_args

Engine = Literal["auto", "eager", "native", "vjp", "xla", "compile"]
ENGINES: tuple[str, ...] = get_args(Engine)
FUSED = ("native", "vjp")
# Those that compile recorded programs, and what does it.
COMPILERS = {"xla": "pyro_lebm.xla.bound", "compile": "pyro_lebm.inductor"}

_picked: ContextVar[list[str] | None] = ContextVar("picked", default=None)
_asked: ContextVar[Engine] = ContextVar("engine", default="auto")
_warned: set[str] = set()
log = logging.getLogger("pyro_lebm")


@contextmanager
def engine(name: Engine) -> Iterator[None]:
    """Within the block, densities are computed by this engine.

    ``eager`` runs the program as it is written, whatever it does. ``native`` is fused code for
    latent ODEs whose field and emission are plain perceptrons, on a CPU, compiled at its first
    use; ``vjp`` does the same by vector-Jacobian products written out in PyTorch, on any device
    and without a compiler. Both refuse what they cannot do. ``xla`` compiles whatever program it
    is, some seconds for each shape of the data: worth it for long chains and trainings of networks
    of one's own; it needs jax. ``compile`` does the same by torch.compile: meant for GPUs, where a
    gradient is one CUDA graph; on a CPU it takes longer to compile, and runs slower. ``auto``, the
    default, is native where that is possible, otherwise vjp where that is, and otherwise eager.

    Raises:
        ValueError: for another name.
        ImportError: for ``xla`` without jax; says how to install it.

    Example:
        >>> with engine("eager"):
        ...     asked()
        'eager'
    """
    if name not in ENGINES:
        raise ValueError(f"engine: expected one of {ENGINES}, got {name!r}")
    if name == "xla" and importlib.util.find_spec("jax") is None:
        raise ImportError(
            "engine: 'xla' needs jax; install it with pip install 'pyro-lebm[numpyro]'"
        )
    token = _asked.set(name)
    try:
        yield
    finally:
        _asked.reset(token)


def asked() -> Engine:
    """The engine asked for where this is called."""
    return _asked.get()


def pick(name: str) -> None:
    """Tell those who ask (see `watching`) that an engine computes a density."""
    seen = _picked.get()
    if seen is not None:
        seen.append(name)


@contextmanager
def watching() -> Iterator[list[str]]:
    """Within the block, the engines that densities are computed by, as they are picked."""
    seen: list[str] = []
    token = _picked.set(seen)
    try:
        yield seen
    finally:
        _picked.reset(token)


@contextmanager
def honoured() -> Iterator[None]:
    """Around a whole density: a fused engine that was asked for by name computes a part of it.

    Raises:
        ValueError: it had nothing to compute.
    """
    if asked() not in FUSED:
        yield
        return
    with watching() as seen:
        yield
    if not seen:
        refuse("a program that observes no latent ODE")
    for name in seen:
        pick(name)


def compiler(name: str) -> Callable[..., Any]:
    """What compiles recorded programs, of the engines that do."""
    found: Callable[..., Any] = importlib.import_module(COMPILERS[name]).Bound
    return found


def refuse(
    reason: str,
    *,
    by: tuple[str, ...] = FUSED,
    instead: str = "eager",
    warn: bool = False,
) -> None:
    """Tell that engines cannot do something: by an error where one was asked for by name.

    Raises:
        ValueError: with the reason, where the engine is one of these.
    """
    if asked() in by:
        raise ValueError(f"engine: expected what {asked()!r} can do, got {reason}; use 'auto'")
    if reason in _warned:
        return
    _warned.add(reason)
    if warn:
        warnings.warn(f"engine: {instead!r}, slower than {by[0]!r}: {reason}", stacklevel=3)
    log.info("engine: %r, as there is %s", instead, reason)
