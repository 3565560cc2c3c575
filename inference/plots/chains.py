"""Pictures of chains: traces, ranks, autocorrelation, and how many latents have converged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import arviz
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from scipy.stats import rankdata

from ..draws import Draws
from ..export import to_arviz
from .panels import CYCLE, INK, Picture, array, legend, tidy


def plot_chains(
    draws: Draws,
    *,
    site: str = "z0",
    sequence: int = 0,
    components: Sequence[int] = (0, 1),
    max_lag: int = 50,
) -> Figure:
    """Trace, ranks and autocorrelation of a sequence's latents, a row each, a colour a chain.

    Ranks are those of a draw among the draws of all chains (Vehtari et al. 2021): where chains
    agree, each chain's histogram is flat.

    Args:
        draws: of several chains.
        site: the latent site, with an event of one dimension.
        sequence: which sequence.
        components: which of its latents.
        max_lag: of the autocorrelation, in draws.

    Raises:
        ValueError: if the site's event has not one dimension, or an index is outside.
    """
    values = array(draws[site])
    if values.ndim != 4:
        raise ValueError(f"site: expected an event of one dimension, got shape {values.shape}")
    if not (sequence < values.shape[2] and max(components) < values.shape[3]):
        raise ValueError(f"sequence, components: expected positions inside {values.shape[2:]}")
    figure = Picture(figsize=(10.5, 2.0 * len(components) + 0.5), layout="constrained")
    grid = figure.subplots(len(components), 3, squeeze=False, width_ratios=(2, 1, 1), sharex="col")
    for row, component in zip(grid, components, strict=True):
        chains = values[:, :, sequence, component]
        _draw_chains(row, chains, min(max_lag, chains.shape[1] - 1))
        row[0].set_ylabel(f"{site}[{component}]")
    for ax, title in zip(grid[0], ("trace", "ranks", "autocorrelation"), strict=True):
        ax.set_title(title, fontsize=10, loc="left")
    for ax, label in zip(grid[-1], ("draw", "rank of all draws", "lag (draws)"), strict=True):
        ax.set_xlabel(label)
    return figure


def plot_convergence(
    chains: Mapping[str, Draws], *, site: str = "z0", rhat: float = 1.01, ess: float = 400.0
) -> Figure:
    """How many latents have converged: R-hat, bulk and tail ESS of several runs, cumulative.

    Short chains that train a model are not converged by design; long ones from many starts, beside
    them, tell what the posterior really is. R-hat and ESS are those of Vehtari et al. (2021).

    Args:
        chains: run's name -> draws; the same latents in each, several chains.
        site: the latent site.
        rhat: what is called converged.
        ess: the same, of effective draws.

    Raises:
        ValueError: if there is no run, or one has fewer than 2 chains or 4 draws.
    """
    if not chains:
        raise ValueError("chains: expected at least one run, got none")
    figure = Picture(figsize=(10.5, 3.2), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    for (name, draws), colour in zip(chains.items(), CYCLE, strict=False):
        if draws.num_chains < 2 or draws.num_draws < 4:
            raise ValueError(
                f"chains[{name!r}]: expected at least 2 chains of 4 draws, "
                f"got {draws.num_chains} of {draws.num_draws}"
            )
        for ax, found in zip(axes, _diagnostics(draws, site), strict=True):
            ax.ecdf(found, color=colour, lw=1.8, label=name)
    titles = ("R-hat", "bulk ESS (draws)", "tail ESS (draws)")
    for ax, title, bound in zip(axes, titles, (rhat - 1, ess, ess), strict=True):
        ax.axvline(bound, color=INK, lw=0.8, ls=":")
        label = f"{rhat:g}" if ax is axes[0] else f"{ess:g}"
        ax.text(bound, 1.02, label, fontsize=8, ha="center", transform=ax.get_xaxis_transform())
        ax.set(xscale="log", xlabel=title)
        ax.margins(x=0.06)
        ax.xaxis.set_minor_formatter(NullFormatter())
        tidy(ax)
    # The scale is that of R-hat − 1, the labels are R-hat's.
    axes[0].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{1 + value:g}"))
    for ax in axes[1:]:
        low, high = ax.get_xlim()
        ax.set_xlim(min(low, 5), max(high, 1000))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes[0].set_ylabel("fraction of latents below")
    legend(figure, axes[0])
    return figure


def _draw_chains(row: Any, chains: np.ndarray, max_lag: int) -> None:
    """Trace, rank histogram and autocorrelation of ``(chains, draws)`` into three axes."""
    trace, ranks, correlation = row
    order = rankdata(chains).reshape(chains.shape)
    bins = np.linspace(0.5, chains.size + 0.5, min(20, max(4, chains.shape[1] // 10)) + 1)
    for c, chain in enumerate(chains):
        colour = CYCLE[c % len(CYCLE)]
        trace.plot(chain, color=colour, lw=0.6, alpha=0.75)
        counts, _ = np.histogram(order[c], bins)
        ranks.stairs(counts * (len(bins) - 1) / chains.shape[1], bins, color=colour, lw=1.2)
        correlation.plot(_autocorrelation(chain)[: max_lag + 1], color=colour, lw=1.2)
    ranks.axhline(1, color=INK, lw=0.8, ls=":")
    ranks.set(ylim=(0, None), ylabel="relative frequency")
    correlation.axhline(0, color=INK, lw=0.8, ls=":")
    correlation.set_ylim(min(-0.2, correlation.get_ylim()[0]), 1.05)
    trace.margins(x=0.01)
    for ax in row:
        tidy(ax)


def _autocorrelation(chain: np.ndarray) -> np.ndarray:
    centred = chain - chain.mean()
    power = np.abs(np.fft.rfft(centred, 2 * len(chain))) ** 2
    covariance = np.fft.irfft(power)[: len(chain)]
    return np.asarray(covariance / covariance[0]) if covariance[0] > 0 else np.ones(len(chain))


def _diagnostics(draws: Draws, site: str) -> list[np.ndarray]:
    data = to_arviz(Draws({site: draws[site]}))
    library: Any = arviz
    found = library.rhat(data), library.ess(data, method="bulk"), library.ess(data, method="tail")
    rhat, *ess = (np.ravel(part[site].values) for part in found)
    # An estimate of R-hat may fall below 1, where the logarithmic axis has nothing.
    return [np.clip(rhat - 1, 1e-4, None), *ess]
