"""Fitting the energy of a prior alone, the rest of the model held fixed."""

from __future__ import annotations

import warnings
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor

from pyro_lebm.base import FullNormal
from pyro_lebm.prior import EnergyPrior
from pyro_lebm.series import Series

from ..parallel.ranks import Ranks
from .fit import fit
from .history import History


def fit_prior(
    prior: EnergyPrior,
    draws: Tensor,
    learning_rate: float = 3e-3,
    *,
    depth: float = 30.0,
    **options: Any,
) -> History:
    r"""Learn an energy from posterior draws, as empirical Bayes with a fixed generator.

    .. math:: \max_\theta \; \mathrm{E}_{x}\,\mathrm{E}_{p(z \mid x)} [\log p_\theta(z)]

    An iteration costs a few evaluations of the energy and no trajectory, so the prior can be made
    to fit the aggregated posterior long after the generator has converged (the second of the two
    stages of Cui, Wu & Han 2023, arXiv 2306.06323). What is fitted is a prior for *these* draws: if
    they are few or biased, so is the prior.

    A few draws may lie where the base has no mass at all. The slope that would reach them digs
    holes in between and beyond, where negatives seldom come: they are left out, with a warning.

    A base that is a `FullNormal` is first given the mean and covariance of the draws, and again of
    those that are not left out, until none is.

    Args:
        prior: the prior of a trained model, changed in place.
        draws: unconstrained draws ``(n, dim)`` of the training sequences' posteriors; of several
            ranks, those of rank 0.
        learning_rate: the energy's, and its base's.
        depth: draws whose log density under the base lies further below the mean of the base's own
            draws than this, in nats, are left out.
        options: for `fit`; at least ``max_steps`` or ``max_seconds``.

    Returns:
        the history; its loss is the negative unnormalised log density of the draws.

    Raises:
        ValueError: for draws of another shape or that are not finite, a depth that is not
            positive, or where no draw is left.

    Example:
        >>> import torch
        >>> from pyro_lebm.energy import MLPEnergy
        >>> prior = EnergyPrior(MLPEnergy(2), base=2, num_chains=64)
        >>> history = fit_prior(prior, 0.5 * torch.randn(200, 2), max_steps=5, progress=False)
        >>> len(history)
        5
    """
    dim = prior.base().event_shape.numel()
    if draws.ndim != 2 or draws.shape[1] != dim or len(draws) < 1:
        raise ValueError(f"draws: expected shape (n, {dim}), got {tuple(draws.shape)}")
    # Several ranks have drawn each their own.
    draws = Ranks().first(draws.detach()).to(draws.device)
    kept = _within(prior, draws, depth)
    if len(kept) < len(draws):
        warnings.warn(
            f"fit_prior: {len(draws) - len(kept)} of {len(draws)} draws are left out: they lie "
            f"more than {depth:g} nats below the base's own",
            stacklevel=2,
        )
    # A sequence of one time point whose features are the latent's coordinates.
    series = Series(kept.new_zeros(1), kept[:, None, :])
    rates = {"prior.": learning_rate}  # all there is: not the tenth that `fit` gives an energy
    return fit(_PriorAlone(prior), _NoLatents(), series, learning_rates=rates, **options)


@torch.no_grad()
def _within(prior: EnergyPrior, draws: Tensor, depth: float) -> Tensor:
    """The draws that the base reaches; one that is to match them matches those it keeps."""
    if not depth > 0:
        raise ValueError(f"depth: expected a positive number, got {depth}")
    if isinstance(prior.base, FullNormal):
        prior.base.match(draws)
    base = prior.base()
    log_base = base.log_prob(draws.reshape((-1, *base.event_shape)))
    with torch.random.fork_rng():
        typical = base.log_prob(base.sample(torch.Size((2048,)))).mean()
    # what is not finite is left in, for `fit` to refuse
    near = Ranks().first(~(log_base < typical - depth)).to(draws.device)
    if not bool(near.any()):
        raise ValueError(f"draws: expected some within {depth} nats of the base's own, got none")
    if bool(near.all()):
        return draws
    # far draws had widened a base that matches them, and may have hidden others
    wider = isinstance(prior.base, FullNormal)
    return _within(prior, draws[near], depth) if wider else draws[near]


class _PriorAlone(PyroModule):
    """The program z ~ prior, observed."""

    def __init__(self, prior: EnergyPrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, series: Series) -> None:
        with pyro.plate("sequences", series.total, subsample=series.index):
            pyro.sample("z", self.prior(), obs=series.values[:, 0])


class _NoLatents(PyroModule):
    """The guide of a program without latent sites."""

    loss_name = "negative unnormalised log density"

    def forward(self, series: Series) -> None: ...
