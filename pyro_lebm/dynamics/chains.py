"""Persistent chains: Langevin state that outlives an optimiser step."""

from __future__ import annotations

import math
from typing import get_args

import torch
from torch import Tensor, nn

from ..checkpoint import CheckpointError
from . import moves
from .inner_steps import InnerSteps
from .langevin import LogDensity, evaluate
from .moves import Dynamics, Visit, Walk, Whole, adaptation_rate


class Chains(nn.Module):
    """Positions and step sizes of many chains, kept between visits; velocities where they have any.

    They are training state, not weights: the buffers are left out of ``state_dict`` (a trained
    model loads beside another data set) and travel by `training_state`, `load_training_state`.

    Args:
        position: starting points ``(*chains, dim)``.
        step_size: first step, adapted per chain by `run`: the noise's standard deviation of
            overdamped steps, a time of underdamped ones.
        dynamics: ``overdamped`` (MALA; unadjusted: ULA) or ``underdamped``: a visit is one
            Metropolis-adjusted trajectory (`malt_step`), or unadjusted steps (`baoab_step`) that
            take up the velocity that the last visit left.
        friction: of underdamped steps, per step and not per unit of time, so that it means the same
            to chains of long and of short steps: a velocity is remembered over 1 / friction steps.

    Attributes:
        position: ``(*chains, dim)``.
        velocity: ``(*chains, dim)``, of unit temperature; only where the dynamics are underdamped.
        step_size: ``(*chains)``.
        visited: bool ``(*chains)``: whether a chain was ever advanced.
        adapted: whole numbers ``(*chains)``: steps over which a chain's step size was adapted.
        moving: from 0 to 1, how fast the density changes from visit to visit, for the adaptation of
            the step sizes to follow: see `moves.adaptation_rate`. Guides set it to the share of the
            training that is left.
        acceptance: ``()``: the mean of the last visit, of a test not made where it is unadjusted.

    Raises:
        ValueError: for no chain, a step size <= 0, other dynamics, a friction <= 0.

    Example:
        >>> chains = Chains(torch.zeros(3, 2), step_size=0.5)
        >>> chains.run(lambda z: -0.5 * (z**2).sum(-1), steps=4).shape
        torch.Size([3, 2])
    """

    position: Tensor
    velocity: Tensor | None
    step_size: Tensor
    visited: Tensor
    adapted: Tensor
    acceptance: Tensor

    def __init__(
        self,
        position: Tensor,
        *,
        step_size: float = 0.1,
        dynamics: Dynamics = "overdamped",
        friction: float = 0.05,
    ) -> None:
        super().__init__()
        if position.ndim < 2 or position.shape[:-1].numel() < 1:
            raise ValueError(
                "position: expected shape (*chains, dim) with at least one chain, "
                f"got {tuple(position.shape)}"
            )
        if not step_size > 0:
            raise ValueError(f"step_size: expected a positive number, got {step_size}")
        if dynamics not in get_args(Dynamics):
            raise ValueError(
                f"dynamics: expected one of {sorted(get_args(Dynamics))}, got {dynamics!r}"
            )
        if not friction > 0:
            raise ValueError(f"friction: expected a positive number, got {friction}")
        self.dynamics, self.friction = dynamics, friction
        self.moving = 0.2  # until a guide knows better: a prior's density follows a low rate
        shape = position.shape[:-1]
        self.register_buffer("position", position.detach().clone(), persistent=False)
        self.register_buffer("step_size", position.new_full(shape, step_size), persistent=False)
        self.register_buffer(
            "visited",
            torch.zeros(shape, dtype=torch.bool, device=position.device),
            persistent=False,
        )
        self.register_buffer(
            "adapted",
            torch.zeros(shape, dtype=torch.long, device=position.device),
            persistent=False,
        )
        self.register_buffer("acceptance", position.new_tensor(float("nan")), persistent=False)
        moving = dynamics == "underdamped"
        velocity = torch.randn_like(self.position) if moving else None
        self.register_buffer("velocity", velocity, persistent=False)

    def run(
        self,
        log_density: LogDensity,
        steps: int | InnerSteps,
        *,
        index: tuple[Tensor, ...] | None = None,
        start: Tensor | None = None,
        hot: float | None = None,
        adjusted: bool = True,
        adapt: bool | None = None,
        keep: bool = True,
        whole: Whole | None = None,
    ) -> Tensor:
        """Advance the chains (those at ``index``) and return their new positions.

        Args:
            log_density: the target, ``(*chosen, dim) -> (*chosen)``.
            steps: Langevin steps, or what says how many and learns from each visit that is kept.
            index: one index tensor per chain dimension, as for advanced indexing; default all.
            start: positions to start from in place of the stored ones. A velocity says nothing of
                the position: it is kept.
            hot: if given, unadjusted overdamped steps of this strength (see `hot_step_size`).
            adjusted: Metropolis-adjusted steps, or unadjusted ones.
            adapt: adapt the step sizes (see `moves.adaptation_rate`), those of unadjusted steps to
                where a Metropolis test, not made, would accept .95 of them. Default: all but
                unadjusted overdamped steps, which keep the stored size.
            keep: write positions, velocities and step sizes back.
            whole: takes overdamped steps all at once, where an engine can (`Program.whole`).
        """
        at: tuple[Tensor, ...] | slice = slice(None) if index is None else index
        begin = (self.position[at] if start is None else start).detach()
        velocity = torch.zeros_like(begin) if self.velocity is None else self.velocity[at]
        step = self.step_size[at]
        if adapt is None:
            adapt = adjusted or self.dynamics == "underdamped"
        rate = adaptation_rate(self.adapted[at], self.moving) if adapt else torch.zeros_like(step)
        unknown = torch.full_like(step, math.nan)
        count = int(steps)
        first = evaluate(log_density, begin)
        walk = Walk(first, velocity, step, rate, unknown)
        visit = self._visit(hot, adjusted, adapt)
        if whole is not None and (hot is not None or visit in (moves.mala, moves.ula)):
            walk = whole(walk, count, hot, adjusted)
        else:
            walk = visit(log_density, walk, count)
        # An unadjusted chain that left the density (blew up) stays where it began.
        state = walk.state
        good = torch.isfinite(state.log_density) & torch.isfinite(state.position).all(-1)
        position = torch.where(good.unsqueeze(-1), state.position, begin)
        if keep:
            self._keep(at, position, walk)
            self.adapted[at] += count if adapt and hot is None else 0
            if isinstance(steps, InnerSteps):
                steps.learn(first, state)
        return position

    def _visit(self, hot: float | None, adjusted: bool, adapt: bool) -> Visit:
        if hot is not None:
            return moves.hot(hot)
        if self.dynamics == "underdamped":
            return moves.malt(self.friction) if adjusted else moves.baoab(self.friction)
        if adjusted:
            return moves.mala
        return moves.tested_ula if adapt else moves.ula

    @torch.no_grad()
    def _keep(self, at: tuple[Tensor, ...] | slice, position: Tensor, walk: Walk) -> None:
        self.position[at] = position
        self.step_size[at] = walk.step_size
        self.visited[at] = True
        if self.velocity is not None:
            self.velocity[at] = walk.velocity
        acceptance = walk.acceptance.mean()
        self.acceptance.copy_(torch.where(acceptance.isnan(), self.acceptance, acceptance))

    def training_state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold so that a run resumes to the same numbers."""
        return {name: buffer.detach().clone() for name, buffer in self.named_buffers()}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Put back what `training_state` returned.

        Raises:
            CheckpointError: if the chains are of another shape, or of other dynamics.
        """
        # runs of older versions did not count them
        state = {"adapted": torch.zeros_like(self.adapted), **state}
        buffers = dict(self.named_buffers())
        for name in {**buffers, **state}:
            expected, found = (
                f"shape {tuple(each[name].shape)}" if name in each else "nothing"
                for each in (buffers, state)
            )
            if expected != found:
                raise CheckpointError(f"chains' {name}: expected {expected}, got {found}")
        with torch.no_grad():
            for name, buffer in buffers.items():
                buffer.copy_(state[name])
