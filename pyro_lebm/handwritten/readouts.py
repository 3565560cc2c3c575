"""States at a slice of times, read off the nodes' cubic, and gradients written back to them."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_lebm.observations.problem import Band

from .workspace import Workspace


def read(work: Workspace, band: Band, first: int) -> None:
    """States at the band's times into ``work.path``; ``first`` is the first sequence's place."""
    if band.matrix is None:
        _read_each(work, band, first)
        return
    latent, times = len(work.path) - 1, len(band.matrix)
    rows = work.nodes[band.low : band.high + 1].flatten(0, 1)[:, :latent].transpose(0, 1)
    torch.bmm(band.matrix.expand(latent, -1, -1), rows, out=work.path[:latent, :times])


def write_back(work: Workspace, band: Band, first: int, g: Tensor) -> None:
    """Add gradients ``(L, times x lanes)`` at the band's times to ``work.gnodes``."""
    if band.matrix is None:
        _write_back_each(work, band, first, g)
        return
    latent, times = len(g), len(band.matrix)
    # once over to the nodes' order, which beats many small products in this one
    by_time = work.gpath[1, : g.numel()].view(times, latent, -1)
    by_time.copy_(g.view(latent, times, -1).transpose(0, 1))
    rows = work.gnodes[band.low : band.high + 1].view(band.matrix.shape[1], -1)
    rows.addmm_(band.matrix.t(), by_time.flatten(1))


def _read_each(work: Workspace, band: Band, first: int) -> None:
    index, weights = _each(work, band, first)
    latent, times = len(work.path) - 1, index.shape[1]
    rows = _by_latent(work, work.nodes)[:latent]
    path = work.path[:latent, :times].view(index.shape)
    part = work.gpath[0, : path.numel()].view(index.shape)
    for j, weight in enumerate(weights):
        torch.gather(rows[:, j : rows.shape[1] - 3 + j], 1, index, out=part)
        if j == 0:
            torch.mul(part, weight, out=path)
        else:
            path.addcmul_(part, weight)


def _write_back_each(work: Workspace, band: Band, first: int, g: Tensor) -> None:
    index, weights = _each(work, band, first)
    rows = _by_latent(work, work.gnodes)
    part = work.gpath[1, : g.numel()].view(index.shape)
    for j, weight in enumerate(weights):
        torch.mul(g.view(index.shape), weight, out=part)
        rows[:, j : rows.shape[1] - 3 + j].scatter_add_(1, index, part)


def _each(work: Workspace, band: Band, first: int) -> tuple[Tensor, Tensor]:
    """Of each latent, time, repetition and sequence, the first of its four rows; their weights."""
    size = work.size
    own = slice(first, first + size.sequences)
    index = band.rows[None, :, None, own].expand(len(work.path) - 1, -1, size.lead, -1)
    return index, band.weights[:, :, None, own]


def _by_latent(work: Workspace, nodes: Tensor) -> Tensor:
    """``(rows, 2 K + 2, lead, N)``."""
    rows = nodes.view(-1, *nodes.shape[2:-1], work.size.lead, work.size.sequences)
    return rows.transpose(0, 1)
