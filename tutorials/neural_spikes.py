# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Neural spikes: latent flows, rates and decoding
#
# Neurons fire at rates that a hidden state drives, and all one sees is spikes. **LangevinFlow**
# (Song, Keller, Yue, Perona & Welling 2025, arXiv 2507.11531) gives that state a position and a
# velocity, and lets it roll, damped and shaken, in a learned potential. This page infers rates from
# spikes, by it and by a recurrent network, looks at the potential, decodes a hand's position, and
# checks draws by ArviZ.
#
# Some minutes on one core; with `PYRO_LEBM_QUICK=1` seconds, at sizes too small to mean a thing.
# As a script it writes its pictures to `runs/neural_spikes/`.

# %%
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pyro import poutine
from sklearn.decomposition import PCA
from torch import Tensor

from pyro_lebm import Series
from pyro_lebm.inference import (
    MALA,
    PathGuide,
    VectorizedMCMC,
    diagnose,
    fit,
    posterior_predict,
    scores,
    to_arviz,
)
from pyro_lebm.inference.plots.panels import CYCLE, INK, POSTERIOR, legend, outer_labels, panels
from pyro_lebm.models import (
    CoupledOscillators,
    GaussianEmission,
    LangevinFlow,
    MixedEmission,
    PoissonEmission,
    RecurrentGenerator,
    TransformerEmission,
    datasets,
)

QUICK = os.environ.get("PYRO_LEBM_QUICK") == "1"
torch.set_num_threads(1)
pyro.set_rng_seed(0)


def size(full: int, quick: int) -> int:
    return quick if QUICK else full


def show(figure: Figure, name: str) -> Figure:
    """In a notebook the cell displays what this returns; a script writes it to a file."""
    if "get_ipython" not in globals():
        path = Path("runs/neural_spikes") / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130)
        print(f"wrote {path}")
    return figure


def bands(ax: Axes, sample: Tensor, truth: Tensor, times: Tensor) -> None:
    """Draws ``(S, T)`` as bands and a mean, and what is true."""
    for level, alpha in ((0.9, 0.18), (0.5, 0.34)):
        ends, name = scores.interval(sample, level), f"{level:.0%} band"
        ax.fill_between(times, *ends, color=POSTERIOR, alpha=alpha, lw=0, label=name)
    ax.plot(times, sample.mean(0), color=POSTERIOR, lw=1.4, label="mean")
    ax.plot(times, truth, color=INK, lw=0.9, ls=(0, (4, 2)), label="truth")


# %% [markdown]
# ## 1. The data
#
# Lorenz's system drives thirty neurons: their log rates are linear in its state, and spikes are
# Poisson counts in bins of 20 ms. As these are simulated the true rates are known, though not to
# the models. Of the test trials the last six neurons are **held out**: inference does not see
# them, and is scored on them.

# %%
NEURONS, HELD, BIN = 30, 6, 0.02
POINTS = size(60, 12)
train = datasets.lorenz_spikes(size(300, 20), points=POINTS, seed=0)
test, truth = datasets.lorenz_spikes(size(60, 4), points=POINTS, seed=1, truth=True)
given = test.only(slice(NEURONS - HELD))
null = train.values.mean((0, 1))
print(train, given, sep="\n")
print(f"mean rate {null.mean().item() / BIN:.1f} Hz")

# %% [markdown]
# ## 2. The model
#
# $$z_k = z_{k-1} + h v_{k-1}, \quad
#   v_k = e^{-\gamma h}(v_{k-1} - h \nabla U(z_k)) + \sqrt{1 - e^{-2\gamma h}}\,\varepsilon_k,
#   \quad x_k \sim \text{Poisson}(\lambda_k(z_{1..K}, v_{1..K}))$$
#
# The potential $U$ is that of locally coupled oscillators, and a Transformer reads the whole path.
# The guide goes along the trial step by step, told by recurrent networks what was seen before and
# after. With **coordinated dropout** it sees a random half of the training counts, a new one each
# time, and the model is scored on the other half. That keeps it from copying its input, and teaches
# it to do without some neurons.

# %%
LATENT, STATE, STEP = 16, 32, 0.3  # the last is h, of a gap of one bin


def flow() -> LangevinFlow:
    return LangevinFlow(
        LATENT,
        NEURONS,
        potential=CoupledOscillators(LATENT),
        emission=TransformerEmission(PoissonEmission(STATE, NEURONS, ()), STATE),
        step_size=STEP,
        unit=BIN,
    )


def recurrent() -> RecurrentGenerator:
    emission = TransformerEmission(PoissonEmission(STATE, NEURONS, ()), STATE)
    return RecurrentGenerator(STATE, NEURONS, noise=8, emission=emission, unit=BIN)


SETTINGS: dict[str, Any] = {
    "batch_size": 50,
    "learning_rate": 5e-3,
    "betas": (0.9, 0.99),
    "kl_warmup": 0.3,
    "final_rate": 0.05,
    "seed": 0,
}
trained: dict[str, tuple[Any, PathGuide]] = {}
seconds = {}
for name, make in {"LangevinFlow": flow, "GRU-VAE": recurrent}.items():
    pyro.set_rng_seed(0)
    model = make()  # the line
    guide = PathGuide(model, train, dropout=0.5, unit=BIN)
    history = fit(model, guide, train, max_steps=size(350, 4), **SETTINGS)
    trained[name], seconds[name] = (model, guide), history.last["seconds"]

# %% [markdown]
# ## 3. Rates
#
# The mean over draws of the rates is the estimate. Bits per spike are the gain of Poisson
# likelihood over each neuron's mean rate, here of held-out neurons alone; what the *true* rates
# reach is the ceiling. $R^2$ is that of the true rates, and 1 at best. The bands are of rates, not
# of spikes: how sure the model is. One seed each: `benchmarks/sequences.py` has intervals.

# %%
seen, held = given.mask, ~given.mask
inferred: dict[str, Tensor] = {}
rows = {}
for name, (model, guide) in trained.items():
    draws = guide.posterior(given, draws=size(100, 20))
    rates = posterior_predict(model, draws, given, mean=True, batch_size=20)[0]
    mean, inferred[name] = rates.mean(0), rates
    rows[name] = {
        "training (s)": round(seconds[name]),
        "bits/spike, held out": scores.bits_per_spike(mean, test.values, null, held),
        "rate R2, held out": scores.rate_r2(mean, truth["rates"], held),
        "rate R2, seen": scores.rate_r2(mean, truth["rates"], seen),
        "true rates inside 90% band": scores.coverage(rates, truth["rates"], 0.9),
    }
ceiling = scores.bits_per_spike(truth["rates"], test.values, null, held)
rows["true rates"] = {"bits/spike, held out": ceiling}
print(pd.DataFrame(rows).T.round(3).to_string(na_rep=""))

# %% [markdown]
# One trial: its spikes, the true rates and those that LangevinFlow infers, neurons above the red
# line held out (black bins: two spikes or more); below, three neurons with bands.

# %%
TRIAL, CHOSEN = 0, (3, NEURONS - 4, NEURONS - 2)
figure, axes = panels(6, 3, (3.5, 2.6), height_ratios=(1.25, 1), sharex="col")
mean = inferred["LangevinFlow"][:, TRIAL].mean(0)
true = truth["rates"][TRIAL]
top = float(true.quantile(0.99)) / BIN
extent = (0, POINTS * BIN, 0, NEURONS)
images = {"spikes": test.values[TRIAL], "true rates": true / BIN, "inferred rates": mean / BIN}
for ax, (name, image) in zip(axes[:3], images.items(), strict=True):
    kind = {"cmap": "Greys", "vmax": 2} if name == "spikes" else {"cmap": "viridis", "vmax": top}
    drawn = ax.imshow(image.mT, aspect="auto", origin="lower", vmin=0, extent=extent, **kind)
    ax.axhline(NEURONS - HELD, color="#b2182b", lw=1)
    ax.set_title(name, fontsize=10, loc="left")
axes[0].set_ylabel("neuron", fontsize=9)
bar = figure.colorbar(drawn, ax=axes[2], pad=0.02)
bar.set_label("rate (Hz)", fontsize=9)
bar.ax.tick_params(labelsize=8)
for ax, neuron in zip(axes[3:], CHOSEN, strict=True):
    rates = inferred["LangevinFlow"][:, TRIAL, :, neuron]
    bands(ax, rates / BIN, true[:, neuron] / BIN, test.times)
    spikes = test.times[test.values[TRIAL, :, neuron] > 0]
    ax.plot(spikes, torch.zeros(len(spikes)), "|", ms=7, color=INK, label="spikes")
    status = "held out" if neuron >= NEURONS - HELD else "seen"
    ax.set_title(f"neuron {neuron}, {status}", fontsize=9, loc="left")
    ax.set_xlabel("time (s)", fontsize=9)
axes[3].set_ylabel("rate (Hz)", fontsize=9)
legend(figure, axes[3])
show(figure, "1_rates")

# %% [markdown]
# ## 4. The flow over its potential
#
# Positions have sixteen dimensions and a page has two. Axes are the first two principal components
# of the inferred positions of all test trials. Contours are $U$ on the plane through their mean,
# that is with the fourteen other coordinates held at their means: a slice. The lines are draws of
# the posterior of six trials, projected onto that plane; a dot marks where each begins.

# %%
model, guide = trained["LangevinFlow"]
drawn = guide.posterior(given, draws=1)
z0, noise = (drawn.flat(name)[0] for name in ("z0", "noise"))
with torch.no_grad():
    path = model.path(z0, noise, given.times.diff())
position, velocity = path[..., :LATENT], path[..., LATENT:]
plane = PCA(2).fit(position.flatten(0, 1).numpy())
flat = plane.transform(position.flatten(0, 1).numpy()).reshape(*position.shape[:2], 2)
reach = 1.1 * np.abs(flat).max((0, 1))
ticks = [np.linspace(-r, r, 80) for r in reach]
mesh = np.stack(np.meshgrid(*ticks), -1).reshape(-1, 2)
with torch.no_grad():
    height = model.potential(torch.as_tensor(plane.inverse_transform(mesh)).float())
height = height.reshape(80, 80) - height.min()
figure, (ax,) = panels(1, 1, (6.0, 4.6))
filled = ax.contourf(*ticks, height, 14, cmap="Greys", alpha=0.75)
bar = figure.colorbar(filled, ax=ax, pad=0.02)
bar.set_label("U above its least on this plane (nats)", fontsize=9)
bar.ax.tick_params(labelsize=8)
for k, colour in zip(range(min(6, len(flat))), CYCLE, strict=False):
    ax.plot(*flat[k].T, color=colour, lw=1.3)
    ax.plot(*flat[k, 0], "o", ms=5, color=colour, mec="white", mew=0.6)
shares = plane.explained_variance_ratio_
ax.set_xlabel(f"principal component 1 of positions ({shares[0]:.0%})")
ax.set_ylabel(f"principal component 2 ({shares[1]:.0%})")
show(figure, "2_potential")

# %% [markdown]
# Does the potential steer, or does the noise? A step changes the velocity by friction, by the force
# and by the noise; the root mean square of each says. Lorenz's system does not roll downhill: what
# the potential does not explain the guide puts into the noise, which is 1 in the prior.

# %%
kept = float((-model.friction * STEP).exp())
with torch.no_grad():
    force = -STEP * model.potential.gradient(position[:, 1:])
parts = {
    "change of velocity": velocity.diff(dim=1),
    "by the force": kept * force,
    "by friction": (kept - 1) * velocity[:, :-1],
    "by the noise": (1 - kept**2) ** 0.5 * noise,
    "the noise itself": noise,
}
for name, part in parts.items():
    print(f"{name:<20}{part.square().mean().sqrt().item():.3f}")

# %% [markdown]
# ## 5. Decoding: where is the hand?
#
# Forty neurons are tuned to the position and velocity of a cursor. A `MixedEmission` shows a state
# as spikes and as a position, side by side; to decode is to hide the positions. In training the
# guide is shown spikes alone (`view`), while the model is scored on both.

# %%
CELLS, WIDTH = 40, 0.05
moves = datasets.reaching(size(200, 20), points=size(40, 10), seed=0)
unseen, where = datasets.reaching(size(50, 4), points=size(40, 10), seed=1, truth=True)


def spikes_only(series: Series) -> Series:
    return series.only(slice(CELLS))


pyro.set_rng_seed(0)
spiking, moving = PoissonEmission(STATE, CELLS, ()), GaussianEmission(STATE, 2, (), scale=0.1)
both = MixedEmission({"spikes": spiking, "position": moving})
decode = LangevinFlow(LATENT, CELLS + 2, emission=both, step_size=STEP, unit=WIDTH)
reader = PathGuide(decode, moves, view=spikes_only, unit=WIDTH)
fit(decode, reader, moves, max_steps=size(350, 4), **SETTINGS)
told = spikes_only(unseen)
draws = reader.posterior(told, draws=size(100, 20))
found = posterior_predict(decode, draws, told, batch_size=20)[0][..., CELLS:]
centre = posterior_predict(decode, draws, told, mean=True, batch_size=20)[0][..., CELLS:].mean(0)
true, marks = where["position"], unseen.values[..., CELLS:]
mean = moves.values[..., CELLS:].mean((0, 1)).expand_as(true)
print(f"correlation {scores.correlation(centre, true):.3f}")
print(f"root mean square error {scores.mse(centre, true) ** 0.5:.3f}", end=" ")
print(f"(of always saying the mean {scores.mse(mean, true) ** 0.5:.3f})")
print(f"coverage {scores.coverage(found, marks, 0.9):.3f} of 0.9")

# %%
figure, axes = panels(6, 3, (3.4, 2.1), sharex=True, sharey=True)
for k, ax in enumerate(axes):
    trial, coordinate = k % 3, k // 3
    bands(ax, found[:, trial, :, coordinate], true[trial, :, coordinate], unseen.times)
    ax.set_title(f"trial {trial}, {'xy'[coordinate]}", fontsize=9, loc="left")
outer_labels(axes, 3, "time (s)", "position (no unit)")
legend(figure, axes[0])
show(figure, "3_decoding")

# %% [markdown]
# ## 6. Diagnosis
#
# The guide is an approximation. Of one trial's first state, given the noise of the draw above,
# adjusted Langevin chains from scattered starts say whether they agree on it. This checks the
# sampling of that conditional, and not the guide. Where it finds fault, chains were too short.

# %%
one = given[:1]
fixed = poutine.condition(model, {"noise": noise[:1]})
run = VectorizedMCMC(MALA(fixed), size(1500, 10), size(500, 10), num_chains=4, progress=False)
run.run(one)
tree = to_arviz(run, series=one)
print(*tree.groups())
print(diagnose(tree))

# %% [markdown]
# ## 7. Real recordings
#
# With the extra `nwb` (`pip install 'pyro-lebm[nwb]'`), files of the Neural Latents Benchmark load
# as here, and go where the simulated ones went. There nobody knows the true rates: bits per spike
# of held-out neurons remain, and decoding of behaviour, beside the counts in `moves`.
#
# ```python
# what = {"align": "move_onset_time", "window": (0.25, 0.45), "behaviour": "hand_vel"}
# recording = datasets.neural_latents(path, split="train", **what)
# train, heldout, move = recording.series, recording.heldout, recording.behaviour
# test = datasets.neural_latents(path, split="val", **what).series
# given = test.only((~heldout).nonzero()[:, 0].tolist())
# held = test.without(given).mask
# null = train.filled.sum((0, 1)) / train.mask.sum((0, 1))
# counts = train.values.where(train.mask, torch.nan)  # what is NaN is hidden
# moves = Series(train.times, torch.cat([counts, move / move[move.isfinite()].std()], -1))
# ```
#
# - The update as published: `LangevinFlow(update="published", friction=0.1)`.
# - An energy on the first state: `prior=EnergyPrior(MLPEnergy(32), 32)`, as everywhere.
