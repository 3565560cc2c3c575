"""Chains of a warm-up that are far from where the posterior's mass is."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_lebm.dynamics.langevin import State

# Nats, and nats a dimension, that a chain's surroundings may weigh less and not be lost.
LOST, LOST_PER_DIM = 10.0, 1.0


class Track(NamedTuple):
    """Sums over the moves of a window, of each chain: ``(chains, ...)``."""

    moves: int
    position: Tensor
    square: Tensor
    log_density: Tensor


def no_track(state: State) -> Track:
    """Before the first move."""
    zero = torch.zeros_like(state.position, dtype=torch.float64)
    return Track(0, zero, zero, zero[..., 0])


def further(track: Track, state: State) -> Track:
    """One move more."""
    z = state.position.double()
    return Track(
        track.moves + 1,
        track.position + z,
        track.square + z * z,
        track.log_density + state.log_density.double(),
    )


def lost(state: State, track: Track) -> Tensor:
    r"""Which chains lie where there can be no share of the posterior, ``(chains)``.

    The mass around a chain is judged by Laplace's formula, :math:`\overline{\log p} + \sum_j \log
    s_j`, with the mean log density and the standard deviations of its moves. A chain is lost if
    that is far below what it is at the chains' upper quartile in log density. Standard deviations
    count in a chain's favour only: a broad mode of low density may hold more than a narrow one of
    high density, but a chain that hardly moves may be in the best of places.
    """
    if not track.moves:
        return torch.zeros_like(state.log_density, dtype=torch.bool)
    density = track.log_density / track.moves
    best = density >= density.quantile(0.75)
    variance = track.square / track.moves - (track.position / track.moves) ** 2
    sd = variance.clamp(min=0).sqrt()
    least = 0.01 * sd.median(0).values  # a chain that never moved has not shown how narrow it is
    volume = sd.clamp(min=least).clamp(min=1e-30).log().sum(-1)
    room = (volume - volume[best].median()).clamp(min=0)
    deficit = density[best].min() - density - room
    return deficit > LOST + LOST_PER_DIM * state.position.shape[-1]


def elsewhere(state: State, leaving: Tensor) -> State:
    """The chains that leave begin again where others are."""
    index = torch.arange(len(leaving), device=leaving.device)
    others = index[~leaving]
    index[leaving] = others[
        torch.randint(len(others), (int(leaving.sum()),), device=leaving.device)
    ]
    return State(*(part[index] for part in state))
