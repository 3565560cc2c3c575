"""Draws for sequences that training never saw, with the modes' right weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_lebm.langevin import adapt, check_step_size, evaluate, mala_step
from pyro_lebm.program import Program
from pyro_lebm.series import Series
from pyro_lebm.smc import annealed_smc

from .draws import Draws, PointEstimate

Encode = Callable[[Series], dist.Normal]


def anneal(
    program: Program,
    series: Series,
    draws: int = 64,
    *,
    runs: int = 1,
    encode: Encode | None = None,
    inflation: float = 1.5,
    batch_size: int = 100,
    **options: Any,
) -> Draws:
    r"""Posterior draws by annealed sequential Monte Carlo, ending in adjusted steps.

    Particles go from a start density :math:`q` to the posterior along
    :math:`q^{1-\lambda} p(x, z)^{\lambda}`; the start is the model's own prior, or, with
    ``encode``, the encoder's Gaussian with its standard deviation inflated, an approximation that
    must cover the posterior for the weights to be right. The draws of one run share a population:
    independent ``runs`` become the chains of the result, and show what one population missed.

    Args:
        program: the model, read by a guide.
        series: the sequences, taken as a data set of their own.
        draws: particles a run, at least 2.
        runs: independent populations.
        encode: the encoder's Gaussian; None starts from the prior.
        inflation: factor on the encoder's standard deviation.
        batch_size: sequences annealed at once, which bounds memory.
        options: for `pyro_lebm.smc.annealed_smc`.

    Returns:
        draws ``(runs, draws, N, ...)`` with, in ``stats``, ``lp`` (unnormalised log joint),
        ``log_evidence`` (an estimate of :math:`\log p(x)`; from the encoder it lacks an energy
        prior's log Z), ``survivors`` and ``acceptance_rate``.

    Raises:
        ValueError: for fewer than two draws, one run or one sequence a batch, an inflation that is
            not positive, or a program with latent sites outside one plate of sequences.
    """
    if draws < 2 or runs < 1 or batch_size < 1:
        raise ValueError(
            "draws, runs, batch_size: expected at least 2, 1 and 1, got "
            f"{draws}, {runs} and {batch_size}"
        )
    if not inflation > 0:
        raise ValueError(f"inflation: expected a positive number, got {inflation}")
    check_plates(program)
    parts = []
    for rows in torch.arange(len(series), device=series.values.device).split(batch_size):
        parts.append(_anneal(program, series[rows], draws, runs, encode, inflation, options))
    return parts[0] if len(parts) == 1 else Draws.concat(parts)


def _anneal(
    program: Program,
    series: Series,
    draws: int,
    runs: int,
    encode: Encode | None,
    inflation: float,
    options: dict[str, Any],
) -> Draws:
    here = program.rebind(series)
    if encode is None:
        start = here.prior_draws(draws * runs)
    else:
        with torch.no_grad():
            q = encode(series)
            q = dist.Normal(q.loc, q.scale * inflation)
            start = q.sample(torch.Size((draws * runs,)))

    def path(z: Tensor) -> tuple[Tensor, Tensor]:
        prior, likelihood = here.log_parts(z)
        first = prior if encode is None else q.log_prob(z).sum(-1)
        return first, prior + likelihood

    shape = (draws, runs, len(series), here.dim)
    population = annealed_smc(path, start.reshape(shape), **options)
    # (draws, runs, ...) to (chains, draws, ...)
    samples = here.unpack(population.position.transpose(0, 1))
    per_run = {
        "log_evidence": population.log_evidence,
        "survivors": population.survivors,
        "acceptance_rate": population.acceptance,
    }
    stats = {name: value.unsqueeze(1).expand(runs, draws, -1) for name, value in per_run.items()}
    stats["lp"] = population.log_target.transpose(0, 1)
    origin = "prior" if encode is None else "encoder"
    return Draws(samples, stats, method=f"annealed SMC from the {origin}")


def chains(
    program: Program,
    series: Series,
    *,
    num_chains: int = 4,
    draws: int = 500,
    warmup: int = 500,
    steps: int = 1,
    step_size: float = 0.02,
) -> Draws:
    """Long Metropolis-adjusted chains from scattered starts: to diagnose, rather than to predict.

    Every chain starts at a prior draw, adapts its step size during warm-up and then stands fixed.
    R-hat over such chains tells whether a single one can be trusted to have found all modes; where
    it does not converge, `anneal` is the scheme to use.

    Args:
        program: the model, read by a guide.
        series: the sequences.
        num_chains: chains a sequence.
        draws: kept draws a chain.
        warmup: steps before them.
        steps: steps between kept draws.
        step_size: start of the adaptation.

    Returns:
        draws ``(num_chains, draws, N, ...)`` with ``lp``, ``acceptance_rate`` and ``step_size``.

    Raises:
        ValueError: for fewer than one chain, draw or step, a step size <= 0, or a program with
            latent sites outside one plate of sequences.
    """
    if num_chains < 1 or draws < 1 or warmup < 0 or steps < 1:
        raise ValueError(
            "num_chains, draws, warmup, steps: expected at least 1, 1, 0 and 1, got "
            f"{num_chains}, {draws}, {warmup} and {steps}"
        )
    check_step_size(step_size)
    check_plates(program)
    here = program.rebind(series)
    state = evaluate(here.log_density, here.prior_draws(num_chains))
    step = torch.full_like(state.log_density, step_size)
    for _ in range(warmup):
        state, acceptance = mala_step(here.log_density, state, step)
        step = adapt(step, acceptance)
    kept, rates = [], []
    for i in range(draws * steps):
        state, acceptance = mala_step(here.log_density, state, step)
        if i % steps == 0:
            kept.append(state)
            rates.append(acceptance)
    stats = {
        "lp": torch.stack([s.log_density for s in kept], 1),
        "acceptance_rate": torch.stack(rates, 1),
        "step_size": step.unsqueeze(1).expand(-1, draws, -1),
    }
    z = torch.stack([s.position for s in kept], 1)
    return Draws(here.unpack(z), stats, method="adjusted Langevin chains from the prior")


def check_plates(program: Program) -> None:
    """Refuse latent sites that are not one vector (or number) per sequence: see `Draws`."""
    for site in program.sites:
        if len(program.common) != 1 or site.plates != program.common:
            raise ValueError(
                f"model: expected each latent site in one plate, that of the sequences, got site "
                f"{site.name!r} in plates {site.plates}, common plates {program.common}"
            )


def best_draw(draws: Draws) -> PointEstimate:
    """The draw of highest log joint, per sequence: a point estimate, not a posterior.

    Raises:
        ValueError: if the draws carry no log joint.
    """
    if "lp" not in draws.stats:
        raise ValueError(f"draws: expected 'lp' in stats, got {sorted(draws.stats)}")
    lp = draws.stats["lp"].flatten(0, 1)
    best = lp.argmax(0)
    rows = torch.arange(draws.num_sequences, device=best.device)
    values = {name: draws.flat(name)[best, rows] for name in draws.sites}
    return PointEstimate(values, log_joint=lp[best, rows], method=f"best of {len(lp)} draws")
