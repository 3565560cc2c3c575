"""A finished run of MCMC as groups for ArviZ, whichever back end made it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from pyro.infer import MCMC
from torch import Tensor

from .recording import Recording, record
from .run import Run
from .targets import ModelTarget

# Statistics by the names that ArviZ and its users know.
STATS = {
    "acceptance": "acceptance_rate",
    "acceptance rate": "acceptance_rate",
    "accept_prob": "acceptance_rate",
    "divergences": "diverging",
    "divergence": "diverging",
    "log_joint": "lp",
    "num_steps": "n_steps",
    "step size": "step_size",
}


class Finished(NamedTuple):
    """Samples and statistics of a run, ``(chains, draws, ...)``, and what it was a run of."""

    samples: dict[str, Tensor]
    stats: dict[str, np.ndarray]
    model: Callable[..., Any] | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    method: str
    attrs: dict[str, Any]


def finished(run: MCMC | Run) -> Finished:
    """Read a run off.

    Raises:
        ValueError: for a run without samples.
    """
    samples = run.get_samples(group_by_chain=True)
    if not samples:
        raise ValueError("draws: expected a finished MCMC run, got one without samples")
    chains, num_draws = next(iter(samples.values())).shape[:2]
    if isinstance(run, MCMC):
        stats, attrs = _of_pyro(run, chains, num_draws)
        args = tuple(getattr(run, "_args", None) or ())
        kwargs = dict(getattr(run, "_kwargs", None) or {})
        model, name = getattr(run.kernel, "model", None), type(run.kernel).__name__
        adjusted = getattr(run.kernel, "adjusted", True)
    else:
        stats = {k: v.detach().cpu().numpy() for k, v in run.statistics.items()}
        attrs, args, kwargs, model = {"restarts": run.restarts}, run.args, run.kwargs, run.model
        name, adjusted = run.method, run.adjusted
    stats.setdefault("diverging", np.zeros((chains, num_draws), dtype=bool))
    if "lp" not in stats and model is not None:
        density = _density(model, args, kwargs, samples)
        stats |= {} if density is None else {"lp": density}
    attrs = {**attrs, "adjusted": int(adjusted), "kernel": name}
    return Finished(samples, stats, model, args, kwargs, f"MCMC, {name}", attrs)


def _of_pyro(
    run: MCMC, chains: int, num_draws: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Which draws diverged, whatever the kernel reports a number per draw of, and per chain."""
    stats = {"diverging": np.zeros((chains, num_draws), dtype=bool)}
    attrs: dict[str, Any] = {}
    # Pyro computes R-hat on the way to the diagnostics and fails on fewer than four draws.
    diagnostics = run.diagnostics() if num_draws >= 4 else {}
    names = [f"chain {c}" for c in range(chains)]
    for key, value in diagnostics.items():
        if not isinstance(value, Mapping) or set(value) != set(names):
            continue
        known = STATS.get(key, key)
        if key == "divergences":
            for c, name in enumerate(names):
                stats["diverging"][c, list(value[name])] = True
        elif all(np.shape(value[name]) == (num_draws,) for name in names):
            stats[known] = np.stack([np.asarray(value[name]) for name in names])
        elif all(np.shape(value[name]) == () for name in names):
            # One number a chain, such as a mean acceptance rate, is no statistic of a draw.
            attrs[f"{known}_by_chain"] = [float(value[name]) for name in names]
    return stats, attrs


def _density(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    samples: Mapping[str, Tensor],
) -> np.ndarray | None:
    """The log joint of every draw, in unconstrained space, where the program can be read."""
    try:
        target = ModelTarget(model, args, dict(kwargs), "auto")
        named = {s.name: s.transform.inv(samples[s.name]) for s in target.potential.program.sites}
        flat = {name: value.flatten(0, 1) for name, value in named.items()}
        with torch.no_grad():
            lp = target.log_density(target.pack(flat))
    except (KeyError, ValueError):  # sites not saved, discrete ones, minibatches
        return None
    shape = next(iter(samples.values())).shape[:2]
    return lp.reshape(shape).cpu().numpy()


def recorded(run: Finished) -> Recording:
    """The run's program at its draws; says where it cannot be run, or lacks log Z."""
    assert run.model is not None
    try:
        found = record(run.model, run.args, run.kwargs, run.samples)
    except ValueError as error:  # sites not saved, or discrete and summed out
        warnings.warn(f"to_arviz: no deterministics, data or log likelihood: {error}", stacklevel=4)
        return Recording()
    if found.unnormalised:
        warnings.warn(
            f"to_arviz: the log likelihood of {', '.join(sorted(set(found.unnormalised)))} lacks "
            "log_z; estimate it with pyro_lebm.log_z(prior)",
            stacklevel=4,
        )
    return found
