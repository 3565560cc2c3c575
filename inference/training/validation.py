"""Early stopping on what a sampling guide's loss cannot tell: the score of held-out points."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pyro_lebm.series import Series

from ..predict import log_score


def check_validation(series: Series, validation: tuple[Series, Series]) -> None:
    """Refuse held-out data that the model, made for `series`, could only fail on in mid-run."""
    if not isinstance(validation, tuple | list) or len(validation) != 2:
        raise TypeError(f"validation: expected a pair (given, target), got {validation!r}")
    for name, part in zip(("given", "target"), validation, strict=True):
        if not isinstance(part, Series):
            raise TypeError(f"validation: expected a Series as {name}, got {type(part).__name__}")
        if part.observed != series.observed:
            raise ValueError(
                f"validation: expected {series.observed} features an observation as in series, "
                f"got {part.observed} in {name}"
            )
        if part.values.dtype != series.values.dtype:
            raise ValueError(
                f"validation: expected {series.values.dtype} as in series, "
                f"got {part.values.dtype} in {name}"
            )


class EarlyStop:
    """Scores held-out points now and then, remembers the best state, says when to stop.

    Args:
        model: the program.
        guide: a guide with `posterior(series, draws) -> Draws`.
        given: what the posterior may see.
        target: the same sequences; scored is what it has observed and `given` has not.
        draws: posterior draws a score.
        patience: scores without a new best after which to stop.

    Raises:
        TypeError: the guide has no `posterior`.
        ValueError: `given` and `target` are of different sequences, or nothing is hidden.
    """

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        given: Series,
        target: Series,
        *,
        draws: int,
        patience: int,
    ) -> None:
        if not callable(getattr(guide, "posterior", None)):
            raise TypeError(
                "validation: expected a guide with a posterior(series, draws) method, "
                f"got {type(guide).__name__}"
            )
        if len(given) != len(target):
            raise ValueError(
                "validation: expected given and target of the same sequences, "
                f"got {len(given)} and {len(target)}"
            )
        if target.mask.shape == given.mask.shape and torch.equal(target.times, given.times):
            target = target.without(given)
        if not bool(target.mask.any()):
            raise ValueError(
                "validation: expected a target with entries that given hides, got none"
            )
        self.model, self.guide = model, guide
        self.given, self.target = given, target
        self.draws, self.patience = draws, patience
        self.best: dict[str, Any] | None = None
        self.best_score = -math.inf
        self.waited = 0

    @property
    def over(self) -> bool:
        """Whether patience has run out."""
        return self.waited >= self.patience

    def score(self) -> float:
        """The held-out log score (see `log_score`); leaves training's random numbers alone."""
        modes = self.model.training, self.guide.training
        device = self.given.values.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            self.model.eval()
            self.guide.eval()
            try:
                draws = self.guide.posterior(self.given, self.draws)  # type: ignore[operator]
                return log_score(self.model, draws, self.given, self.target)
            finally:
                self.model.train(modes[0])
                self.guide.train(modes[1])

    def record(self, score: float, state: dict[str, Any]) -> None:
        """Note a score and the state it was had with; a score that is NaN is no improvement."""
        if score > self.best_score:
            self.best_score, self.best, self.waited = score, state, 0
        else:
            self.waited += 1

    def to_state(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {"best": self.best, "best_score": self.best_score, "waited": self.waited}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put back what `to_state` returned."""
        self.best, self.best_score = state["best"], state["best_score"]
        self.waited = state["waited"]
