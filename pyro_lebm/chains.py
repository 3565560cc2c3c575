"""Persistent chains: Langevin state that outlives an optimiser step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .langevin import LogDensity, adapt, evaluate, hot_step_size, mala_step, ula_step


class Chains(nn.Module):
    """Positions and step sizes of many chains, kept between visits.

    They are training state, not weights: the buffers are left out of ``state_dict`` (a trained
    model loads beside another data set) and travel by `training_state`, `load_training_state`.

    Args:
        position: starting points ``(*chains, dim)``.
        step_size: first step (the noise's standard deviation), adapted per chain by `run`.

    Attributes:
        position: ``(*chains, dim)``.
        step_size: ``(*chains)``.
        visited: bool ``(*chains)``: whether a chain was ever advanced.

    Example:
        >>> chains = Chains(torch.zeros(3, 2), step_size=0.5)
        >>> chains.run(lambda z: -0.5 * (z**2).sum(-1), steps=4).shape
        torch.Size([3, 2])
    """

    position: Tensor
    step_size: Tensor
    visited: Tensor
    acceptance: Tensor

    def __init__(self, position: Tensor, *, step_size: float = 0.1) -> None:
        super().__init__()
        if position.ndim < 2 or position.shape[:-1].numel() < 1:
            raise ValueError(
                "position: expected shape (*chains, dim) with at least one chain, "
                f"got {tuple(position.shape)}"
            )
        if not step_size > 0:
            raise ValueError(f"step_size: expected a positive number, got {step_size}")
        shape = position.shape[:-1]
        self.register_buffer("position", position.detach().clone(), persistent=False)
        self.register_buffer("step_size", position.new_full(shape, step_size), persistent=False)
        self.register_buffer(
            "visited",
            torch.zeros(shape, dtype=torch.bool, device=position.device),
            persistent=False,
        )
        self.register_buffer("acceptance", position.new_tensor(float("nan")), persistent=False)

    def run(
        self,
        log_density: LogDensity,
        steps: int,
        *,
        index: tuple[Tensor, ...] | None = None,
        start: Tensor | None = None,
        hot: float | None = None,
        adjusted: bool = True,
        keep: bool = True,
    ) -> Tensor:
        """Advance the chains (those at ``index``) and return their new positions.

        Args:
            log_density: the target, ``(*chosen, dim) -> (*chosen)``.
            steps: Langevin steps.
            index: one index tensor per chain dimension, as for advanced indexing; default all.
            start: positions to start from in place of the stored ones.
            hot: if given, unadjusted steps of this strength (see `hot_step_size`).
            adjusted: Metropolis-adjusted steps, or unadjusted ones of the stored step size.
            keep: write positions and step sizes back.
        """
        at: tuple[Tensor, ...] | slice = slice(None) if index is None else index
        step = self.step_size[at]
        begin = (self.position[at] if start is None else start).detach()
        state = evaluate(log_density, begin)
        accepted = torch.zeros_like(step)
        for _ in range(steps):
            if hot is not None:
                state = ula_step(log_density, state, hot_step_size(state.gradient, hot))
            elif adjusted:
                state, probability = mala_step(log_density, state, step)
                step = adapt(step, probability)
                accepted += probability / steps
            else:
                state = ula_step(log_density, state, step)
        # An unadjusted chain that left the density (blew up) stays where it began.
        good = torch.isfinite(state.log_density) & torch.isfinite(state.position).all(-1)
        position = torch.where(good.unsqueeze(-1), state.position, begin)
        if keep:
            self._keep(at, position, step, accepted, measured=adjusted and hot is None)
        return position

    @torch.no_grad()
    def _keep(
        self,
        at: tuple[Tensor, ...] | slice,
        position: Tensor,
        step: Tensor,
        accepted: Tensor,
        measured: bool,
    ) -> None:
        self.position[at] = position
        self.step_size[at] = step
        self.visited[at] = True
        if measured:
            self.acceptance.copy_(accepted.mean())

    def training_state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold so that a run resumes to the same numbers."""
        return {name: buffer.detach().clone() for name, buffer in self.named_buffers()}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Put back what `training_state` returned.

        Raises:
            ValueError: if the chains are of another shape.
        """
        for name, buffer in self.named_buffers():
            if name not in state or state[name].shape != buffer.shape:
                found = tuple(state[name].shape) if name in state else "nothing"
                raise ValueError(
                    f"chains' {name}: expected shape {tuple(buffer.shape)}, got {found}"
                )
        with torch.no_grad():
            for name, buffer in self.named_buffers():
                buffer.copy_(state[name])
