# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # A joint energy prior over several layers of latents
#
# A hierarchy of latent layers, each Gaussian given the one above, learns what data are made of, and
# generates badly: what the encoder makes of real images fills other places, in all layers together,
# than the Gaussians do. One energy over all layers tells the places apart,
#
# $$p(z_1, z_2) = \frac1Z\, e^{-E_1(z_1) - E_2(z_2)}\; p(z_2)\, p(z_1 \mid z_2)$$
#
# (Cui, Wu & Han 2023, arXiv 2306.06323). The hierarchy is a Pyro program, and `tilt` puts any
# program's latent sites under an energy. Here it is learned in the second of two stages, so that
# two models differ in nothing but that.
#
# Some minutes on one core; with `PYRO_LEBM_QUICK=1` seconds, at sizes too small to mean a thing.
# As a script it writes its pictures to `runs/joint_prior_digits/`.

# %%
import copy
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pyro
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_lebm import LayerwiseEnergy, MLPEnergy, tilt
from pyro_lebm.inference import BottomUpGuide, fit, fit_prior, plots, scores
from pyro_lebm.inference.plots.panels import MUTED, POSTERIOR, panels
from pyro_lebm.models import GaussianEmission, HierarchicalGenerator, datasets
from pyro_lebm.series import Series

QUICK = os.environ.get("PYRO_LEBM_QUICK") == "1"
torch.set_num_threads(1)
pyro.set_rng_seed(0)
FOLDER = Path("runs/joint_prior_digits")


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
# Scikit-learn's digits, 8 x 8 pixels, without the ones: these are kept to see whether the model
# knows that it never met them. An image is a `Series` of one time point.

# %%
STRANGER, SHAPE = 1, (8, 8)
images, labels = datasets.digit_images()
known = images[labels != STRANGER][: size(10_000, 80)]
test, truth = datasets.digit_images("test")
train = datasets.image_series(known)
print(train)

# %% [markdown]
# ## 2. First stage: the hierarchy
#
# Sixteen latents below eight, an image painted from the lower, and an inference network from the
# data up, $q(z_1 \mid x)\, q(z_2 \mid z_1)$: a hierarchical variational autoencoder.

# %%
LOW, TOP = 16, 8
model = HierarchicalGenerator(
    (LOW, TOP),
    observed=64,
    hidden=(64,),
    emission=GaussianEmission(LOW, 64, (128, 128), scale=0.3, activation="silu"),
)
guide = BottomUpGuide(model, train, hidden=(128, 128))
history = fit(
    model,
    guide,
    train,
    max_steps=size(6000, 10),
    learning_rate=2e-3,
    betas=(0.9, 0.99),
    kl_warmup=0.1,
    final_rate=0.05,
    seed=0,
)
print(f"{len(history)} steps, sigma {model.emission.scale.item():.3f}")

# %% [markdown]
# ## 3. Second stage: the energy
#
# `tilt` takes the trained hierarchy as it is and an energy of its layers. `fit_prior` learns the
# energy alone, from posterior draws of the training images. The negatives' chains move in the
# noise that the Gaussian layers are made of, where a hierarchy is round however narrow its layers.

# %%
energy = LayerwiseEnergy({"z1": MLPEnergy(LOW, (64, 64)), "z2": MLPEnergy(TOP, (64, 64))})
hierarchy = copy.deepcopy(model.prior)  # a program is part of one model
prior = tilt(hierarchy, energy, coordinates="noise", num_chains=size(512, 16), refresh=20)
joint = HierarchicalGenerator((LOW, TOP), observed=64, emission=model.emission, prior=prior)
draws = guide.posterior(train, draws=size(16, 2))
layers = {name: draws[name].flatten(0, 2) for name in draws.sites}
history = fit_prior(
    prior, layers, 2e-3, max_steps=size(1500, 5), batch_size=500, final_rate=0.05, seed=0
)

# %% [markdown]
# ## 4. Samples, side by side
#
# On top the hierarchy's own, below those of the same hierarchy under the energy. The distance is of
# features of a small classifier of these digits, beside that of as many real test images: a model
# can hope for no less.


# %%
def painted(generator: HierarchicalGenerator, n: int) -> Tensor:
    """Means of ``n`` new images given their layers."""
    with pyro.poutine.block(), pyro.poutine.trace() as trace, torch.no_grad():
        generator(n=n)
    fn: Any = trace.trace.nodes["x_new"]["fn"]
    mean: Tensor = fn.mean[:, 0]
    return mean.clamp(0, 1)


COLUMNS = 14
pictures = {
    name: painted(generator, 3 * COLUMNS).unflatten(0, (3, COLUMNS))
    for name, generator in (("hierarchy", model), ("with energy", joint))
}
rows = {f"{name} {k + 1}": part[k] for name, part in pictures.items() for k in range(3)}
show(plots.plot_frames(rows, SHAPE), "1_samples")

real = test[truth != STRANGER]
features = scores.classifier_features(images, labels, epochs=size(40, 1))
count = size(len(real), 40)
distances = {
    name: scores.fidelity(painted(generator, count), known, real[:count], features)._asdict()
    for name, generator in (("hierarchy", model), ("with energy", joint))
}
print(f"classifier: {float(features.accuracy):.3f} right of images held out")
print(pd.DataFrame(distances).T.to_string(float_format="%.3g"))

# %% [markdown]
# ## 5. A walk downhill
#
# Adjusted Langevin chains that start at draws of the hierarchy and go to the joint density: their
# energies fall and level out, and what they paint becomes digits. That a mean has levelled out is
# not that the chains have mixed; `benchmarks/joint_prior.py` prints their R-hat.

# %%
density = prior.density().fixed()
STOPS = [0, 5, 20, 80, 320]
walk = [density.base.sample(torch.Size((COLUMNS,)))]
profile = [density.energy_at(walk[0])]
chains = type(prior.chains)(walk[0], step_size=0.3)
with torch.no_grad():
    emission, coordinates = model.emission, prior.coordinates
for _ in range(STOPS[-1]):
    walk.append(chains.run(density.log_prob, 1))
    profile.append(density.energy_at(walk[-1]).detach())
with torch.no_grad():
    rows = {
        f"step {k}": emission.mean(coordinates.values(walk[k])["z1"]).clamp(0, 1) for k in STOPS
    }
show(plots.plot_frames(rows, SHAPE), "2_walk")
figure, (ax,) = panels(1, 1, (4.5, 2.6))
lines = torch.stack(profile).detach()
ax.plot(lines, color=MUTED, lw=0.5)
ax.plot(lines.mean(1), color=POSTERIOR, lw=2)
ax.set(xlabel="Langevin step", ylabel="energy, nats")
show(figure, "3_energy")

# %% [markdown]
# ## 6. What each layer means
#
# An image's upper layer is kept and the lower one drawn anew given it, from the tilted density: a
# site that is fixed is `pyro.condition`, as ever. What stays the same along a row is what the upper
# layer knows.

# %%
few = datasets.image_series(real[:6])
upper = guide.posterior(few, draws=1)["z2"][0, 0]
fixed = upper.unsqueeze(1).expand(-1, COLUMNS - 1, -1).reshape(-1, TOP)
with torch.no_grad(), pyro.poutine.block(), pyro.plate("images", len(fixed)):
    lower, _ = pyro.condition(prior, data={"z2": fixed})()
    again = emission.mean(lower).clamp(0, 1).reshape(len(few), COLUMNS - 1, 64)
rows = {f"image {i + 1}": torch.cat([few.values[i], again[i]]) for i in range(len(few))}
show(plots.plot_frames(rows, SHAPE), "4_resampled")

# %% [markdown]
# ## 7. Strangers
#
# Three scores, each higher where an image is stranger: the negative log joint of the best posterior
# draw, with and without the energy, and the energy alone. Ones are positives; chance has an AUPRC
# of their share.


# %%
def log_joint(generator: HierarchicalGenerator, series: Series, count: int = 20) -> Tensor:
    """log p(x, z), unnormalised, of posterior draws ``(draws, images)``."""
    drawn = guide.posterior(series, draws=count)
    values = {name: drawn.flat(name) for name in drawn.sites}
    with torch.no_grad(), pyro.poutine.block(), pyro.plate("draws", count, dim=-2):
        trace = pyro.poutine.trace(pyro.condition(generator, values)).get_trace(series)
        trace.compute_log_prob()
    nodes: dict[str, Any] = dict(trace.nodes)
    of_sites = [
        n for n in nodes if nodes[n]["type"] == "sample" and n not in ("sequences", "draws")
    ]
    return torch.stack([nodes[n]["log_prob"] for n in of_sites]).sum(0)


groups = {"familiar": real, "strange": test[truth == STRANGER]}
found: dict[str, dict[str, Tensor]] = {"log joint, hierarchy": {}, "log joint, with energy": {}}
found["energy"] = {}
for group, part in groups.items():
    series = datasets.image_series(part)
    found["log joint, hierarchy"][group] = -log_joint(model, series).amax(0)
    found["log joint, with energy"][group] = -log_joint(joint, series).amax(0)
    drawn = guide.posterior(series, draws=20)
    with torch.no_grad():
        values = {name: drawn.flat(name) for name in drawn.sites}
        found["energy"][group] = energy(values).mean(0)
table = {
    name: scores.detection(score["familiar"], score["strange"])._asdict()
    for name, score in found.items()
}
share = len(groups["strange"]) / len(test)
print(pd.DataFrame(table).T.round(2).to_string(), f"\nshare of ones: {share:.2f}")

# %% [markdown]
# ## 8. Where to go next
#
# - One stage: `JointPrior` and `fit`, with this guide or with `LangevinGuide` and no encoder. The
#   conditionals then learn by a contrastive gradient, too.
# - Other energies: `JointEnergy` sees the layers side by side, `ConvolutionalEnergy` takes latents
#   that are maps; any module of a dictionary of sites will do.
# - Other programs: `tilt` asks for continuous latent sites in common plates, and nothing else.
