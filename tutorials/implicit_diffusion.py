# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Latent implicit diffusion: spirals at irregular times
#
# A hidden state goes from one observation to the next by a few steps of **implicit diffusion**:
# noise comes in, a denoiser that knows the state before and the gap in time takes it out, and what
# is left is the next state (Rezaei 2023, arXiv 2306.07077). Transitions may so be of any shape, and
# sampling takes a handful of calls in place of thousands.
#
# Some minutes on one core; with `PYRO_LEBM_QUICK=1` seconds, at sizes too small to mean a thing.
# As a script it writes its pictures to `runs/implicit_diffusion/`.

# %%
import math
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pyro
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_lebm import EnergyPrior, MLPEnergy, Series
from pyro_lebm.inference import (
    LangevinGuide,
    PathGuide,
    fit,
    fit_prior,
    plots,
    posterior_predict,
    scores,
)
from pyro_lebm.inference.plots.panels import INK, MUTED, POSTERIOR, PRIOR, panels
from pyro_lebm.models import DiffusionProcess, GaussianEmission, datasets

QUICK = os.environ.get("PYRO_LEBM_QUICK") == "1"
torch.set_num_threads(1)
pyro.set_rng_seed(0)


def size(full: int, quick: int) -> int:
    return quick if QUICK else full


def show(figure: Figure, name: str) -> Figure:
    """In a notebook the cell displays what this returns; a script writes it to a file."""
    if "get_ipython" not in globals():
        path = Path("runs/implicit_diffusion") / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130)
        print(f"wrote {path}")
    return figure


# %% [markdown]
# ## 1. The data, and what is hidden
#
# Spirals in the plane, half of them clockwise, each with its own start, growth and phase, seen at
# 30 times of its own through noise of standard deviation .1. Time has no unit here. Of the test
# sequences half of the points are hidden.

# %%
POINTS = size(30, 10)
train = datasets.spirals(size(400, 40), points=POINTS, seed=0)
test, truth = datasets.spirals(size(100, 10), points=POINTS, seed=1, truth=True)
given = test.hide(0.5, torch.Generator().manual_seed(2))
hidden = ~given.mask
print(train, given, sep="\n")

# %% [markdown]
# ## 2. The model, and two ways to train it
#
# $$z_1 \sim p(z_1), \quad u_S = \varepsilon_k, \quad
#   u_{s-1} = c_s\, \hat z(u_s, s, z_{k-1}, \Delta_k) + b_s u_s + \sigma_s n_s, \quad
#   z_k = a_k + r_k u_0, \quad x_k \sim N(g(z_k), \sigma^2).$$
#
# $a_k$ and $r_k$ are where the denoiser expects the state, and in which unit: its frame, learned,
# of $z_{k-1}$ and $\Delta_k$. At `stochasticity=0` all $\sigma_s$ are 0 and the state follows from
# the noise $\varepsilon_k$ by which it starts: the program samples that noise, and whatever infers
# the model acts on it. Above 0 a transition is a chain of Gaussians, whose steps also have the
# denoiser's own spread, and has a density.
#
# A `PathGuide` walks along the sequence, $q(\varepsilon_k \mid z_{k-1}, h_k)$, with features $h_k$
# of what was seen before and after. It learns with `training="samples"`, the ELBO through the very
# sampler, here of three steps, as each is in the gradient; or with `training="diffusion"`, where it
# proposes states and the denoiser learns, at all of ten levels side by side, to lead there.
# `history=False` makes the guide Markovian. While it trains it is shown a random half of each
# sequence (`view`), and the model is scored on the whole.

# %%
LATENT, GAP = 4, 0.17


def process(**options: Any) -> DiffusionProcess:
    pyro.set_rng_seed(0)  # every model begins with the same weights
    options.setdefault("emission", GaussianEmission(LATENT, 2, (32,), scale=0.3))
    return DiffusionProcess(LATENT, 2, hidden=(48,), unit=GAP, **options)


def half(series: Series) -> Series:
    return series.hide(0.5)


SETTINGS: dict[str, Any] = {
    "max_steps": size(1000, 4),
    "batch_size": 50,
    "learning_rate": 1e-2,
    "betas": (0.9, 0.99),
    "rate_warmup": 0.1,  # or first steps may throw a model to where its states say nothing
    "kl_warmup": 0.2,
    "final_rate": 0.05,
    "seed": 0,
}
trained: dict[str, tuple[DiffusionProcess, PathGuide]] = {}
seconds = {}
for name, model_options, guide_options in (
    ("samples", {"steps": 3}, {}),
    ("diffusion", {"steps": 10, "stochasticity": 1.0}, {"training": "diffusion"}),
    ("samples, Markovian", {"steps": 3}, {"history": False}),
):
    model = process(**model_options)
    guide = PathGuide(model, train, unit=GAP, view=half, **guide_options)
    history = fit(model, guide, train, **SETTINGS)
    trained[name], seconds[name] = (model, guide), history.last["seconds"]

# %% [markdown]
# How well each fills in what is hidden, and what it generates from nothing. The error is to the
# noiseless curve, the coverage of noisy points. The squared maximum mean discrepancy (MMD) compares
# generated with fresh data on one regular grid, which no model was trained at; its floor is that of
# other fresh data. One seed each, and seconds of a machine that may have been busy:
# `benchmarks/sequences.py` has intervals.

# %%
GRID = torch.linspace(0.0, 5.0, size(51, 11))
COUNT = size(2000, 20)


def curves(n: int, seed: int) -> Tensor:
    """True spirals on the grid, without noise, ``(n, K, 2)``."""
    known = datasets.spirals(n, points=2, seed=seed, truth=True)[1]
    sign = torch.where(known["clockwise"], -1.0, 1.0)[:, None]
    angle = known["phase"][:, None] + sign * (4 * math.pi / 5) * GRID
    radius = known["radius"][:, None] + known["growth"][:, None] * GRID
    path: Tensor = radius[..., None] * torch.stack([angle.cos(), angle.sin()], -1)
    return path


clean = curves(COUNT, 3)
fresh, more = (x + 0.1 * torch.randn_like(x) for x in (clean, curves(COUNT, 4)))
width = scores.median_bandwidth(fresh)
rows = {}
for name, (model, guide) in trained.items():
    draws = guide.posterior(given, draws=40)
    mean = posterior_predict(model, draws, given, mean=True).mean((0, 1))
    paths = posterior_predict(model, draws, given)
    rows[name] = {
        "training (s)": round(seconds[name]),
        "MSE, hidden points": scores.mse(mean, truth["path"], hidden),
        "inside 90% band": scores.coverage(paths, test.values, 0.9, hidden),
        "MMD": scores.mmd(model.generate(COUNT, GRID), fresh, width),
        "sigma": model.emission.scale.item(),
    }
print(pd.DataFrame(rows).T.round(4).to_string())
print(f"floor of the MMD: {scores.mmd(more, fresh, width):.4f}")

# %% [markdown]
# ## 3. An energy on the initial state
#
# What a model generates is no better than the states it starts from, and its $p(z_1) = N(0, I)$
# need not be where the posteriors of real sequences are. An **energy-based prior** is one argument.
# Here denoiser and emission are those trained above, and the energy alone learns, from posterior
# draws. Its negatives are drawn anew by annealing every ten steps, or else modes would get wrong
# masses. As an MMD sees little of a curve's shape, beside it stand how many turns round the origin
# a noiseless curve makes, two in the data, and how many curves go clockwise, one half.


# %%
@torch.no_grad()
def sampled(model: DiffusionProcess, n: int) -> tuple[Tensor, Tensor]:
    """Noiseless and noisy sequences on the grid, of the model itself."""
    with pyro.poutine.block():
        path = model(times=GRID, n=n)
    return model.emission.mean(path), model.emission(path).sample()


def turns(lines: Tensor) -> Tensor:
    """How often curves ``(n, K, 2)`` go round the origin, clockwise below 0: ``(n,)``."""
    before, after = lines[:, :-1], lines[:, 1:]
    cross = before[..., 0] * after[..., 1] - before[..., 1] * after[..., 0]
    total: Tensor = torch.atan2(cross, (before * after).sum(-1)).sum(-1)
    return total / (2 * math.pi)


tilted, found = {}, {"data": (clean, more)}
for name in ("diffusion", "samples"):
    model, guide = trained[name]
    parts = {"denoiser": model.denoiser, "emission": model.emission, "steps": model.steps}
    prior = EnergyPrior(
        MLPEnergy(LATENT, (64, 64)), LATENT, num_chains=size(512, 16), refresh=10, steps=3
    )
    tilted[name] = process(prior=prior, stochasticity=model.stochasticity, **parts)
    visited = guide.posterior(train, draws=size(8, 1))["z0"].flatten(0, 2)
    fit_prior(prior, visited, 4e-3, max_steps=size(500, 4), batch_size=400, final_rate=0.05, seed=0)
    found[f"by {name}, from N(0, I)"] = sampled(model, COUNT)
    found[f"by {name}, with energy"] = sampled(tilted[name], COUNT)
rows = {
    name: {
        "MMD": scores.mmd(dots, fresh, width),
        "turns, mean": turns(lines).abs().mean().item(),
        "turns, sd": turns(lines).abs().std().item(),
        "clockwise": (turns(lines) < 0).float().mean().item(),
    }
    for name, (lines, dots) in found.items()
}
print(pd.DataFrame(rows).T.round(4).to_string())

# %% [markdown]
# An energy mends what the starts have wrong, and no transition: whether curves that do not close,
# or a lopsided choice of direction, get better by it says which of the two was at fault. Below, its
# landscape of the model trained by samples.

# %%
z0 = prior().sample((size(1000, 40),))
show(plots.plot_energy(prior().log_prob, z0, visited[: len(z0)], title="$p(z_1)$"), "1_energy")

# %% [markdown]
# ## 4. Sampled spirals beside data
#
# Dots are observations, lines what they are without noise: $g$ of the sampled states, and the
# truth. Colours tell which way a line goes round the origin.

# %%
COLUMNS = size(7, 3)
shown = {name: found[name] for name in found if "diffusion, from" not in name}
shown["data"] = clean, fresh
figure, axes = panels(len(shown) * COLUMNS, COLUMNS, (1.5, 1.5), sharex=True, sharey=True)
for row, (name, (lines, dots)) in enumerate(shown.items()):
    way = turns(lines[:COLUMNS])
    for k, ax in enumerate(axes[row * COLUMNS : (row + 1) * COLUMNS]):
        x, y = lines[k].mT
        ax.plot(*dots[k].mT, ".", ms=2.5, color=MUTED, mew=0)
        ax.plot(x, y, lw=1.3, color=PRIOR if way[k] < 0 else POSTERIOR)
        ax.plot(x[:1], y[:1], "o", ms=3.5, color=INK)
        ax.set_aspect("equal")
        if k == 0:
            ax.set_title(name, fontsize=9, loc="left")
            ax.set_ylabel("$x_2$")
        if row == len(shown) - 1:
            ax.set_xlabel("$x_1$")
key = {"clockwise": PRIOR, "counter-clockwise": POSTERIOR}
for label, colour in key.items():
    axes[0].plot([], [], color=colour, label=label)
axes[0].plot([], [], "o", ms=3.5, color=INK, label="time 0")
axes[0].plot([], [], ".", ms=4, color=MUTED, label="observations")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4,
              frameon=False, fontsize=8)  # fmt: skip
show(figure, "2_sampled")

# %% [markdown]
# ## 5. Few steps or many
#
# Steps and stochasticity are properties of the sampler and not of what the denoiser knows, so of
# the model trained by diffusion they may be set again at any time. Deterministic sampling
# (stochasticity 0) is meant to need few steps; ancestral sampling (1) at ten steps is what it was
# trained as. More than ten ask about levels in between, which it never met. (The model trained by
# samples has learned to sample in its own three.)

# %%
model, _ = trained["diffusion"]
before = model.steps, model.stochasticity
table = {}
for stochasticity in (0.0, 1.0):
    for steps in (1, 2, 5, 10, size(100, 12)):
        model.steps, model.stochasticity = steps, stochasticity
        cost = scores.seconds_per_sequence(lambda n: model.generate(n, GRID), COUNT, repeats=1)
        error = scores.mmd(model.generate(COUNT, GRID), fresh, width)
        table[model.sampler] = {"MMD": error, "s per 1,000 sequences": 1000 * cost}
model.steps, model.stochasticity = before
print(pd.DataFrame(table).T.round(4).to_string())

# %% [markdown]
# ## 6. Between the points, and beyond them
#
# The guide's draws as bands, at each sequence's own times: hollow points were hidden. Draws belong
# to the times that they are of, so to ask about another time is to add it to the series as a hidden
# one.

# %%
model, guide = trained["samples"]
draws = guide.posterior(given, draws=size(200, 20))
paths = posterior_predict(model, draws, given)
few = {"target": test, "truth": truth["path"], "sequences": (0, 1, 2), "value_label": "$x_1$"}
show(plots.plot_sequences(given, paths, **few), "3_hidden")
calibration = scores.interval_calibration(paths, test.values, mask=hidden)
print("coverage:", {level: f"{share:.3f}" for level, share in calibration.coverage.items()})

# %% [markdown]
# A forecast is the same: a series whose end is hidden. Past the last observation the guide has
# nothing to say, so the steps are the prior's and the bands what the transitions believe.

# %%
HORIZON = 3.0
begun = test.until(HORIZON)
draws = guide.posterior(begun, draws=size(200, 20))
paths = posterior_predict(model, draws, begun)
ahead = test.without(begun).mask
mean = posterior_predict(model, draws, begun, mean=True).mean((0, 1))
print(f"beyond {HORIZON:g}: MSE {scores.mse(mean, truth['path'], ahead):.4f}, ", end="")
print(f"coverage {scores.coverage(paths, test.values, 0.9, ahead):.3f} of 0.9; ", end="")
level = test.values.mean(0).expand_as(mean)
print(f"MSE of always saying the mean {scores.mse(level, truth['path'], ahead):.4f}")
show(plots.plot_sequences(begun, paths, horizon=HORIZON, **few), "4_forecast")

# %% [markdown]
# ## 7. Another inference
#
# A guide is one line. `LangevinGuide` has no encoder: for new sequences it anneals particles from
# the prior to the posterior of the first state and all the noise, and `fit` trains a model by it as
# by any other. Here it looks, with the model just trained, at a few of the same sequences. Both
# approximate one posterior, and neither is exact: the encoder is a Gaussian at each step, and the
# particles are few for so many dimensions.

# %%
some = given[: size(6, 2)]
langevin = LangevinGuide(model, train)  # the line
effort: dict[str, Any] = {"final_moves": size(30, 2)}
guides: dict[str, Any] = {"PathGuide": (guide, {}), "LangevinGuide": (langevin, effort)}
for name, (each, options) in guides.items():
    draws = each.posterior(some, draws=size(64, 20), **options)
    mean = posterior_predict(model, draws, some, mean=True).mean((0, 1))
    paths, part = posterior_predict(model, draws, some), slice(len(some))
    error = scores.mse(mean, truth["path"][part], hidden[part])
    inside = scores.coverage(paths, test.values[part], 0.9, hidden[part])
    print(f"{name:<14}MSE {error:.4f}, coverage {inside:.3f} of 0.9 ({draws.method})")

# %% [markdown]
# ## 8. Where to go next
#
# - Observations by diffusion, too: `ImplicitEmission`. Counts, binary data: another emission.
# - A start noise that a flow has bent: `DiffusionProcess(flow=VolumePreservingFlow(LATENT))`.
# - Known inputs: `covariates`. A real series with gaps: `datasets.co2()`.
