"""Predictions at any times, and log-likelihoods, of posterior draws: batched over draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_lebm.programs.reading import drawn_density
from pyro_lebm.series import Series

from .draws import Draws

Model = Callable[..., Any]

_DRAWS_DIM = -2  # the plate of draws lies outside the plate of sequences


@torch.no_grad()
def posterior_predict(
    model: Model,
    draws: Draws,
    series: Series,
    times: Tensor | None = None,
    *,
    covariates: Tensor | None = None,
    batch_size: int | None = None,
    mean: bool = False,
) -> Tensor:
    r"""Predictions for the sequences the draws belong to, one for every draw.

    .. math:: \tilde x^{(s)}_n \sim p(x \mid z^{(s)}_n, t), \qquad z^{(s)}_n \sim p(z \mid x_n)

    Args:
        model: called as ``model(times=, n=, covariates=)``; its site ``"x_new"`` is read.
        draws: of every latent site of the model, for the N sequences of ``series``. They do not
            know their times: for a model `bound_to_times` give the series that they are of.
        series: gives N and, where they are not given, times and covariates.
        times: ``(T,)`` or ``(N, T)``, in the units the model was trained in; None: the series' own.
        covariates: ``(N, T, C)`` at ``times``; needed with new times if the series has covariates.
        batch_size: draws at a time, which bounds the memory; None: all at once.
        mean: the emission's mean instead of a random value (less noisy where an error is wanted).

    Returns:
        ``(chains, draws, N, T, D)``, on the device of the draws.

    Raises:
        ValueError: if draws and series disagree, times are not increasing, covariates are missing,
            or the model does not sample ``"x_new"`` in its plate of sequences; for other times than
            the series' own, if the model's latent sites belong to those (`bound_to_times`).

    Example:
        >>> def model(series=None, *, times=None, n=None, covariates=None):
        ...     with pyro.plate("sequences", n):
        ...         z0 = pyro.sample("z0", pyro.distributions.Normal(0, torch.ones(1)).to_event(1))
        ...         path = z0[..., None, :] * times[:, None]
        ...         pyro.sample("x_new", pyro.distributions.Normal(path, 0.1).to_event(2))
        >>> series = Series(torch.arange(3.0), torch.zeros(5, 3, 1))
        >>> draws = Draws({"z0": torch.ones(4, 25, 5, 1)})
        >>> path = posterior_predict(model, draws, series, torch.tensor([0.0, 6.0]), mean=True)
        >>> path.shape, path[0, 0, 0, :, 0].tolist()
        (torch.Size([4, 25, 5, 2, 1]), [0.0, 6.0])
    """
    check_sequences(draws, series)
    arguments = _new_points(series, times, covariates)
    if getattr(model, "bound_to_times", False):
        _refuse_other_times(series, arguments["times"])
    parts = []
    for values, size in _batches(draws, batch_size):
        nodes = _run(model, values, size, **arguments)
        site = _site(nodes, "x_new")
        value = site["fn"].mean if mean else site["value"]
        if value.dim() != 4 or value.shape[:2] != (size, len(series)):
            raise ValueError(
                f"model: expected site 'x_new' of shape {(size, len(series))} + (T, D) for "
                f"{size} draws of {len(series)} sequences, got {tuple(value.shape)}"
            )
        parts.append(value)
    return _by_chain(parts, draws)


@torch.no_grad()
def log_likelihood(
    model: Model, draws: Draws, series: Series, *, batch_size: int | None = None
) -> Tensor:
    r"""Conditional log-likelihood :math:`\log p(x_n \mid z^{(s)}_n)` of each sequence, in nats.

    It is summed over the observed entries of a sequence. A latent of that very sequence is
    conditioned on, so this is not the marginal likelihood, and not for leave-one-out of parameters.

    Args:
        model: called as ``model(series)``; its site ``"x"`` is scored, its prior is not.
        draws: of every latent site of the model, for the N sequences of ``series``.
        series: the data; a minibatch's scale is left out.
        batch_size: draws at a time; None: all at once.

    Returns:
        ``(chains, draws, N)``.

    Raises:
        ValueError: if draws and series disagree, the model observes no ``"x"`` per sequence, or its
            density of ``"x"`` is an estimate that is drawn anew at each call.

    Example:
        >>> def model(series):
        ...     with pyro.plate("sequences", len(series)):
        ...         z0 = pyro.sample("z0", pyro.distributions.Normal(0, torch.ones(1)).to_event(1))
        ...         x = pyro.distributions.Normal(z0[..., None, :], torch.ones(3, 1))
        ...         pyro.sample("x", x.mask(series.mask).to_event(2), obs=series.filled)
        >>> series = Series(torch.arange(3.0), torch.zeros(5, 3, 1))
        >>> draws = Draws({"z0": torch.zeros(4, 25, 5, 1)})
        >>> density = log_likelihood(model, draws, series)
        >>> density.shape, round(density[0, 0, 0].item(), 3)
        (torch.Size([4, 25, 5]), -2.757)
    """
    check_sequences(draws, series)
    parts = []
    for values, size in _batches(draws, batch_size):
        site = _site(_run(model, values, size, series), "x")
        if drawn_density(site["fn"]):
            raise ValueError(
                "model: expected a density of site 'x', got an estimate of one that is drawn anew "
                "at each call; score predictions by their errors"
            )
        # The mask counts and the scale of a subsampled plate does not.
        density = scale_and_mask(site["fn"].log_prob(site["value"]), 1.0, site["mask"])
        if density.dim() > 2 or density.shape[-1:] != (len(series),):
            raise ValueError(
                f"model: expected one log-density of site 'x' for each of {len(series)} sequences, "
                f"got shape {tuple(density.shape)}"
            )
        parts.append(density.expand(size, len(series)))
    return _by_chain(parts, draws)


def log_score(
    model: Model, draws: Draws, given: Series, target: Series, *, batch_size: int | None = None
) -> float:
    r"""Held-out predictive log score of the hidden points, in nats a hidden entry: more is better.

    .. math:: \frac{1}{\sum_n H_n} \sum_n \log \frac1S \sum_s p(x^{hid}_n \mid z^{(s)}_n),
        \qquad z^{(s)}_n \sim p(z \mid x^{given}_n)

    with :math:`H_n` hidden entries of sequence n. It is a proper score of the joint prediction
    (Gneiting and Raftery 2007); with few draws it is biased downward.

    Args:
        model: the generative program.
        draws: for the sequences of ``given``, which saw no more than its observed entries.
        given: what the draws saw.
        target: the same sequences; scored is what it has observed and ``given`` has not. On other
            times than ``given`` everything it has observed is scored.
        batch_size: draws at a time; None: all at once.

    Raises:
        ValueError: if nothing is hidden, or sizes disagree; for a target on other times, if the
            model's latent sites belong to those of ``given`` (`bound_to_times`); and as
            `log_likelihood` does.

    Example:
        >>> def model(series):
        ...     with pyro.plate("sequences", len(series)):
        ...         z0 = pyro.sample("z0", pyro.distributions.Normal(0, torch.ones(1)).to_event(1))
        ...         x = pyro.distributions.Normal(z0[..., None, :], torch.ones(3, 1))
        ...         pyro.sample("x", x.mask(series.mask).to_event(2), obs=series.filled)
        >>> series = Series(torch.arange(3.0), torch.zeros(5, 3, 1))
        >>> draws = Draws({"z0": torch.zeros(4, 25, 5, 1)})  # of inference from the times up to 1
        >>> round(log_score(model, draws, given=series.until(1.0), target=series), 3)
        -0.919
    """
    if len(target) != len(given):
        raise ValueError(
            f"target: expected the {len(given)} sequences of given, got {len(target)} sequences"
        )
    if getattr(model, "bound_to_times", False):
        _refuse_other_times(given, target.times, name="target")
    if target.mask.shape == given.mask.shape and torch.equal(target.times, given.times):
        target = target.without(given)
    hidden = int(target.mask.sum())
    if hidden == 0:
        raise ValueError("target: expected entries observed that given hides, got none")
    density = log_likelihood(model, draws, target, batch_size=batch_size).flatten(0, 1)
    # A sequence without hidden entries has density 1 under every draw: it adds nothing.
    score = density.double().logsumexp(0) - math.log(len(density))
    return float(score.sum() / hidden)


def prior_draws(
    model: Model, series: Series, num_draws: int, *, batch_size: int | None = None
) -> Draws:
    """Draws of the model's latent sites before any data: one chain of independent draws.

    Args:
        model: called as ``model(times=, n=, covariates=)``.
        series: gives the number of sequences, times and covariates; its values are not used.
        num_draws: how many for each sequence.
        batch_size: draws at a time; None: all at once.

    Returns:
        one chain of ``num_draws``, each site ``(1, num_draws, N, *event)``.

    Raises:
        ValueError: if fewer than one draw is asked for, or at a time.

    Example:
        >>> def model(*, times, n, covariates=None):
        ...     with pyro.plate("sequences", n):
        ...         z0 = pyro.sample("z0", pyro.distributions.Normal(0, torch.ones(1)).to_event(1))
        ...         path = z0[..., None, :] * times[:, None]
        ...         pyro.sample("x_new", pyro.distributions.Normal(path, 0.1).to_event(2))
        >>> series = Series(torch.arange(3.0), torch.zeros(5, 3, 1))
        >>> draws = prior_draws(model, series, num_draws=100)
        >>> draws.sites, draws.samples["z0"].shape
        (('z0',), torch.Size([1, 100, 5, 1]))
    """
    if num_draws < 1:
        raise ValueError(f"num_draws: expected at least 1, got {num_draws}")
    parts: list[dict[str, Tensor]] = []
    with torch.no_grad():
        for size in _sizes(num_draws, batch_size):
            nodes = _run(model, {}, size, **_new_points(series, None, None))
            parts.append(
                {name: node["value"] for name, node in nodes.items() if _is_latent(name, node)}
            )
    samples = {name: torch.cat([part[name] for part in parts])[None] for name in parts[0]}
    return Draws(samples, method="prior")


def _refuse_other_times(series: Series, times: Tensor, name: str = "times") -> None:
    known = series.times.expand(len(series), -1)
    if times.shape[-1] != known.shape[-1] or not torch.equal(times.expand_as(known), known):
        raise ValueError(
            f"{name}: expected the times that the draws are of, as each step of this model was "
            "drawn between two of them, got others; for a forecast give a series whose end is "
            "hidden"
        )


def _run(
    model: Model, values: dict[str, Tensor], size: int, *args: Any, **kwargs: Any
) -> dict[str, Any]:
    """Sites of one run of the model, ``size`` draws side by side, hidden from outer handlers."""
    conditioned = poutine.condition(model, data=values)
    with poutine.block(), pyro.plate("_draws", size, dim=_DRAWS_DIM):
        nodes: dict[str, Any] = dict(poutine.trace(conditioned).get_trace(*args, **kwargs).nodes)
    for name, node in nodes.items():
        if values and name not in values and _is_latent(name, node):
            raise ValueError(f"draws: expected values of the latent site {name!r}, got {[*values]}")
    return nodes


def _is_latent(name: str, node: Any) -> bool:
    free = node["type"] == "sample" and not node["is_observed"] and not site_is_subsample(node)
    return bool(free and name != "x_new")


def _site(nodes: dict[str, Any], name: str) -> dict[str, Any]:
    if name not in nodes:
        sites = [name for name, node in nodes.items() if node["type"] == "sample"]
        raise ValueError(f"model: expected a sample site {name!r}, got {sites}")
    node: dict[str, Any] = nodes[name]
    return node


def _sizes(total: int, batch_size: int | None) -> Iterator[int]:
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    step = batch_size or total
    for start in range(0, total, step):
        yield min(step, total - start)


def _batches(draws: Draws, batch_size: int | None) -> Iterator[tuple[dict[str, Tensor], int]]:
    """Values of a few draws of all chains, ``(size, N, *event)``, and their number."""
    flat = {name: draws.flat(name) for name in draws.sites}
    start = 0
    for size in _sizes(draws.num_chains * draws.num_draws, batch_size):
        yield {name: value[start : start + size] for name, value in flat.items()}, size
        start += size


def _by_chain(parts: list[Tensor], draws: Draws) -> Tensor:
    whole = torch.cat(parts)
    return whole.reshape(draws.num_chains, draws.num_draws, *whole.shape[1:])


def check_sequences(draws: Draws, series: Series) -> None:
    """Refuse draws of another number of sequences."""
    if draws.num_sequences != len(series):
        raise ValueError(
            f"draws: expected draws for the {len(series)} sequences of series, "
            f"got {draws.num_sequences}"
        )


def _new_points(series: Series, times: Tensor | None, covariates: Tensor | None) -> dict[str, Any]:
    """The model's arguments for a prediction: the series' own times, or new ones after a check."""
    n = len(series)
    if times is None:
        if covariates is not None:
            raise ValueError("covariates: expected none without times, the series has its own")
        return {"times": series.times, "n": n, "covariates": series.covariates}
    times = torch.as_tensor(times, dtype=series.values.dtype, device=series.values.device)
    if times.dim() not in (1, 2) or times.shape[-1] < 1 or times.shape[:-1] not in ((), (n,)):
        raise ValueError(f"times: expected shape (T,) or ({n}, T), got {tuple(times.shape)}")
    # A sequence's own times may repeat the last one, which is padding.
    falls = times.diff(dim=-1) <= 0 if times.dim() == 1 else times.diff(dim=-1) < 0
    if not torch.isfinite(times).all() or falls.any():
        raise ValueError("times: expected finite and strictly increasing times")
    if series.covariates is not None and covariates is None:
        raise ValueError("covariates: expected values at the new times, as series has them")
    if covariates is not None and covariates.shape[:2] != (n, times.shape[-1]):
        raise ValueError(
            f"covariates: expected shape ({n}, {times.shape[-1]}, C), got {tuple(covariates.shape)}"
        )
    return {"times": times, "n": n, "covariates": covariates}
