"""Draws for sequences that training never saw, with the modes' right weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_lebm.annealing.bridge import Path
from pyro_lebm.annealing.smc import annealed_smc
from pyro_lebm.distribution import EnergyBased, annealed_draws, drawn_by, is_real
from pyro_lebm.dynamics.langevin import adapt, check_step_size, evaluate, mala_step
from pyro_lebm.number_checks import check_whole
from pyro_lebm.programs.program import Program
from pyro_lebm.series import Series, check_series
from pyro_lebm.tilting.energies import log_constants

from .draws import Draws, PointEstimate

Encode = Callable[[Series], dist.Normal]


def anneal(
    program: Program,
    series: Series,
    draws: int = 64,
    *,
    runs: int = 1,
    encode: Encode | None = None,
    inflation: float = 5.0,
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
        options: for `pyro_lebm.annealing.smc.annealed_smc`.

    Returns:
        draws ``(runs, draws, N, ...)`` with, in ``stats``, ``lp`` (unnormalised log joint),
        ``log_evidence`` (an estimate of :math:`\log p(x)`), ``survivors`` and
        ``acceptance_rate``.

    Raises:
        TypeError: for a series that is no `Series`, or draws, runs or a batch size that are no
            whole number.
        ValueError: for fewer than two draws, one run or one sequence a batch, an inflation that is
            not positive, or a program with latent sites outside one plate of sequences.
    """
    check_series(series)
    check_whole(draws=draws, runs=runs, batch_size=batch_size)
    if draws < 2 or runs < 1 or batch_size < 1:
        raise ValueError(
            "draws, runs, batch_size: expected at least 2, 1 and 1, got "
            f"{draws}, {runs} and {batch_size}"
        )
    if not inflation > 0:
        raise ValueError(f"inflation: expected a positive number, got {inflation}")
    check_plates(program)
    # a path that starts at the prior leaves its constant out by itself
    log_z = None if encode is None else log_constants(_on(program, series))
    parts = []
    for rows in torch.arange(len(series), device=series.values.device).split(batch_size):
        parts.append(_anneal(program, series[rows], draws, runs, encode, inflation, log_z, options))
    return parts[0] if len(parts) == 1 else Draws.concat(parts)


def _anneal(
    program: Program,
    series: Series,
    draws: int,
    runs: int,
    encode: Encode | None,
    inflation: float,
    log_z: Tensor | None,
    options: dict[str, Any],
) -> Draws:
    n = len(series)
    here = _on(program, series)
    if encode is None:
        q = None
        # The weights hold for draws of the prior itself, not for short runs or chains; and runs
        # are independent only if their prior draws are.
        with drawn_by(_exact):
            start = torch.stack([here.prior_draws(draws) for _ in range(runs)], 1)
    else:
        with torch.no_grad():
            q = encode(series)
            q = dist.Normal(q.loc, q.scale * inflation)
            start = q.sample(torch.Size((draws, runs)))

    def path(which: Tensor) -> Path:
        """That of some of the ``runs * n`` problems."""
        rows = which % n
        part = _on(program, series[rows])
        first = None if q is None else dist.Normal(q.loc[rows], q.scale[rows])

        def ends(z: Tensor) -> tuple[Tensor, Tensor]:
            prior, likelihood = part.log_parts(z)
            return prior if first is None else first.log_prob(z).sum(-1), prior + likelihood

        return ends

    problems = torch.arange(runs * n, device=start.device)
    start = start.reshape(draws, runs * n, here.dim)
    population = annealed_smc(path(problems), start, narrow=path, **options)

    def by_run(value: Tensor) -> Tensor:
        """``(draws, runs * n, ...)`` to ``(runs, draws, n, ...)``."""
        return value.reshape((draws, runs, n, *value.shape[2:])).transpose(0, 1)

    evidence = population.log_evidence
    per_problem = {
        "log_evidence": evidence if log_z is None else evidence - log_z,
        "survivors": population.survivors,
        "acceptance_rate": population.acceptance,
    }
    stats = {name: by_run(value.expand(draws, -1)) for name, value in per_problem.items()}
    stats["lp"] = by_run(population.log_target)
    samples = here.unpack(by_run(population.position))
    origin = "prior" if encode is None else "encoder"
    return Draws(samples, stats, method=f"annealed SMC from the {origin}")


def _exact(distribution: EnergyBased, n: int) -> Tensor:
    """Annealed draws, but for a base of constrained support, which its own sampler has to draw."""
    if distribution.sampler is not None and not is_real(distribution.base.support):
        return distribution.sampler(distribution, n)
    return annealed_draws(distribution, n)


def anneal_twice(
    program: Program,
    series: Series,
    draws: int = 64,
    *,
    encode: Encode,
    margin: float = 1.0,
    particles: int | None = None,
    batch_size: int = 100,
    **options: Any,
) -> Draws:
    r"""Anneal from the prior and, independently, from the encoder; where they disagree, try harder.

    An estimate :math:`\hat Z` of the evidence :math:`p(x)` by annealing has nearly the right mean,
    so that it seldom exceeds it by much (:math:`P(\hat Z > k\,p(x)) \le 1/k`), but a population
    that lost much of the posterior on its way falls short of it. Where :math:`\log\hat Z` from the
    encoder exceeds that from the prior by more than ``margin``, a few ``draws`` from the prior were
    too few, and a larger population is annealed from there. Only if that falls short too are the
    encoder's draws taken: they are near the posterior, but an encoder may know one mode of several.

    Args:
        program, series, draws, batch_size, options: as for `anneal`.
        encode: the encoder's Gaussian.
        margin: in nats.
        particles: size of the larger population, of which ``draws`` are kept, by default six times
            as many; ``draws`` for none. Weights of modes that lie apart take hundreds.

    Returns:
        as `anneal`, with ``from_encoder`` (0 or 1, per run and sequence) in ``stats``.

    Raises:
        ValueError: for a negative margin, and as `anneal` does.
    """
    if not margin >= 0:
        raise ValueError(f"margin: expected 0 or more nats, got {margin}")
    particles = 6 * draws if particles is None else particles
    options["batch_size"] = batch_size
    prior = anneal(program, series, draws, **options)
    encoder = anneal(program, series, draws, encode=encode, **options)
    short = _exceeds(encoder, prior, margin).any(0).nonzero().squeeze(-1)
    if len(short) and particles > draws:
        options["batch_size"] = max(1, batch_size * draws // particles)  # as much memory as before
        larger = anneal(program, series[short], particles, **options).thin(particles // draws)
        prior = _merge(prior, larger, lambda a, b: a.index_copy(2, short, b[:, :draws]))
    taken = _exceeds(encoder, prior, margin).unsqueeze(1)

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(taken.reshape(taken.shape + (1,) * (a.ndim - 3)), b, a)

    found = _merge(prior, encoder, pick)
    share = {"from_encoder": taken.expand(prior.shape).to(found.stats["lp"])}
    method = "annealed SMC from the prior, or the encoder by evidence"
    return Draws(found.samples, {**found.stats, **share}, method)


def _exceeds(a: Draws, b: Draws, margin: float) -> Tensor:
    """Per run and sequence, whether ``a`` has clearly more evidence; NaN has not."""
    return (a.stats["log_evidence"] > b.stats["log_evidence"] + margin)[:, 0]


def _merge(a: Draws, b: Draws, how: Callable[[Tensor, Tensor], Tensor]) -> Draws:
    samples = {name: how(a[name], b[name]) for name in a.sites}
    return Draws(samples, {name: how(value, b.stats[name]) for name, value in a.stats.items()})


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
    here = _on(program, series)
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


def _on(program: Program, series: Series) -> Program:
    """The program on other sequences, with the settings that its guide was built with."""
    return program.rebind(series, **program.kwargs)


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
