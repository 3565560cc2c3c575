"""The marginal likelihood of sequences, normalised, from below and from above."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_lebm.annealing.ais import check_settings, log_ratio
from pyro_lebm.annealing.ratio import LogRatio
from pyro_lebm.programs.program import Program
from pyro_lebm.series import Series
from pyro_lebm.tilting.energies import estimated, unnormalised

from .draws import Draws
from .guides.guide import Guide
from .posterior import check_plates
from .predict import check_sequences

PILOT = 32  # draws of the start on which the schedule is tuned
SHRINK = 0.1  # share of the diagonal in the start's covariance


def log_evidence(
    guide: Guide,
    series: Series,
    *,
    particles: int = 32,
    repeats: int = 4,
    rungs: int = 100,
    moves: int = 1,
    draws: Draws | None = None,
    exact: bool = False,
    inflation: float = 1.5,
    batch_size: int = 50,
    level: float = 0.95,
    progress: bool = False,
    **options: Any,
) -> LogRatio:
    r"""Estimate :math:`\log p(x_n)` of each sequence, all latents integrated out.

    By annealed importance sampling (see `annealing.ais.log_ratio`) from a normal distribution, per
    sequence, of the mean and the covariance of the guide's annealed draws, its standard deviations
    inflated: exact draws of it are had, and the way to :math:`p(x, z)` is short. The reverse way
    starts at ``draws``. Of a sequence simulated from the model there is one exact draw, the latents
    that it was made from; from so few ``upper`` is a wide bound (see `LogRatio.upper`). Without
    exact draws other annealed ones serve, and give an estimate and no bound.

    A prior's log Z is taken at its estimate, and its own bounds widen those of log p(x), all at one
    joint level: ``upper`` needs log Z's ``lower``, and ``lower`` its ``upper``. Where log Z was
    estimated without exact draws of the prior, as it is by default, there is no ``lower``.

    Args:
        guide: any guide of the model. Whatever it knows, the estimate is of the model; an encoder
            helps to find posteriors that lie far from the prior.
        series: N sequences.
        particles: of a repeat, each way; at least 2 without ``draws``.
        repeats: independent groups of particles.
        rungs: temperatures; more of them make the gap smaller.
        moves: Langevin steps at each.
        draws: of the posterior, for the way back; at least one per repeat for a narrow interval.
        exact: whether those given are exact and independent: then ``upper`` is a bound.
        inflation: factor on the standard deviations of the normal distribution.
        batch_size: sequences at once, which bounds memory.
        level: confidence of the bounds, for each sequence.
        progress: show a bar for each batch.
        options: of the annealing that finds the normal distributions, see `Guide.annealed`.

    Returns:
        log ratios of shape ``(N,)``, in nats, with what is known of log Z among ``constants``.

    Warns:
        RuntimeWarning: where a sequence's weights rest on too few particles.

    Raises:
        ValueError: for a prior whose log Z is not known (see `pyro_lebm.log_z`), ``exact`` without
            draws, draws of another number of sequences or with NaN, particles, an inflation or a
            batch size out of range, and as `log_ratio` and `anneal` do.
    """
    program = guide.program
    check_plates(program)
    check_settings(repeats, rungs, moves, level)
    _check(series, draws, exact, particles, inflation, batch_size)
    if lacking := unnormalised(program):
        raise ValueError(
            f"guide: expected a model whose priors' log Z is known, got none for "
            f"{', '.join(lacking)}; estimate it with pyro_lebm.log_z(prior)"
        )
    settings = {"repeats": repeats, "rungs": rungs, "moves": moves, "exact": exact, "level": level}
    parts = []
    for rows in torch.arange(len(series), device=series.values.device).split(batch_size):
        part = series[rows]
        near = guide.annealed(part, max(particles, 64), batch_size=batch_size, **options)
        if draws is None:
            back = guide.annealed(part, particles, runs=repeats, batch_size=batch_size, **options)
        else:
            back = draws.select(rows)
        parts.append(
            _both_ways(
                program.rebind(part, **program.kwargs),
                _packed(program, near),
                _packed(program, back),
                particles * repeats,
                inflation,
                progress=progress,
                **settings,
            )
        )
    forward, backward = (
        torch.cat(each, -1) for each in zip(*((p.forward, p.backward) for p in parts), strict=True)
    )
    return LogRatio(forward, backward, exact, level, estimated(program))


def _check(
    series: Series,
    draws: Draws | None,
    exact: bool,
    particles: int,
    inflation: float,
    batch_size: int,
) -> None:
    least = 2 if draws is None else 1  # populations to begin the way back with are of so many
    if particles < least:
        raise ValueError(f"particles: expected at least {least}, got {particles}")
    if not inflation > 0 or batch_size < 1:
        raise ValueError(
            "inflation, batch_size: expected more than 0 and at least 1, got "
            f"{inflation} and {batch_size}"
        )
    if draws is None:
        if exact:
            raise ValueError("draws: expected exact ones for exact=True, got None")
        return
    check_sequences(draws, series)
    if not all(bool(draws[name].isfinite().all()) for name in draws.sites):
        raise ValueError("draws: expected finite ones, got NaN or inf")


def _packed(program: Program, draws: Draws) -> Tensor:
    """Positions ``(draws, N, dim)``, whichever chain they are of."""
    return program.pack({name: draws.flat(name) for name in draws.sites})


def _both_ways(
    program: Program, near: Tensor, back: Tensor, particles: int, inflation: float, **settings: Any
) -> LogRatio:
    """In coordinates in which the start is N(0, I)."""
    normal = Normals.of(near, inflation)
    dim, volume = near.shape[-1], normal.log_determinant

    def path(y: Tensor) -> tuple[Tensor, Tensor]:
        start = -0.5 * (y * y).sum(-1) - 0.5 * dim * math.log(2 * math.pi)
        return start, program.log_density(normal.position(y)) + volume

    def standard(n: int) -> Tensor:
        return torch.randn(n, *near.shape[1:], dtype=near.dtype, device=near.device)

    target = normal.white(back)[torch.randperm(len(back))]
    return log_ratio(path, standard(particles), target, pilot=standard(PILOT), **settings)


class Normals(NamedTuple):
    """A normal distribution for each sequence: means ``(N, dim)``, factors ``(N, dim, dim)``."""

    loc: Tensor
    factor: Tensor

    @classmethod
    def of(cls, draws: Tensor, inflation: float) -> Normals:
        """Of the draws' moments, ``(n, N, dim)``, correlations shrunk, and inflated."""
        loc = draws.mean(0)
        centred = (draws - loc).double()
        cov = torch.einsum("nsi,nsj->sij", centred, centred) / (len(draws) - 1)
        alone = torch.diag_embed(torch.diagonal(cov, dim1=-2, dim2=-1).clamp(min=1e-12))
        factor = torch.linalg.cholesky((1 - SHRINK) * cov + SHRINK * alone)
        return cls(loc, (inflation * factor).to(draws))

    @property
    def log_determinant(self) -> Tensor:
        """Of the factors, ``(N)``."""
        return torch.diagonal(self.factor, dim1=-2, dim2=-1).log().sum(-1)

    def position(self, y: Tensor) -> Tensor:
        """``(*leading, N, dim)`` from where each is N(0, I)."""
        return self.loc + torch.einsum("sij,...sj->...si", self.factor, y)

    def white(self, z: Tensor) -> Tensor:
        """The other way."""
        gap = (z - self.loc).unsqueeze(-1)
        found: Tensor = torch.linalg.solve_triangular(self.factor, gap, upper=False)
        return found.squeeze(-1)
