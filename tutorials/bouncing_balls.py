# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Bouncing balls: video in, video out
#
# A ball rolls in a box, bounces off the walls and is slowed by friction until it rests. How strong
# the friction is differs from video to video and is written nowhere: it shows only in how the ball
# slows down. A latent ODE is given half of the frames of a video, paints the other half, and goes
# on to three times the length that it was trained on.
#
# Several minutes on one core; with `PYRO_LEBM_QUICK=1` seconds, at sizes too small to mean a thing.
# As a script it writes its pictures and films to `runs/bouncing_balls/`.

# %%
import os
from pathlib import Path

import pandas as pd
import pyro
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor

from pyro_lebm.inference import (
    ConvolutionalReader,
    EncoderGuide,
    GRUEncoder,
    fit,
    plots,
    posterior_predict,
    scores,
)
from pyro_lebm.inference.plots.panels import CYCLE, INK, PALE, outer_labels, panels
from pyro_lebm.models import GaussianEmission, LatentODE, MLPField, datasets
from pyro_lebm.series import Series

QUICK = os.environ.get("PYRO_LEBM_QUICK") == "1"
torch.set_num_threads(1)
pyro.set_rng_seed(0)
FOLDER = Path("runs/bouncing_balls")


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
# Frames of 28 x 28 pixels, simulated; the box is ten units wide, the ball has radius one, and it
# starts with a speed of one unit a frame. Training videos have twenty frames. The test videos go on
# for sixty, by when every ball has come to rest; given are ten of their first twenty, at random.

# %%
SEEN, FRAMES, SHAPE, PIXELS = 20, 60, (28, 28), 784
FRICTION = (0.03, 0.07)
train = datasets.bouncing_balls(size(1500, 40), friction=FRICTION, frames=SEEN)
test, known = datasets.bouncing_balls(
    size(50, 8), friction=FRICTION, frames=FRAMES, seed=1, truth=True
)
given, _ = datasets.interpolation(test.until(SEEN - 1), keep=SEEN // 2, seed=1)
print(train, given, sep="\n")

# %% [markdown]
# ## 2. The model
#
# $$[z_s, z_d(0)] \sim N(0, I), \qquad \frac{dz_d}{dt} = F(z_d, z_s), \qquad
#   x(t) \sim N(g(z_s, z_d(t)), \sigma^2).$$
#
# With `static_in_field=True` a latent that stands still drives the field: there friction could have
# its place, for it does not change and says how things change. Frames are painted by a perceptron
# rather than by `Deconvolution`: path and emission of plain perceptrons are computed together by
# fused native code, and many cheap steps teach more in a few minutes than few dear ones. Edges are
# what a painter has to learn, and rectified units learn them soonest.

# %%
STATIC, MOVING = 1, 6
model = LatentODE(
    MOVING,
    PIXELS,
    static=STATIC,
    static_in_field=True,
    field=MLPField(MOVING, (100,), covariates=STATIC),
    emission=GaussianEmission(STATIC + MOVING, PIXELS, (64, 128), activation="relu"),
    tolerance=2e-2,
)

# %% [markdown]
# The encoder reads each frame by convolutions, and a GRU runs over what they found, backward in
# time. `view` hides half of the frames of a training video from it, others at each visit, as half
# will be hidden later; the loss counts all.

# %%
reader = ConvolutionalReader(SHAPE, 32, channels=(8, 16))
encoder = GRUEncoder(PIXELS, 100, features=2 * (STATIC + MOVING), reader=reader)


def half(series: Series) -> Series:
    return series.hide(0.5)


guide = EncoderGuide(model, train, encoder, view=half)
history = fit(
    model,
    guide,
    train,
    max_steps=size(3500, 10),
    batch_size=25,
    learning_rate=4e-3,
    betas=(0.9, 0.95),
    kl_warmup=0.2,
    horizon_warmup=0.4,
    final_rate=0.02,
    seed=0,
)
print(f"{len(history)} steps, sigma {model.emission.scale.item():.3f}")

# %% [markdown]
# ## 3. Between the frames, and beyond
#
# Each video in three rows: what was given, one draw of the model (not an average, which would
# blur), and the truth. From the line on, no training video has ever gone.

# %%
draws = guide.posterior(given, draws=size(20, 4))
frames = posterior_predict(model, draws, given, test.times, mean=True, batch_size=5)[0].clamp(0, 1)
rows, seen = {}, {}
for i in range(4):
    rows[f"{i}: given"], seen[f"{i}: given"] = test.values[i], given.mask[i].any(-1)
    rows[f"{i}: a draw"], rows[f"{i}: truth"] = frames[0, i], test.values[i]
show(plots.plot_frames(rows, SHAPE, seen=seen, horizon=SEEN, every=3), "1_frames")
if "get_ipython" not in globals():
    for i in range(4):
        film = {
            "given": test.values[i] * given.mask[i],
            "a draw": frames[0, i],
            "truth": test.values[i],
        }
        plots.animate_frames(film, SHAPE, FOLDER / f"film_{i}.gif")

# %% [markdown]
# Pixels are a poor judge of where a ball is: one that is painted a ball's width aside counts as
# much as one that is lost. So the centre of what is painted is measured, in units of the box, of
# each draw; the centre of a ball can move over eight units.


# %%
def centres(video: Tensor) -> Tensor:
    """``(..., T, 784)`` to the ink's centre ``(..., T, 2)``: to the right, and upwards."""
    across = (torch.arange(SHAPE[1]) + 0.5) * 10 / SHAPE[1] - 5
    ink = video.clamp(min=0).square().unflatten(-1, SHAPE)
    ink = ink / ink.sum((-1, -2), keepdim=True).clamp(min=1e-9)
    return torch.stack([(ink.sum(-2) * across).sum(-1), -(ink.sum(-1) * across).sum(-1)], -1)


at, true = centres(frames), known["position"]
miss, middle = (at - true).norm(dim=-1), true.norm(dim=-1)
hidden, t = ~given.mask.any(-1), test.times
parts = {
    "given": ~hidden,
    "between": hidden & (t < SEEN),
    "the next twenty": hidden & (t >= SEEN) & (t < 2 * SEEN),
    "the twenty after": hidden & (t >= 2 * SEEN),
}
rows = {
    name: {
        "median miss": miss[:, part].median().item(),
        "of the box's middle": middle[part].median().item(),
        "MSE of pixels": scores.mse(frames.mean(0)[part], test.values[part]),
        "of the average frame": scores.mse(
            train.values.mean((0, 1)).expand(int(part.sum()), -1), test.values[part]
        ),
    }
    for name, part in parts.items()
}
print(pd.DataFrame(rows).T.round(4).to_string())

# %% [markdown]
# Paths of the centres: ten draws, the truth dashed, dots where a frame was given; to the right in
# blue, upwards in orange. Training videos end where the shade begins.
#
# Between the given frames the paths are right, and walls are met in time. Beyond, the model goes on
# well for some frames and then fails in an instructive way: a ball that has stopped starts again.
# To rest, the field would have to vanish at *every* place at once, and videos of twenty frames
# show little of rest. Note too that the ten draws all but coincide: they know how little is left
# to doubt in the *state*, and nothing of the errors of the field that carries it on.

# %%
figure, axes = panels(6, 3, (3.4, 2.1), sharex=True, sharey=True)
for i, ax in enumerate(axes):
    ax.axvspan(SEEN - 1, FRAMES - 1, color=PALE, zorder=0)
    for d, colour in enumerate(CYCLE[:2]):
        ax.plot(t, at[:10, i, :, d].T, color=colour, lw=0.8, alpha=0.5)
        ax.plot(t, true[i, :, d], color=INK, lw=0.9, ls=(0, (4, 2)))
        ax.plot(t[~hidden[i]], true[i, ~hidden[i], d], "o", ms=3, color=INK)
    ax.set_ylim(-5, 5)
outer_labels(axes, 3, "frame", "place")
show(figure, "2_paths")

# %% [markdown]
# ## 4. What stands still
#
# Nothing told the model that there is friction. Left: $z_s$ of each test video, read off ten
# frames, and the friction that it was simulated with. Right: one ball, with its $z_d$ as it was and
# only $z_s$ changed; how far from its start the painted ball is.
#
# A latent that stands still is told *that* it does, not what to mean. This one was free to help
# with the path as a whole, and it took that: turning it moves the turning points too, and the
# correlation says how little of friction is in it. Where a static latent is to have a meaning, the
# model has to leave it no other: a field in which it can only brake, say.

# %%
z = draws.flat("z0")
z_s = z[..., 0].mean(0)
correlation = torch.corrcoef(torch.stack([z_s, known["friction"]]))[0, 1].item()
print(f"correlation of z_s and friction: {correlation:.2f}")
figure, axes = panels(2, 2, (3.6, 2.8))
axes[0].errorbar(known["friction"], z_s, z[..., 0].std(0), fmt="o", ms=4, color=INK, lw=0.8)
axes[0].set(xlabel="friction (speed lost a frame)", ylabel="$z_s$, mean and sd")
values = torch.linspace(-2, 2, 5)
same = z[:, 0].mean(0).repeat(len(values), 1)
same[:, 0] = values
with torch.no_grad():
    place = centres(model.emission.mean(model.path(same, t)))
for value, path, shade in zip(values, place, torch.linspace(0.85, 0.0, len(values)), strict=True):
    style = {"color": colormaps["viridis"](float(shade)), "label": f"{value:g}"}
    axes[1].plot(t, (path - path[0]).norm(dim=-1), **style)
axes[1].set(xlabel="frame", ylabel="distance from the start")
axes[1].legend(title="$z_s$", fontsize=7, frameon=False)
show(figure, "3_friction")

# %% [markdown]
# ## 5. Where to go next
#
# - A field of your own can say what is known of the motion: any module of $(t, z, u)$ will do, and
#   with `static_in_field=True` its $u$ is $z_s$.
# - `GaussianEmission(..., network=Deconvolution(...))` paints larger or coloured frames.
# - In the tutorial on rotating digits the two kinds of latents do come apart.
