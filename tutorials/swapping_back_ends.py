# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # One model, seven ways of inference
#
# Lynx and hare in Canada, 1900 to 1920, told by pelts: a **Lotka-Volterra** model with unknown
# rates, as a Pyro program. It is written once. What infers it changes by one line: Pyro's own
# NUTS, NumPyro's NUTS compiled from the same program, four Langevin kernels with many chains in one
# process, and a network that reads the posterior off the data.
#
# Several minutes on one core; with `PYRO_LEBM_QUICK=1` a minute, at sizes too small to mean
# anything. As a script it writes its pictures to `runs/tutorial/`.

# %%
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import arviz
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from pyro.infer import MCMC, NUTS, Predictive
from torch import Tensor, nn

from pyro_lebm import EnergyPrior, MLPEnergy, Series, trajectory
from pyro_lebm.inference import (
    MALA,
    MCLMC,
    Barker,
    Draws,
    EncoderGuide,
    GRUEncoder,
    LangevinGuide,
    NumPyroMCMC,
    Underdamped,
    VectorizedMCMC,
    calibrate,
    diagnose,
    fit,
    plots,
    to_arviz,
)
from pyro_lebm.inference.plots.panels import CYCLE, legend, panels
from pyro_lebm.models import GaussianEmission, LatentODE, MLPField

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
# ## 1. The model
#
# Hares multiply at rate $a$ and are eaten; lynxes starve at rate $c$ and multiply by eating:
#
# $$\dot u = (a - b v)\, u, \qquad \dot v = (d u - c)\, v,$$
#
# and counts of pelts (Hudson's Bay Company, in thousands; Hewitt 1921) are log-normal about $u, v$.
# Priors are those of the Stan case study (Carpenter 2018), which has them normal, cut off at zero.

# %%
HARE = [30, 47.2, 70.2, 77.4, 36.3, 20.6, 18.1, 21.4, 22, 25.4, 27.1, 40.3, 57, 76.6, 52.3]
HARE += [19.5, 11.2, 7.6, 14.6, 16.2, 24.7]
LYNX = [4, 6.1, 9.8, 35.2, 59.4, 41.7, 19, 13, 8.3, 9.1, 7.4, 8, 12.3, 19.5, 45.7]
LYNX += [51.1, 29.7, 15.8, 9.7, 10.1, 8.6]
PELTS = torch.tensor([HARE, LYNX]).T
YEARS = torch.arange(21.0)
CENTRE, SPREAD = torch.tensor([1.0, 0.05, 1.0, 0.05]), torch.tensor([0.5, 0.05, 0.5, 0.05])


def predation(rates: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    a, b, c, d = rates.unbind(-1)

    def field(t: Tensor, z: Tensor) -> Tensor:
        u, v = z.unbind(-1)
        return torch.stack([(a - b * v) * u, (d * u - c) * v], -1)

    return field


calls = 0  # of the model: what Pyro's NUTS costs, a gradient each


def model(pelts: Tensor | None = PELTS) -> Tensor:
    global calls
    calls += 1
    proposal = dist.LogNormal(CENTRE.log(), 1.0).to_event(1)
    rates = pyro.sample("rates", proposal)
    prior = dist.Normal(CENTRE, SPREAD).log_prob(rates).sum(-1)
    pyro.factor("cut_normal", prior - proposal.log_prob(rates))
    start = pyro.sample("start", dist.LogNormal(torch.full((2,), 10.0).log(), 1.0).to_event(1))
    sigma = pyro.sample("sigma", dist.LogNormal(-torch.ones(2), 1.0).to_event(1))
    path = trajectory(predation(rates), start, YEARS, step_size=0.5).clamp(min=1e-6)
    with pyro.plate("year", len(YEARS)):
        pyro.sample("pelts", dist.LogNormal(path.log(), sigma).to_event(1), obs=pelts)
    return path


# %% [markdown]
# ## 2. The lines
#
# `MCMC` is Pyro's, one chain, and slow: it gets a hundred draws. `VectorizedMCMC` advances its
# chains together, which costs little more than one. `NumPyroMCMC` traces the program's potential,
# translates it to JAX and compiles it.
#
# All start near the priors' centre. From anywhere else a chain may be caught where hares and lynxes
# do not cycle and the noise explains all: such modes hold next to nothing of the posterior, and are
# hard to leave.


# %%
def near(chains: int) -> dict[str, Tensor]:
    """Unconstrained starting values: logarithms of the priors' centres, scattered a little."""
    centre = {"rates": CENTRE.log(), "start": torch.full((2,), 10.0).log(), "sigma": -torch.ones(2)}
    return {name: value + 0.1 * torch.randn(chains, *value.shape) for name, value in centre.items()}


chains = size(64, 4)
many: dict[str, Any] = {"num_chains": chains, "initial_params": near(chains), "progress": False}
one = {name: value[0] for name, value in near(1).items()}
draws, warmup = size(200, 5), size(500, 10)
RUNS: dict[str, Callable[[], Any]] = {
    "NUTS, Pyro": lambda: MCMC(
        NUTS(model, max_tree_depth=size(6, 1)),
        size(100, 4),
        size(100, 4),
        initial_params=one,
        disable_progbar=True,
    ),
    "NUTS, NumPyro": lambda: NumPyroMCMC(
        model, "nuts", size(1000, 5), size(1000, 5), num_chains=4, initial_params=near(4)
    ),
    "MALA": lambda: VectorizedMCMC(MALA(model), draws, warmup, **many),
    "Barker": lambda: VectorizedMCMC(Barker(model), draws, warmup, **many),
    "Underdamped": lambda: VectorizedMCMC(Underdamped(model, steps=2), draws, warmup, **many),
    "MCLMC": lambda: VectorizedMCMC(MCLMC(model, steps=2), draws, warmup, **many),
}
trees, seconds, gradients = {}, {}, {}
for name, line in RUNS.items():
    pyro.set_rng_seed(1)
    mcmc, calls, begin = line(), 0, time.perf_counter()
    mcmc.run()
    seconds[name] = time.perf_counter() - begin
    gradients[name] = calls
    trees[name] = to_arviz(mcmc)
    if isinstance(mcmc, VectorizedMCMC):
        gradients[name] = (mcmc.warmup_steps + draws) * mcmc.kernel.gradients * mcmc.num_chains
    elif isinstance(mcmc, NumPyroMCMC):  # those of the warm-up are not told
        gradients[name] = int(mcmc.statistics["n_steps"].sum())

# %% [markdown]
# ## 3. An amortised guide
#
# A network trained on pairs drawn from the program itself, $\max_q \mathrm E \log q(z \mid x)$,
# answers any series of pelts at once. It is an approximation: where it differs from the samplers,
# they are right. The program's factor reweighs its draws, so pairs are drawn with weights.

# %%
SITES = {"rates": 4, "start": 2, "sigma": 2}
MOVE = torch.cat([CENTRE.log(), torch.full((2,), 10.0).log(), -torch.ones(2)])


class Reader(nn.Module):
    """q(log z | log x), a full normal."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(42, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU())
        self.head = nn.Linear(128, 8 + 36)

    def forward(self, pelts: Tensor) -> dist.MultivariateNormal:
        found = self.head(self.net(pelts.log().clamp(-5, 8).flatten(-2) - 2.5))
        lower = torch.zeros(*found.shape[:-1], 8, 8)
        lower[..., *torch.tril_indices(8, 8)] = found[..., 8:]
        diagonal = torch.nn.functional.softplus(lower.diagonal(dim1=-2, dim2=-1)) + 1e-3
        tril = lower.tril(-1) + torch.diag_embed(diagonal)
        return dist.MultivariateNormal(MOVE + found[..., :8], scale_tril=tril)


def simulated(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logarithms of latents, pelts, and weights of the cut normal prior."""
    z = MOVE + torch.randn(n, 8)
    rates, start, sigma = z.exp().split(list(SITES.values()), -1)
    path = trajectory(predation(rates), start, YEARS, step_size=0.5).clamp(1e-6, 1e6)
    pelts = (path.log() + sigma[:, None] * torch.randn_like(path)).exp()
    cut = dist.Normal(CENTRE, SPREAD).log_prob(rates).sum(-1)
    weight = cut - dist.LogNormal(CENTRE.log(), 1.0).log_prob(rates).sum(-1)
    finite = pelts.isfinite().all(-1).all(-1)  # a path that overflows tells nothing
    return z, pelts.nan_to_num(1.0), weight.where(finite, -torch.inf)


begin = time.perf_counter()
with torch.no_grad():
    z, x, log_weight = (
        torch.cat(part) for part in zip(*[simulated(1000) for _ in range(size(60, 1))], strict=True)
    )
    chosen = torch.multinomial(log_weight.softmax(0), len(z), replacement=True)
    z, x = z[chosen], x[chosen]
reader = Reader()
optimiser = torch.optim.Adam(reader.parameters(), 1e-3)
for _ in range(size(6000, 5)):
    batch = torch.randint(len(z), (256,))
    loss = -reader(x[batch]).log_prob(z[batch]).mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
with torch.no_grad():
    parts = reader(PELTS).sample((4, size(500, 5))).exp().split(list(SITES.values()), -1)
seconds["amortised"] = time.perf_counter() - begin
read = dict(zip(SITES, parts, strict=True))
trees["amortised"] = arviz.from_dict({name: value.numpy() for name, value in read.items()})

# %% [markdown]
# ## 4. One table
#
# ESS is the least bulk effective sample size over the eight latents; seconds include warm-up, and
# of NumPyro the compilation; gradients include warm-up but for NumPyro. `Underdamped` and `MCLMC`
# make no Metropolis test: no column here shows their bias. The means do, beside NumPyro's NUTS;
# Pyro's hundred draws are too few to compare with.

# %%
rows = {}
for name, tree in trees.items():
    table = arviz.summary(tree, var_names=list(SITES))
    ess = float(table["ess_bulk"].min())
    rows[name] = {
        "ESS": ess,
        "ESS/s": ess / seconds[name],
        "ESS/1000 gradients": 1e3 * ess / gradients[name] if name in gradients else float("nan"),
        "R-hat": table["r_hat"].max(),
        "seconds": seconds[name],
        "mean a": float(tree.posterior["rates"][..., 0].mean()),
        "sd a": float(tree.posterior["rates"][..., 0].std()),
    }
    if name != "amortised":
        print(f"{name}: {diagnose(tree)}\n")
print(pd.DataFrame(rows).T.round(3).to_string())

# %% [markdown]
# The draws of an amortised guide are independent, so that its ESS and R-hat are perfect and say
# nothing of how wrong it is. Rank plots: where a chain's ranks among all draws are not flat, it has
# seen another distribution than the others.

# %%
few = {name: tree.posterior["rates"][:4, :, 0].values for name, tree in trees.items()}
figure, axes = panels(len(few), 4, (2.8, 2.0))
for ax, (name, values) in zip(axes, few.items(), strict=True):
    ranks = values.flatten().argsort().argsort().reshape(values.shape)
    for k, chain in enumerate(ranks):
        ax.hist(chain, bins=20, histtype="step", color=CYCLE[k], label=f"chain {k}")
    ax.set_title(name, loc="left", fontsize=9)
legend(figure, axes[min(2, len(axes) - 1)])
show(figure, "7_ranks")

# %% [markdown]
# What the posterior says of the years seen:

# %%
posterior = trees["NUTS, NumPyro"].posterior.stack(sample=("chain", "draw"))
samples = {k: torch.tensor(posterior[k].values).movedim(-1, 0) for k in SITES}
# Predictive first runs the program at a draw of the prior, where the path may overflow.
with torch.no_grad(), pyro.validation_enabled(False):
    seen = Predictive(model, {k: v[:200] for k, v in samples.items()})(None)["pelts"]
figure, axes = panels(2, 2, (4.2, 2.4))
for ax, species, k in zip(axes, ("hare", "lynx"), range(2), strict=True):
    low, middle, high = seen[..., k].quantile(torch.tensor([0.05, 0.5, 0.95]), dim=0)
    ax.fill_between(1900 + YEARS, low, high, color=CYCLE[0], alpha=0.2, label="90 %")
    ax.plot(1900 + YEARS, middle, color=CYCLE[0], label="median")
    ax.plot(1900 + YEARS, PELTS[:, k], "o", color="#222222", ms=3, label="pelts")
    ax.set_title(f"{species} (thousands)", loc="left", fontsize=9)
legend(figure, axes[0])
show(figure, "8_pelts")

# %% [markdown]
# ## 5. Are posteriors right? Calibration
#
# Draw latents from the prior and data from them; infer; rank the true values among the draws. If
# the inference is right, ranks are uniform, whatever the model (Talts et al. 2018). `calibrate`
# does it for any program; sequences of a plate are replications. Here a small latent ODE with an
# energy in its prior, its parameters known; the truth is drawn from a grid, exactly. Shown are the
# posterior that `LangevinGuide` anneals for new sequences, the same with its spread shrunk by a
# fifth, and an encoder's.

# %%
torch.manual_seed(4)
count = size(500, 40)
prior = EnergyPrior(MLPEnergy(2, (16, 16)), base=2, num_chains=16)
field, emission = MLPField(2, (8,)), GaussianEmission(2, 1, (8,), scale=0.3)
small = LatentODE(2, 1, prior=prior, field=field, emission=emission, tolerance=1e-2)
with torch.no_grad():
    for p in [*prior.energy.parameters(), *emission.parameters()]:
        if p.ndim == 2:
            p.mul_(2.5)  # an energy and a path that bend
times = torch.rand(10).cumsum(0) / 3
template = Series(times, torch.zeros(count, 10, 1), torch.rand(count, 10, 1) < 0.6)


def posterior_of(guide: Any, factor: float = 1.0) -> Callable[[dict[str, Tensor]], Draws]:
    def inference(data: dict[str, Tensor]) -> Draws:
        z = guide.posterior(Series(times, data["x"], template.mask), draws=128)["z0"]
        centre = z.mean(1, keepdim=True)
        return Draws({"z0": centre + factor * (z - centre)})

    return inference


training = Series(times, small.generate(count, times), template.mask)
encoder = EncoderGuide(small, training, GRUEncoder(1, 16, features=4))
known = {"prior.": 0.0, "field.": 0.0, "emission.": 0.0}  # held: the encoder alone learns
steps = size(1500, 5)
fit(small, encoder, training, max_steps=steps, batch_size=100, learning_rates=known, progress=False)
annealed = LangevinGuide(small, template)
found = {
    name: calibrate(small, inference, template, replications=count, progress=False)
    for name, inference in {
        "annealed": posterior_of(annealed),
        "annealed, shrunk to .8": posterior_of(annealed, 0.8),
        "encoder": posterior_of(encoder),
    }.items()
}
for name, calibration in found.items():
    print(f"{name}: outside the 99 % bands: {', '.join(calibration.failed()) or 'nothing'}")
show(plots.plot_calibration(found), "9_calibration")
