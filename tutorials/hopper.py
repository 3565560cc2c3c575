# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # A falling hopper: fourteen coordinates, few of them seen
#
# A robot with one leg is thrown and tumbles to the ground. Its state is seven positions and seven
# velocities; of each fall somewhere between a tenth and a half of the moments were recorded. What
# happened in between? A latent ODE learns the motion from such gappy records. Its **encoder**
# guesses a posterior in one pass. **Refined** draws are moved on from there, and from the prior, to
# what model and data say together; this page measures what that is worth.
#
# Some minutes on one core; with `PYRO_LEBM_QUICK=1` seconds, at sizes too small to mean a thing.
# As a script it writes its pictures to `runs/hopper/`. The simulation needs
# `pip install 'pyro-lebm[mujoco]'`.

# %%
import os
from pathlib import Path

import pandas as pd
import pyro
import torch
from matplotlib.figure import Figure

from pyro_lebm import EnergyPrior, MLPEnergy, Series
from pyro_lebm.base import FullNormal
from pyro_lebm.inference import (
    EncoderGuide,
    GRUEncoder,
    RefinedGuide,
    chains,
    diagnose,
    fit,
    fit_prior,
    plots,
    posterior_predict,
    scores,
    to_arviz,
)
from pyro_lebm.inference.plots.panels import (
    CYCLE,
    INK,
    MUTED,
    POSTERIOR,
    legend,
    outer_labels,
    panels,
)
from pyro_lebm.models import GaussianEmission, LatentODE, MLPField, datasets

QUICK = os.environ.get("PYRO_LEBM_QUICK") == "1"
torch.set_num_threads(1)
pyro.set_rng_seed(0)
FOLDER = Path("runs/hopper")


def size(full: int, quick: int) -> int:
    return quick if QUICK else full


def show(figure: Figure, name: str) -> Figure:
    """In a notebook the cell displays what this returns; a script writes it to a file."""
    if "get_ipython" not in globals():
        path = FOLDER / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130)
        print(f"wrote {path}")
    return figure


# %% [markdown]
# ## 1. The data
#
# MuJoCo's hopper, half a second in a hundred steps, simulated here and kept in `runs/hopper/`.
# Positions and velocities have units of their own, so each coordinate is brought to mean 0 and
# standard deviation 1 *by the training sequences*; the errors below are in these units. Of every
# sequence an own share of the moments, 10 to 50 %, is observed, all coordinates at once.

# %%
TRAIN, TEST = size(1000, 40), size(40, 6)
whole = datasets.hopper(TRAIN + TEST, points=size(100, 30), seed=0, folder=FOLDER)
scaling = datasets.Scaling.of(whole[:TRAIN])
whole = scaling.apply(whole)
generator = torch.Generator().manual_seed(0)


def gappy(series: Series) -> Series:
    """A share of each sequence's moments, between 10 and 50 %."""
    share = 0.1 + 0.4 * torch.rand(len(series), 1, generator=generator)
    seen = torch.rand(len(series), series.length, generator=generator) < share
    seen[:, 0] |= ~seen.any(-1)
    return Series(series.times, series.values, seen.unsqueeze(-1) & series.mask)


train, test = gappy(whole[:TRAIN]), whole[TRAIN:]
given = gappy(test)
hidden = test.without(given).mask
print(train, given, sep="\n")

# %% [markdown]
# ## 2. Learning
#
# The encoder learns first, by the ELBO. For the last twentieth of the training, Langevin chains
# from its proposals take over, one for each sequence. At last the energy of the prior is fitted to
# where the chains have gone, so that a new posterior starts from a prior that knows what falls look
# like. Each coordinate has a noise level of its own: positions are smooth, velocities jump when the
# foot hits the ground.

# %%
LATENT = 15
prior = EnergyPrior(
    MLPEnergy(LATENT, (100, 100)), FullNormal(LATENT), num_chains=512, refresh=10, steps=3
)
model = LatentODE(
    LATENT,
    whole.observed,
    prior=prior,
    field=MLPField(LATENT, (200,)),
    emission=GaussianEmission(LATENT, whole.observed, (100,), per_feature=True),
    tolerance=3e-2,
)
encoder = EncoderGuide(model, train, GRUEncoder(whole.observed, 100, features=2 * LATENT))
guide = RefinedGuide(encoder, refine_from=0.95)
history = fit(
    model,
    guide,
    train,
    max_steps=size(3200, 10),
    batch_size=50,
    learning_rate=1e-2,
    learning_rates={"prior.": 1e-3},
    betas=(0.9, 0.95),
    kl_warmup=0.1,
    horizon_warmup=0.4,
    energy_from=0.98,
    final_rate=0.02,
    seed=0,
)
guide.train()  # the chains of the training sequences go on from where they are
visited = torch.cat([guide.draw(train) for _ in range(size(6, 1))][size(2, 0) :])
guide.eval()
fit_prior(prior, visited, 4e-3, max_steps=size(600, 4), batch_size=400, final_rate=0.02)
POSITIONS = ("x", "height", "torso", "waist", "hip", "knee", "ankle")
NAMES = (*POSITIONS, *(f"d{name}/dt" for name in POSITIONS))
print(f"{len(history)} steps; sigma of each coordinate, in its own standard deviations:")
print({n: round(s, 2) for n, s in zip(NAMES, model.emission.scale.tolist(), strict=True)})

# %% [markdown]
# ## 3. The encoder against refined draws
#
# Both are scored at the hidden moments of sequences that training never saw: the error of the
# posterior mean, the CRPS (which also asks for honest spread; lower is better), and how much of the
# truth lies inside the 90 % band.

# %%
found, means, rows = {}, {}, {}
for name, each in {"encoder alone": encoder, "refined": guide}.items():
    draws = each.posterior(given, draws=20)
    mean = posterior_predict(model, draws, given, mean=True, batch_size=8).mean((0, 1))
    means[name] = scaling.undo(mean)
    paths = found[name] = posterior_predict(model, draws, given, batch_size=8)
    rows[name] = {
        "MSE": scores.mse(mean, test.values, hidden),
        "of positions": scores.mse(mean[..., :7], test.values[..., :7], hidden[..., :7]),
        "of velocities": scores.mse(mean[..., 7:], test.values[..., 7:], hidden[..., 7:]),
        "CRPS": scores.crps(paths, test.values, hidden),
        "inside 90% band": scores.coverage(paths, test.values, 0.9, hidden),
    }
print(pd.DataFrame(rows).T.round(3).to_string())

# %% [markdown]
# Bands of the refined draws, for three falls and four coordinates, in their own units again. The
# truth is dashed, dots are what was given, and the orange line is the encoder's mean: where it
# leaves the dots, see whether refinement has brought the band back to them.

# %%
COORDINATES = {"height (m)": 1, "torso (rad)": 2, "hip (rad)": 4, "d torso/dt (rad/s)": 9}
falls = range(size(3, 2))
own = scaling.undo(found["refined"]).flatten(0, 1)
truth = scaling.undo(test.values)
figure, axes = panels(len(falls) * 4, 4, (2.7, 2.0), sharex=True)
for k, ax in enumerate(axes):
    i, (name, d) = falls[k // 4], list(COORDINATES.items())[k % 4]
    for level, alpha in ((0.9, 0.18), (0.5, 0.34)):
        low, high = scores.interval(own[:, i, :, d], level)
        band = {"color": POSTERIOR, "alpha": alpha, "lw": 0, "label": f"refined, {level:.0%} band"}
        ax.fill_between(test.times, low, high, **band)
    guess = means["encoder alone"][i, :, d]
    ax.plot(test.times, guess, color=CYCLE[1], lw=1.1, label="encoder's mean")
    ax.plot(test.times, truth[i, :, d], color=INK, lw=0.9, ls=(0, (4, 2)), label="truth")
    seen = given.mask[i, :, d]
    dots = {"ms": 3.2, "color": INK, "mec": "white", "mew": 0.4, "label": "given"}
    ax.plot(test.times[seen], truth[i, seen, d], "o", **dots)
    if k < 4:
        ax.set_title(name, fontsize=9, loc="left", color=MUTED)
outer_labels(axes, 4, "time (s)", "")
legend(figure, axes[0])
show(figure, "1_bands")

# %% [markdown]
# ## 4. Are these draws of the posterior?
#
# A band is as good as the draws that it is made of. For one fall: four long chains of adjusted
# Langevin steps, started at scattered draws of the prior, and four independent annealed
# populations, which is how the draws above were made. `to_arviz` brings either to ArviZ, and
# `diagnose` reads what ArviZ finds.

# %%
ONE = given[[0]]
length = size(800, 20)
long = chains(guide.program, ONE, num_chains=4, draws=length, warmup=length, steps=4)
annealed = guide.posterior(ONE, draws=size(250, 8), runs=4)
runs = {"Langevin chains": long, "annealed populations": annealed}
for name, draws in runs.items():
    print(f"{name}:", diagnose(to_arviz(draws, model=model, series=ONE)), sep="\n", end="\n\n")
show(plots.plot_chains(long, components=(0, 1, 2)), "2_chains")

# %% [markdown]
# R-hat says *that* chains have not mixed. Does it matter? Of each chain and of each population: the
# mean log joint (in nats, up to a constant) and the error at the hidden moments of this fall. Rows
# that agree say that the chains are slow about something that predictions do not hang on. A row
# nats below the others would be a chain in a valley of its own; populations start everywhere and
# keep what weighs most, and so `guide.posterior` anneals.

# %%
rows = {}
for name, draws in runs.items():
    paths = posterior_predict(model, draws, ONE, mean=True, batch_size=100)[:, :, 0].mean(1)
    for c, path in enumerate(paths):
        rows[f"{name} {c}"] = {
            "log joint": draws.stats["lp"][c].mean().item(),
            "MSE": scores.mse(path, test.values[0], hidden[0]),
        }
print(pd.DataFrame(rows).T.round(3).to_string())

# %% [markdown]
# ## 5. Where to go next
#
# - `datasets.hopper()` has ten thousand falls of two hundred steps, as published (Rubanova et al.
#   2019, arXiv 1907.03907); `ODERNNEncoder` is the encoder of that paper.
# - Velocities jump where the foot touches the ground, and a smooth field only bends: look at
#   which of the noise levels above are large. That is an error of the model, and no inference
#   mends it.
