"""Scores by which sequences unlike the training data can be told, each higher where stranger."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_lebm.series import Series
from pyro_lebm.tilting.energies import energies

from .draws import Draws
from .evidence import log_evidence
from .guides.guide import Guide
from .predict import check_sequences
from .scores import input_complexity


def strangeness(
    guide: Guide,
    series: Series,
    *,
    draws: Draws | None = None,
    num_draws: int = 32,
    log_p: Tensor | None = None,
    background: Tensor | None = None,
    limits: tuple[float, float] | None = None,
    batch_size: int = 50,
) -> dict[str, Tensor]:
    r"""Scores of each sequence, by name ``(N,)``, in nats; give them to `scores.detection`.

    ======================  ============================================================
    ``energy``              :math:`\mathrm{E}[E(z)]` over the posterior, of energy priors
    ``log joint``           :math:`-\max_z \log p(x, z)` over draws; normalised where log Z is
                            known, which changes no ranking
    ``prior``               :math:`-\mathrm{E}[\log p(z)]` over the posterior
    ``reconstruction``      :math:`-\mathrm{E}[\log p(x \mid z)]` over the posterior
    ``evidence``            :math:`-\log p(x)`
    ``input complexity``    :math:`-\log p(x) - C(x)` with a compressor's size C (Serra et al.
                            2020, arXiv 1909.11480)
    ``likelihood ratio``    :math:`\log p_b(x) - \log p(x)` with a background model b (Ren et al.
                            2019, arXiv 1906.02845)
    ======================  ============================================================

    All are summed over a sequence's observed entries, so that sequences to be compared should have
    as many of them. ``input complexity`` can be compared only between sequences of one call, or
    of calls with the same ``limits``.

    Args:
        guide: of the model, trained.
        series: N sequences, familiar and strange ones alike, or with ``limits`` some of them.
        draws: of the posterior; default ``num_draws`` of the guide's own.
        num_draws: how many.
        log_p: log p(x) ``(N,)`` if it is known already; else `log_evidence` estimates it.
        background: :math:`\log p_b(x)` ``(N,)`` of another model, such as one that learned from
            the same sequences with noise added; without it there is no likelihood ratio.
        limits: lowest and highest value for `scores.input_complexity`, the same in each call;
            default the least and the greatest of ``series``.
        batch_size: sequences at once.

    Raises:
        ValueError: for tensors of another shape, draws of another number of sequences, and as
            `input_complexity` and `log_evidence` do.
    """
    n = len(series)
    for name, given in (("log_p", log_p), ("background", background)):
        if given is not None and given.shape != (n,):
            raise ValueError(f"{name}: expected shape ({n},), got {tuple(given.shape)}")
    program = guide.program
    if draws is not None:
        check_sequences(draws, series)
    else:
        draws = guide.posterior(series, draws=num_draws)
    if log_p is None:
        log_p = log_evidence(guide, series, batch_size=batch_size).estimate
    prior, likelihood, energy = [], [], []
    for rows in torch.arange(n, device=series.values.device).split(batch_size):
        here = program.rebind(series[rows], **program.kwargs)
        z = here.pack({name: draws.select(rows).flat(name) for name in draws.sites})
        with torch.no_grad():
            of_prior, of_data = here.log_parts(z)
            prior.append(of_prior)
            likelihood.append(of_data)
            energy.append(energies(here, z))
    of_prior, of_data = torch.cat(prior, -1), torch.cat(likelihood, -1)
    found = {
        "log joint": -(of_prior + of_data).amax(0),
        "prior": -of_prior.mean(0),
        "reconstruction": -of_data.mean(0),
        "evidence": -log_p,
        "input complexity": -log_p - input_complexity(series, limits=limits).to(log_p),
    }
    if all(each is not None for each in energy):
        found["energy"] = torch.cat([e for e in energy if e is not None], -1).mean(0)
    if background is not None:
        found["likelihood ratio"] = background - log_p
    return found
