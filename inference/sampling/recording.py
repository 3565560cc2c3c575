"""A program run again at each draw: deterministics, log likelihoods, data, names of dimensions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from pyro_lebm.distribution import EnergyBased
from pyro_lebm.factor import TiltFactor
from pyro_lebm.frozen import frozen


@dataclass
class Recording:
    """What a program says at given draws.

    Attributes:
        deterministics: ``{name: (*draws, *shape)}``.
        log_likelihood: of observed sites, element by element, ``{name: (*draws, *batch)}``.
        observed: the data.
        dims: names of the dimensions of each site, from the plates around it.
        unnormalised: observed sites whose log likelihood lacks log Z.
    """

    deterministics: dict[str, Tensor] = field(default_factory=dict)
    log_likelihood: dict[str, Tensor] = field(default_factory=dict)
    observed: dict[str, Tensor] = field(default_factory=dict)
    dims: dict[str, list[str]] = field(default_factory=dict)
    unnormalised: list[str] = field(default_factory=list)


def record(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    samples: Mapping[str, Tensor],
    batch_dims: int = 2,
) -> Recording:
    """Run ``model(*args, **kwargs)`` at each of ``samples``, ``(*draws, *site shape)``.

    Parameters are held fixed. Draws are mapped together where the program allows it.

    Raises:
        ValueError: for a latent site that `samples` does not give, whose likelihood would be that
            of a draw from the prior.
    """
    shape = next(iter(samples.values())).shape[:batch_dims]
    flat = {name: value.reshape((-1, *value.shape[batch_dims:])) for name, value in samples.items()}
    found = Recording()

    def one(values: dict[str, Tensor], notes: Recording) -> tuple[dict[str, Tensor], ...]:
        with _Recorder(values, notes):
            model(*args, **kwargs)
        return notes.deterministics, notes.log_likelihood

    with (
        torch.no_grad(),
        pyro.validation_enabled(False),
        poutine.block(),
        frozen(model),
    ):
        one({name: value[0] for name, value in flat.items()}, found)
        try:
            parts = torch.func.vmap(lambda values: one(values, Recording()))(flat)
        except RuntimeError:
            turns = [
                one({name: value[i] for name, value in flat.items()}, Recording())
                for i in range(shape.numel())
            ]
            parts = tuple(
                {name: torch.stack([turn[k][name] for turn in turns]) for name in turns[0][k]}
                for k in range(2)
            )
    found.deterministics, found.log_likelihood = (
        {name: value.reshape(shape + value.shape[1:]) for name, value in part.items()}
        for part in parts
    )
    return found


class _Recorder(Messenger):
    """Fixes latent sites, and notes the others."""

    def __init__(self, values: Mapping[str, Tensor], notes: Recording) -> None:
        super().__init__()
        self.values, self.notes = values, notes

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]

    def _pyro_post_sample(self, msg: Any) -> None:
        name, fn = msg["name"], msg["fn"]
        if isinstance(fn, _Subsample | TiltFactor):
            return
        self.notes.dims[name] = _dims(msg)
        if msg["infer"].get("_deterministic"):
            self.notes.deterministics[name] = msg["value"]
        elif not msg["is_observed"] and name not in self.values:
            raise ValueError(f"samples: expected values of the latent site {name!r}, got none")
        elif name not in self.values:
            log_prob = fn.log_prob(msg["value"], *msg["args"], **msg["kwargs"])
            if isinstance(msg["mask"], Tensor):
                log_prob = torch.where(msg["mask"], log_prob, torch.zeros_like(log_prob))
            self.notes.log_likelihood[name] = log_prob
            self.notes.observed[name] = msg["value"]
            if isinstance(fn, EnergyBased) and fn.log_z is None:
                self.notes.unnormalised.append(name)


def _dims(msg: Any) -> list[str]:
    """The plates' names where there are plates, ``site_dim_k`` elsewhere."""
    value, frames = msg["value"], [f for f in msg["cond_indep_stack"] if f.vectorized]
    batch = value.ndim - msg["fn"].event_dim
    if msg["infer"].get("_deterministic") and all(
        value.ndim >= -frame.dim and value.shape[frame.dim] == frame.size for frame in frames
    ):
        batch = value.ndim  # to Pyro all of a deterministic value is event; its shape says more
    plates = {frame.dim: frame.name for frame in frames}
    return [plates.get(i - batch, f"{msg['name']}_dim_{i}") for i in range(value.ndim)]
