"""Fitting the energy of a prior alone, the rest of the model held fixed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pyro
import torch
from pyro.poutine import condition
from torch import Tensor, nn

from pyro_lebm.base import FullNormal
from pyro_lebm.prior import EnergyPrior
from pyro_lebm.series import Series
from pyro_lebm.tilting.tilt import Tilt

from ..parallel.ranks import Ranks
from .fit import fit
from .history import History


def fit_prior(
    prior: EnergyPrior | Tilt,
    draws: Tensor | Mapping[str, Tensor],
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

    Of a `Tilt` the energy alone is learned: the program's conditionals stay what they are.

    A base that is a `FullNormal` is first given the mean and covariance of the draws, and again of
    those that are not left out, until none is.

    Args:
        prior: the prior of a trained model, changed in place.
        draws: unconstrained draws ``(n, dim)`` of the training sequences' posteriors, or of a
            `Tilt` the values ``(n, *event)`` of each of its sites; of several ranks, those of rank
            0.
        learning_rate: the energy's, and its base's.
        depth: draws whose log density under the base lies further below the mean of the base's own
            draws than this, in nats, are left out.
        options: for `fit`; at least ``max_steps`` or ``max_seconds``.

    Returns:
        the history; its loss is the negative unnormalised log density of the draws.

    Raises:
        ValueError: for draws of another shape or that are not finite, a depth that is not
            positive, where no draw is left, or for a `Tilt` whose program has plates of its own.

    Example:
        >>> import torch
        >>> from pyro_lebm.energy import MLPEnergy
        >>> prior = EnergyPrior(MLPEnergy(2), base=2, num_chains=64)
        >>> history = fit_prior(prior, 0.5 * torch.randn(200, 2), max_steps=5, progress=False)
        >>> len(history)
        5
    """
    alone = _TiltAlone(prior) if isinstance(prior, Tilt) else _PriorAlone(prior)
    draws = alone.rows(draws)
    dim = alone.base().event_shape.numel()
    if draws.ndim != 2 or draws.shape[1] != dim or len(draws) < 1:
        raise ValueError(f"draws: expected shape (n, {dim}), got {tuple(draws.shape)}")
    # Several ranks have drawn each their own.
    draws = Ranks().first(draws.detach()).to(draws.device)
    kept = _within(alone.base, draws, depth)
    if len(kept) < len(draws):
        warnings.warn(
            f"fit_prior: {len(draws) - len(kept)} of {len(draws)} draws are left out: they lie "
            f"more than {depth:g} nats below the base's own",
            stacklevel=2,
        )
    # A sequence of one time point whose features are the latent's coordinates.
    series = Series(kept.new_zeros(1), kept[:, None, :])
    rates = {"": learning_rate}  # all there is: not the tenth that `fit` gives an energy
    with alone.energy_alone():
        return fit(alone, _NoLatents(), series, learning_rates=rates, **options)


@torch.no_grad()
def _within(module: nn.Module, draws: Tensor, depth: float) -> Tensor:
    """The draws that the base reaches; one that is to match them matches those it keeps."""
    if not depth > 0:
        raise ValueError(f"depth: expected a positive number, got {depth}")
    if isinstance(module, FullNormal):
        module.match(draws)
    base = module()
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
    wider = isinstance(module, FullNormal)
    return _within(module, draws[near], depth) if wider else draws[near]


class _PriorAlone(nn.Module):
    """The program z ~ prior, observed.

    No PyroModule, which would take the prior out of the model that it is part of.
    """

    def __init__(self, prior: EnergyPrior) -> None:
        super().__init__()
        self.prior = prior

    @property
    def base(self) -> nn.Module:
        """What the energy tilts."""
        return self.prior.base

    def rows(self, draws: Tensor | Mapping[str, Tensor]) -> Tensor:
        """The draws as vectors."""
        if not isinstance(draws, Tensor):
            raise ValueError(f"draws: expected a tensor (n, dim), got {type(draws).__name__}")
        return draws

    def energy_alone(self) -> AbstractContextManager[Any]:
        """All that the prior has is learned."""
        return nullcontext()

    def forward(self, series: Series) -> None:
        with pyro.plate("sequences", series.total, subsample=series.index):
            pyro.sample("z", self.prior(), obs=series.values[:, 0])


class _TiltAlone(nn.Module):
    """The tilted program, its sites observed."""

    def __init__(self, prior: Tilt) -> None:
        super().__init__()
        if prior.own.structure.common:
            raise ValueError(
                "prior: expected a tilt that has its plates around it, got one of a program with "
                f"plates of its own, {list(prior.own.structure.common)}"
            )
        self.prior = prior

    @property
    def base(self) -> nn.Module:
        """The sites' own density, as vectors."""
        return self.prior.own

    def rows(self, draws: Tensor | Mapping[str, Tensor]) -> Tensor:
        """The draws as vectors."""
        if isinstance(draws, Tensor):
            return draws
        missing = [name for name in self.prior.names if name not in draws]
        if missing:
            raise ValueError(
                f"draws: expected values of {list(self.prior.names)}, got none of {missing}"
            )
        events = {site.name: site for site in self.prior.own.structure.sites}
        counts = {len(draws[name]) for name in self.prior.names if draws[name].ndim}
        for name in self.prior.names:
            expected = tuple(events[name].transform.forward_shape(events[name].event))
            if len(counts) != 1 or tuple(draws[name].shape[1:]) != expected:
                shapes = {n: tuple(draws[n].shape) for n in self.prior.names}
                raise ValueError(
                    f"draws: expected as many of each site, of {name!r} (n, *{expected}), got "
                    f"{shapes}"
                )
        return self.prior.own.rows(draws)

    @contextmanager
    def energy_alone(self) -> Iterator[None]:
        """Nothing moves but the energy."""
        moving = {id(p) for p in self.prior.energy_parameters()}
        held = [p for p in self.parameters() if id(p) not in moving and p.requires_grad]
        try:
            for p in held:
                p.requires_grad_(False)
            yield
        finally:
            for p in held:
                p.requires_grad_(True)

    def forward(self, series: Series) -> None:
        own = self.prior.own
        with pyro.plate("sequences", series.total, subsample=series.index):
            condition(self.prior, own.values(series.values[:, 0]))(*own.structure.args)


class _NoLatents(nn.Module):
    """The guide of a program without latent sites."""

    loss_name = "negative unnormalised log density"

    def forward(self, series: Series) -> None: ...
