# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Irregular sinusoids: from data to diagnosis
#
# A **latent neural ODE** explains an irregularly sampled time series by a hidden state that a
# learned vector field carries through continuous time; an **energy-based prior** learns where such
# states start. The model is a Pyro program; what infers its states stands beside it.
#
# Several minutes on one core; with `PYRO_LEBM_QUICK=1` seconds, at sizes too small to mean a thing.
# As a script it writes its pictures to `runs/tutorial/`.

# %%
import math
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import arviz
import pandas as pd
import pyro
import torch
from matplotlib.figure import Figure
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide.initialization import init_to_sample
from torch import Tensor

from pyro_lebm.energy import MLPEnergy
from pyro_lebm.inference import EncoderGuide, LangevinGuide, RefinedGuide, fit, plots, scores
from pyro_lebm.inference.draws import Draws
from pyro_lebm.inference.export import to_arviz
from pyro_lebm.inference.plots.panels import panels
from pyro_lebm.inference.posterior import anneal, best_draw, chains
from pyro_lebm.inference.predict import posterior_predict
from pyro_lebm.inference.training.fit_prior import fit_prior
from pyro_lebm.models import GaussianEmission, LatentODE, MLPField
from pyro_lebm.models.datasets import interpolation, irregular_sines
from pyro_lebm.partition import log_z
from pyro_lebm.prior import EnergyPrior

QUICK = os.environ.get("PYRO_LEBM_QUICK") == "1"
torch.set_num_threads(1)
pyro.set_rng_seed(0)


def size(full: int, quick: int) -> int:
    return quick if QUICK else full


def show(figure: Figure, name: str) -> Figure:
    """In a notebook the cell displays what this returns; a script writes it to runs/tutorial/."""
    if "get_ipython" not in globals():
        path = Path("runs/tutorial") / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130)
        print(f"wrote {path}")
    return figure


# %% [markdown]
# ## 1. The data, and what is hidden
#
# A sequence is $x(t) = \sin(2\pi f t) + b$ plus a little noise, with its own $f \sim U(0.4, 0.8)$
# Hz and $b \sim N(1, 0.1^2)$, at 100 irregular times in five seconds, half of them hidden (hollow).
# The models are told none of this. `Series` holds times, values and what was observed.

# %%
whole, known = irregular_sines(500, seed=1000, truth=True)
times = whole.times
train, _ = interpolation(whole[torch.arange(size(400, 60))], keep=50, seed=0)
test = whole[torch.arange(400, 500)]
given, _ = interpolation(test, keep=50, seed=1)
print(train, given, sep="\n")

figure, axes = panels(3, 3, (3.4, 2.2), sharey=True)
for i, ax in enumerate(axes):
    seen = train.mask[i, :, 0]
    ax.plot(times[~seen], train.values[i, ~seen, 0], "o", ms=3.4, mfc="white", mec="#8a8a8a")
    ax.plot(times[seen], train.values[i, seen, 0], "o", ms=3.4, color="#222222")
    ax.set_title(f"f = {known['frequency'][i]:.2f} Hz", loc="left", fontsize=9)
    ax.set_xlabel("time (s)")
show(figure, "1_data")

# %% [markdown]
# ## 2. The model as a Pyro program
#
# $$z_0 \sim p(z_0) = \tfrac1Z\, e^{-E(z_0)}\, N(z_0; 0, I), \qquad \frac{dz}{dt} = F(z), \qquad
#   x(t_i) \sim N(g(z(t_i)), \sigma^2).$$
#
# An energy $E$, a small network that starts at 0, tilts the *prior*'s Gaussian base; the *field*
# $F$ moves the state; the *emission* $g, \sigma$ shows it. With the energy this is ODE-LEBM (Cheng
# et al. 2024, arXiv 2409.03845); without, the latent ODE (Rubanova et al. 2019, arXiv 1907.03907).
# Only the argument `prior` differs.

# %%
LATENT = 10


def latent_ode(prior: EnergyPrior | None = None) -> LatentODE:
    field, emission = MLPField(LATENT, (100,)), GaussianEmission(LATENT, 1, (100,))
    return LatentODE(LATENT, 1, prior=prior, field=field, emission=emission, tolerance=1e-2)


def energy_prior() -> EnergyPrior:
    return EnergyPrior(MLPEnergy(LATENT, (100, 100)), LATENT, num_chains=1024, refresh=10, steps=3)


trace = pyro.poutine.trace(latent_ode(energy_prior())).get_trace(train)
print({name: tuple(site["value"].shape) for name, site in trace.iter_stochastic_nodes()})

# %% [markdown]
# ## 3. Learning: one function, any guide
#
# A guide is any way to get $z_0$ given $x$. All train by Pyro's `SVI` inside `fit`; **changing the
# inference is changing the line that makes the guide**.
#
# | guide | draws $z_0$ given $x$ from | the model learns by |
# |---|---|---|
# | `EncoderGuide` | a Gaussian whose moments a GRU reads off $x$ | the ELBO |
# | `LangevinGuide` | a chain per sequence, kept between visits | maximum likelihood by MCMC |
# | `RefinedGuide` | the encoder, moved on by adjusted Langevin | the ELBO first, then the same |
#
# The gradient of the log likelihood in an energy's parameters is $\mathbb E_{p(z)}[\nabla E] -
# \mathbb E_{p(z|x)}[\nabla E]$: it takes prior draws too, from chains of their own. The energy is
# phased in late (`energy_from`); `fit_prior` goes on with it alone, on posterior draws, without a
# trajectory. First the model that the rest of this page uses:

# %%
model = latent_ode(energy_prior())
guide = RefinedGuide(EncoderGuide(model, train), refine_from=0.95)  # the line
warm: dict[str, Any] = {"kl_warmup": 0.1, "horizon_warmup": 0.4, "betas": (0.9, 0.95)}
late: dict[str, Any] = {"energy_from": 0.95, "learning_rates": {"prior.": 1e-3}}
options: dict[str, Any] = {"batch_size": 50, "learning_rate": 1e-2, "final_rate": 5e-4, "seed": 0}
history = fit(model, guide, train, max_steps=size(3000, 8), **warm, **late, **options)

guide.train()  # the chains of the training sequences go on from where they are
visited = torch.cat([guide.draw(train) for _ in range(size(8, 1))])
guide.eval()
fit_prior(model.prior, visited, 4e-3, max_steps=size(600, 4), batch_size=400, final_rate=0.02)

# The two other ways, for a shorter time.
classical = latent_ode()
encoder = EncoderGuide(classical, train)  # the line
encoder_history = fit(classical, encoder, train, max_steps=size(300, 4), **warm, **options)
pure = latent_ode(energy_prior())
langevin = LangevinGuide(pure, train)  # the line
langevin_history = fit(pure, langevin, train, max_steps=size(60, 4), **late, **options)

# %% [markdown]
# For sequences that training never saw, `guide.posterior` anneals a population of draws to the
# posterior by sequential Monte Carlo (SMC) from the prior, so that modes get their right weights; a
# `RefinedGuide` anneals another from the encoder, and tries harder where that one fits the data
# better. An `EncoderGuide` alone is taken at its word. These trainings differ in length: no race.

# %%
some = torch.arange(size(24, 6))
unseen, values = given[some], test.values[some]
rows = {}
for name, (m, g, h) in {
    "latent ODE, EncoderGuide": (classical, encoder, encoder_history),
    "ODE-LEBM, LangevinGuide": (pure, langevin, langevin_history),
    "ODE-LEBM, RefinedGuide": (model, guide, history),
}.items():
    draws = g.posterior(unseen, draws=20)
    mean = posterior_predict(m, draws, unseen, mean=True, batch_size=8).mean((0, 1))
    paths = posterior_predict(m, draws, unseen, batch_size=8)
    rows[name] = {
        "training (s)": round(h.last["seconds"]),
        "steps": len(h),
        "MSE, hidden points": scores.mse(mean, values, ~unseen.mask),
        "inside 90% band": scores.coverage(paths, values, 0.9, ~unseen.mask),
        "sigma": m.emission.scale.item(),
    }
print(pd.DataFrame(rows).T.round(4).to_string())

# %% [markdown]
# ## 4. Prediction: between the points, beyond them, and from almost none
#
# `posterior_predict` gives draws at any times. No training sequence goes beyond 5 s; what is
# shaded is extrapolated, and scored apart. The bands know what the *state* may be, given the
# learned field and emission, but not that nothing taught those beyond 5 s.

# %%
ahead = torch.linspace(0.0, 7.5, 151)
phase = 2 * math.pi * known["frequency"][400:, None] * ahead
truth = (phase.sin() + known["offset"][400:, None]).unsqueeze(-1)
draws = guide.posterior(given[:3], draws=size(100, 20))
paths = posterior_predict(model, draws, given[:3], ahead)
for name, part in {"up to 5 s": ahead <= 5, "beyond 5 s": ahead > 5}.items():
    inside = scores.coverage(paths[..., part, :], truth[:3, part], 0.9)
    print(f"{name}: {inside:.0%} of the noiseless truth inside the 90% band ({draws.method})")
few, seconds = given[:3], "time (s)"
figure = plots.plot_sequences(few, paths, ahead, truth=truth[:3], horizon=5, time_label=seconds)
show(figure, "2_forecast")

# %% [markdown]
# Fifty points leave little to doubt. **Two points** leave much: this sequence was picked because
# several frequencies pass through both (dots; the truth is dashed). The encoder has never seen so
# little, so the population starts from the prior (`anneal`); four independent ones are the
# *chains* of the result. The best draw is a point estimate, without spread: it does not tell that
# there was a choice. It has a type of its own, `PointEstimate`, which no exporter takes for a
# posterior.

# %%
CHOSEN = 23
sparse = test.hide(2, torch.Generator().manual_seed(2))[torch.tensor([CHOSEN])]
smc = anneal(guide.program, sparse, draws=size(500, 20), runs=4)
best = best_draw(smc)


@torch.no_grad()
def curves(z0: Tensor, at: Tensor = ahead) -> Tensor:
    """The noiseless sequences ``(M, T, 1)`` of states ``(M, L)``."""
    mean: Tensor = model.emission.mean(model.path(z0, at))
    return mean


z = smc.flat("z0")[torch.randperm(4 * smc.num_draws), 0]
pair = {"posterior draws": curves(z), f"the {best.method}": curves(best.values["z0"])}
figure = plots.plot_generated(pair, ahead, lines=40, time_label=seconds)
for ax in figure.axes:
    ax.plot(ahead, truth[CHOSEN], color="#b2182b", lw=1.2, ls=(0, (4, 2)))
    ax.plot(times[sparse.mask[0, :, 0]], sparse.values[sparse.mask], "o", color="#222222", zorder=3)
show(figure, "3_two_points")

# %% [markdown]
# ## 5. What the energy is for
#
# An emission learns from states that posteriors visit; generation asks it about states that the
# *prior* visits, and the energy is to move the prior there. How far it does, the squared maximum
# mean discrepancy (MMD) to fresh data says, of unconditional curves from the base alone and from
# the prior. Its floor is that of other fresh data.

# %%
count = size(500, 40)
prior = model.prior()
z = prior.sample((count,))
data, more = (irregular_sines(count, seed=seed, times=times).values for seed in (5000, 6000))
bare = curves(prior.base.sample((count,)), times)
generated = {"data": data, "base, no energy": bare, "energy-based prior": curves(z, times)}
for name, x in {"floor": more, **generated}.items():
    print(f"MMD {name:<20}{scores.mmd(x, data, scores.median_bandwidth(data)):.4f}")
show(plots.plot_generated(generated, times, time_label=seconds), "4_generated")

# %% [markdown]
# A constant energy would tilt nothing: how much does this one vary over its draws? $\log Z$, which
# only normalised scores need, is estimated from below and above, until a parameter changes.

# %%
energy = model.prior.energy(z.requires_grad_(True))
(slope,) = torch.autograd.grad(energy.sum(), z)
z = z.detach()
steepness = slope.norm(dim=-1).mean().item()
print(f"energy: sd {energy.std().item():.2f} nats, mean gradient {steepness:.2f} nats per unit")
print("log Z:", log_z(model.prior, particles=size(256, 16), rungs=size(400, 20)))

# %% [markdown]
# The landscape, and in it draws of the prior and of the posteriors of training sequences. Maximum
# likelihood would have the two clouds agree; where they do not, learning has not finished.

# %%
show(plots.plot_energy(model.prior().log_prob, z, visited[: len(train)]), "5_energy")

# %% [markdown]
# ## 6. Diagnosis: the same program under MCMC
#
# Are the draws right? Other samplers of the same program say: `chains`, long Metropolis-adjusted
# Langevin chains from scattered starts, and Pyro's own **NUTS**, on the sequence with two points.
# One exporter, `to_arviz`, takes all of them to ArviZ, a finished `MCMC` of Pyro's included.

# %%
length = size(500, 20)
long = chains(guide.program, sparse, num_chains=4, draws=length, warmup=length, steps=3)
finished = []
for seed in range(2):
    pyro.set_rng_seed(seed)
    kernel = NUTS(model, max_tree_depth=4, init_strategy=init_to_sample)
    finished.append(MCMC(kernel, size(60, 6), size(60, 6), disable_progbar=True))
    finished[-1].run(sparse)
nuts = Draws({"z0": torch.stack([m.get_samples()["z0"] for m in finished])}, method="NUTS")

# %%
tree = to_arviz(long, model=model, series=sparse, times=ahead, batch_size=500)
print(*tree.groups(), "| of Pyro's MCMC:", *to_arviz(finished[0], series=sparse).groups())
summary = arviz.summary(tree, var_names=["z0"], kind="diagnostics")
print(summary.to_string())
worst = summary["r_hat"].argsort().to_numpy()[-2:]
show(plots.plot_chains(long, components=worst), "6_chains")

# %% [markdown]
# Shown are the two latents of largest R-hat. Where chains agree, traces overlap, rank histograms
# are flat and R-hat is near 1 (below 1.01, Vehtari et al. 2021). The chains that *train* a model
# are far shorter, ten steps a visit for `LangevinGuide`: not converged, by design. Of SMC the order
# of draws means nothing; its R-hat compares populations.

# %%
short = chains(guide.program, sparse, num_chains=4, draws=10, warmup=0)
runs = {"long Langevin": long, "NUTS": nuts, "a training visit": short, "annealed SMC": smc}
show(plots.plot_convergence(runs), "7_convergence")

# %% [markdown]
# A large R-hat says *that* chains disagree. About what? Here, the frequency, read below off each
# draw's curve by least squares. Two points say so little that brute force can be the reference:
# many prior draws, weighted by their likelihood. Between two frequencies that fit lie curves that
# miss a point: a chain of small steps seldom leaves a mode, and where it sits says where it started
# rather than what the mode weighs. Annealing starts with particles everywhere and gives each mode
# some by its mass: so `guide.posterior` anneals. Its error shows in how the populations differ.

# %%
grid = torch.linspace(0.3, 0.9, 241)
waves = torch.sin(2 * math.pi * grid[:, None] * times)


def frequencies(z0: Tensor) -> Tensor:
    """The frequency (Hz) of the sinusoid nearest to each state's curve, whatever its level."""
    parts = curves(z0, times).squeeze(-1).split(500)
    return torch.cat([grid[(part[:, None] - waves).var(-1).argmin(-1)] for part in parts])


z_many = prior.sample((size(20000, 200), 1))
likelihood = guide.program.rebind(sparse).log_parts(z_many)[1]
weight = likelihood[:, 0].softmax(0).detach()
print(f"brute force: {1 / weight.square().sum().item():.0f} effective of {len(weight)} draws")
found = {"brute force": (frequencies(z_many[:, 0]), weight)}
for name, drawn in {"SMC": smc, "Langevin": long, "NUTS": nuts}.items():
    for c, z0 in enumerate(drawn["z0"][:, :, 0]):
        found[f"{name} {c}"] = (frequencies(z0), torch.full((len(z0),), 1 / len(z0)))
bands = list(pairwise((0.3, 0.55, 0.67, 0.9)))
shares = {
    name: {f"{a}-{b} Hz": f"{w[(x > a) & (x <= b)].sum():.2f}" for a, b in bands}
    for name, (x, w) in found.items()
}
print(pd.DataFrame(shares).T.to_string())

# %% [markdown]
# ## 7. Where to go next
#
# - Your data: `Series(times, values, mask)`; `Series.from_list` pads sequences of their own times.
# - Counts, binary data: another emission. Known inputs: `covariates`. Your own model: any program
#   with its continuous latent sites in a plate of sequences takes these guides.
# - `fit(..., validation=(given, target))` stops by the predictive score of hidden points;
#   `checkpoint=` and `resume=True` survive a kill. `make demo` compares trainings at equal seconds.
# - Other samplers, hundreds of chains, NumPyro: "Swap the inference" in the README.
