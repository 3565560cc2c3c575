from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.figure import Figure
from torch import Tensor

from pyro_lebm.inference.draws import Draws
from pyro_lebm.inference.plots import (
    plot_chains,
    plot_convergence,
    plot_energy,
    plot_generated,
    plot_sequences,
)
from pyro_lebm.inference.plots.panels import Picture
from pyro_lebm.inference.scores import interval
from pyro_lebm.series import Series


def drawn(figure: Figure, folder: Path) -> None:
    """It can be drawn without a display and leaves nothing behind in pyplot's global state."""
    figure.savefig(folder / "figure.png", dpi=40)
    assert (folder / "figure.png").stat().st_size > 1000
    assert plt.get_fignums() == []


def axes(figure: Figure) -> list[Any]:
    return list(figure.axes)


def points(ax: Any, label: str) -> np.ndarray:
    found = [line for line in ax.get_lines() if line.get_label() == label]
    assert len(found) == 1
    return np.asarray(found[0].get_xydata())


@pytest.fixture
def series() -> Series:
    torch.manual_seed(0)
    times = torch.rand(5, 8).cumsum(-1)
    return Series(times, torch.randn(5, 8, 2))


def test_sequences_show_bands_mean_truth_observed_and_hidden(
    series: Series, tmp_path: Path
) -> None:
    given = series.hide(3)
    mask = given.mask.clone()
    mask[..., 0] = True  # the other feature is seen at all times
    given = Series(given.times, given.values, mask)
    times = torch.linspace(0, 6, 20)
    paths, truth = torch.randn(2, 30, 5, 20, 2), torch.randn(5, 20, 2)
    figure = plot_sequences(
        given, paths, times, target=series, truth=truth, horizon=4.0, feature=1, sequences=(0, 3)
    )
    assert len(axes(figure)) == 2
    ax = axes(figure)[1]
    assert ax.get_title(loc="left") == "sequence 3"
    assert len(points(ax, "observed")) == 3
    assert len(points(ax, "hidden")) == 5
    seen = given.mask[3, :, 1]
    assert np.allclose(points(ax, "observed")[:, 0], series.times[3, seen])
    assert np.allclose(points(ax, "observed")[:, 1], series.values[3, seen, 1])
    assert np.allclose(points(ax, "truth")[:, 1], truth[3, :, 1])
    assert np.allclose(points(ax, "mean")[:, 1], paths[:, :, 3, :, 1].mean((0, 1)), atol=1e-6)
    wide = next(c for c in ax.collections if c.get_label() == "90% band")
    assert isinstance(wide, PolyCollection)
    low, high = interval(paths[:, :, 3, :, 1].flatten(0, 1), 0.9)
    heights = np.asarray(wide.get_paths()[0].vertices)[:, 1]
    assert heights.min() == pytest.approx(float(low.min()), abs=1e-5)
    assert heights.max() == pytest.approx(float(high.max()), abs=1e-5)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"observed", "hidden", "50% band", "90% band", "extrapolation"} <= set(labels)
    drawn(figure, tmp_path)


def test_sequences_at_their_own_times_and_fewer_than_asked_for(
    series: Series, tmp_path: Path
) -> None:
    figure = plot_sequences(series, torch.randn(1, 25, 5, 8, 2))
    assert len(axes(figure)) == 5
    assert np.allclose(points(axes(figure)[2], "mean")[:, 0], series.times[2])
    drawn(figure, tmp_path)


@pytest.mark.parametrize("latent", [2, 6])
def test_energy_shows_contours_and_both_draws(latent: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    asked: list[Tensor] = []

    def log_density(z: Tensor) -> Tensor:
        asked.append(z)
        return -z.square().sum(-1) / 2

    prior, posterior = torch.randn(200, latent), 1 + 0.1 * torch.randn(50, latent)
    figure = plot_energy(log_density, prior, posterior, grid=20)
    ax = axes(figure)[0]
    assert asked[0].shape == (400, latent)
    assert asked[0].dtype == prior.dtype
    assert np.linalg.matrix_rank(asked[0] - asked[0].mean(0), tol=1e-3) == 2
    assert (len(points(ax, "prior draws")), len(points(ax, "posterior draws"))) == (200, 50)
    assert ("slice" in ax.get_title(loc="left")) == (latent > 2)
    drawn(figure, tmp_path)


def test_chains_show_every_chain_in_trace_ranks_and_autocorrelation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    z0 = torch.randn(3, 200, 2, 4)
    z0[0, :, 1, 2] += 10.0  # one chain is elsewhere
    figure = plot_chains(Draws({"z0": z0}), sequence=1, components=(0, 2))
    trace, ranks, correlation = axes(figure)[3:]
    assert np.allclose(trace.get_lines()[1].get_ydata(), z0[1, :, 1, 2])
    apart = ranks.patches[0].get_data().values
    assert apart[: len(apart) // 2].sum() == 0  # its ranks are all at the top
    assert apart.mean() == pytest.approx(1.0)
    assert correlation.get_lines()[1].get_ydata()[0] == pytest.approx(1.0)
    assert abs(correlation.get_lines()[1].get_ydata()[1]) < 0.25
    drawn(figure, tmp_path)


def test_convergence_sets_long_chains_beside_short_ones(tmp_path: Path) -> None:
    torch.manual_seed(0)
    long = Draws({"z0": torch.randn(4, 300, 3, 2)})
    short = Draws({"z0": torch.randn(4, 10, 3, 2) + 5 * torch.randn(4, 1, 3, 2)})
    figure = plot_convergence({"long": long, "short": short})
    rhat, bulk, tail = axes(figure)
    assert points(rhat, "long")[1:, 0].max() < 0.02 < 0.3 < points(rhat, "short")[1:, 0].min()
    for ax in (bulk, tail):
        assert points(ax, "long")[1:, 0].min() > 400 > points(ax, "short")[1:, 0].max()
        assert len(points(ax, "long")) == 3 * 2 + 1
    drawn(figure, tmp_path)


def test_generated_sequences_lie_beside_the_data(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data, energy = torch.randn(60, 8, 1), torch.randn(7, 8, 1)
    figure = plot_generated({"data": data, "energy prior": energy}, torch.arange(8.0), lines=20)
    assert [len(ax.get_lines()) for ax in axes(figure)] == [20, 7]
    assert np.allclose(axes(figure)[1].get_lines()[3].get_ydata(), energy[3, :, 0])
    assert [ax.get_title(loc="left") for ax in axes(figure)] == ["data", "energy prior"]
    assert not any(isinstance(c, PathCollection) for ax in axes(figure) for c in ax.collections)
    assert axes(figure)[1].collections[0].get_label() == "90% of data"
    assert isinstance(figure, Picture)
    assert figure._repr_png_().startswith(b"\x89PNG")  # what a notebook displays
    drawn(figure, tmp_path)


def test_bad_input_is_refused(series: Series) -> None:
    z = torch.randn(3, 2)
    draws = Draws({"z0": torch.randn(1, 3, 2, 4), "scale": torch.rand(1, 3, 2)})
    with pytest.raises(ValueError, match=r"predictions: expected shape \(chains, draws, 5, 8, D\)"):
        plot_sequences(series, torch.randn(1, 25, 5, 7, 2))
    with pytest.raises(ValueError, match=r"sequences: expected some below 5, got \[9\]"):
        plot_sequences(series, torch.randn(1, 25, 5, 8, 2), sequences=[9])
    with pytest.raises(ValueError, match="draws: expected at least 19"):
        plot_sequences(series, torch.randn(1, 4, 5, 8, 2))
    with pytest.raises(ValueError, match=r"prior: expected shape \(M, L\) .* got \(3, 1\)"):
        plot_energy(torch.sum, z[:, :1])
    with pytest.raises(ValueError, match=r"posterior: expected shape \(M, 2\), got \(3, 1\)"):
        plot_energy(torch.sum, z, z[:, :1])
    with pytest.raises(ValueError, match="site: expected an event of one dimension"):
        plot_chains(draws, site="scale")
    with pytest.raises(ValueError, match=r"expected positions inside \(2, 4\)"):
        plot_chains(draws, components=(4,))
    with pytest.raises(ValueError, match="chains: expected at least one run"):
        plot_convergence({})
    with pytest.raises(ValueError, match=r"chains\['a'\]: expected at least 2 chains of 4 draws"):
        plot_convergence({"a": draws})
    with pytest.raises(ValueError, match="samples: expected the data at least"):
        plot_generated({}, torch.arange(3.0))
    with pytest.raises(ValueError, match=r"samples\['a'\]: expected shape \(M, 3, D\)"):
        plot_generated({"a": torch.zeros(2, 4, 1)}, torch.arange(3.0))
