"""Adam for Pyro's SVI with learning rates by name, scheduled, clipped, and checked."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from pyro.params.param_store import normalize_param_name
from torch import Tensor

from pyro_lebm.clock import timed

# An energy's rate where none is given: an energy that outruns its chains runs away.
ENERGY_SHARE = 0.1


class NonFiniteGradient(ArithmeticError):
    """A gradient with a NaN or an infinity in it; raised before any parameter has moved."""


class Optimiser(PyroOptim):
    r"""Adam (Kingma & Ba 2015, arXiv 1412.6980), one learning rate for each prefix of names.

    The rate of a parameter is `rate(name) * factor`, where `factor` is the schedule's, times
    `energy_factor` where the parameter belongs to an energy. An energy that no prefix matches has a
    tenth of the common rate. Gradients are clipped group by group (a group: the parameters that
    share a prefix) to the norm `clip_norm`, so that an exploding field does not silence the energy.

    Args:
        learning_rate: the rate of parameters that no prefix matches.
        learning_rates: rates by prefix of the parameter's dotted name; the longest prefix wins.
        betas: Adam's decay rates.
        clip_norm: the largest norm of a group's gradient; None: no clipping.
        frozen: parameters that must not move. (Pyro's parameter store sets `requires_grad` on
            whatever it registers, so freezing by that flag alone does not hold.)
        energies: parameters to which `energy_factor` applies.
    """

    def __init__(
        self,
        learning_rate: float,
        learning_rates: Mapping[str, float],
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        clip_norm: float | None = None,
        frozen: Iterable[Tensor] = (),
        energies: Iterable[Tensor] = (),
    ) -> None:
        super().__init__(torch.optim.Adam, {"lr": learning_rate, "betas": betas})
        self.learning_rate = learning_rate
        self.learning_rates = dict(learning_rates)
        self.clip_norm = clip_norm
        self.factor = 1.0
        self.energy_factor = 1.0
        self._frozen = {id(p) for p in frozen}
        self._energies = {id(p) for p in energies}

    def prefix(self, name: str) -> str:
        """The longest prefix that matches a dotted name; "" if none does."""
        return max((p for p in self.learning_rates if name.startswith(p)), key=len, default="")

    def check_prefixes(self, names: Collection[str]) -> None:
        """Raise if a prefix matches none of the names.

        Raises:
            ValueError: names the prefix and some of the names there are.
        """
        for prefix in self.learning_rates:
            if not any(name.startswith(prefix) for name in names):
                known = ", ".join(sorted(names)[:8])
                raise ValueError(
                    f"learning_rates: the prefix {prefix!r} matches no parameter; there are {known}"
                )

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """One step for every parameter of Pyro's store that has a gradient.

        SVI hands over those that its programs met. Of several ranks each may have met others, and
        all have the gradients of all.

        Raises:
            NonFiniteGradient: before any parameter has moved.
        """
        # Sorted, as sums of norms depend on the order: ranks may have met them in different ones.
        named = sorted(pyro.get_param_store().named_parameters(), key=lambda item: item[0])
        moving = [(n, p) for n, p in named if p.grad is not None and id(p) not in self._frozen]
        try:
            with timed("optimiser"):
                self._check_and_clip(moving)
                for raw, p in moving:
                    adam = self._adam(raw, p)
                    adam.param_groups[0]["lr"] = self._rate(normalize_param_name(raw), p)
                    adam.step()
        finally:
            # Zeros would not do: a parameter without a gradient must stay, resumed run or not.
            for _, p in named:
                p.grad = None

    def _rate(self, name: str, p: Tensor) -> float:
        energy = id(p) in self._energies
        common = self.learning_rate * (ENERGY_SHARE if energy else 1.0)
        rate = self.learning_rates.get(self.prefix(name), common) * self.factor
        return rate * self.energy_factor if energy else rate

    def _check_and_clip(self, named: list[tuple[str, Tensor]]) -> None:
        groups: dict[str, list[Tensor]] = {}
        for raw, p in named:
            groups.setdefault(self.prefix(normalize_param_name(raw)), []).append(p)
        for prefix, members in groups.items():
            norms = [p.grad.norm() for p in members if p.grad is not None]
            norm = float(torch.stack([n.detach().cpu().double() for n in norms]).norm())
            if not math.isfinite(norm):
                raise NonFiniteGradient(f"the gradient of {prefix or 'the parameters'} is {norm}")
            if self.clip_norm is not None and norm > self.clip_norm:
                for p in members:
                    assert p.grad is not None
                    p.grad.mul_(self.clip_norm / norm)

    def _adam(self, raw: str, p: Tensor) -> torch.optim.Optimizer:
        if p not in self.optim_objs:
            self.optim_objs[p] = self._get_optim(p)
            waiting = self._state_waiting_to_be_consumed.pop(raw, None)
            if waiting is not None:
                self.optim_objs[p].load_state_dict(waiting)
        adam: torch.optim.Optimizer = self.optim_objs[p]
        return adam

    def get_state(self) -> dict[str, Any]:
        """A copy of the moments, by parameter name."""
        current = {**self._state_waiting_to_be_consumed, **super().get_state()}
        return {name: _copied(state) for name, state in current.items()}

    def set_state(self, state_dict: Mapping[str, Any]) -> None:
        """Return to a state that `get_state` gave; parameters it does not name start afresh."""
        self.optim_objs.clear()
        self._state_waiting_to_be_consumed.clear()
        super().set_state({name: _copied(state) for name, state in state_dict.items()})


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value
