"""The contract of every kernel under Pyro's own MCMC."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC
from pyro.infer.autoguide.initialization import init_to_value
from torch import Tensor

from pyro_lebm.inference import MALA, MALT, MCLMC, ULA, Tempered, Underdamped
from samplers import ADJUSTED, CONJUGATE, KERNELS, conjugate, might_be_singular
from scripts import run_script

QUIET: dict[str, Any] = {"disable_progbar": True}


def ran(kernel: Any, draws: int, warmup: int, *args: Any, **options: Any) -> MCMC:
    mcmc = MCMC(kernel, num_samples=draws, warmup_steps=warmup, **QUIET, **options)
    mcmc.run(*args)
    return mcmc


@pytest.mark.parametrize("name", KERNELS)
def test_a_run_of_pyro(name: str) -> None:
    pyro.set_rng_seed(0)
    mcmc = ran(KERNELS[name](conjugate), 30, 30)
    samples = mcmc.get_samples()
    assert {site: value.shape for site, value in samples.items()} == {
        "rate": (30,),
        "share": (30,),
        "centre": (30, 2),
    }
    assert bool((samples["rate"] > 0).all()) and bool((samples["share"] < 1).all())
    assert all(bool(torch.isfinite(value).all()) for value in samples.values())
    assert float(samples["rate"].std()) > 0
    found = mcmc.diagnostics()
    for key in ("lp", "acceptance_rate", "step_size", "n_steps"):
        assert len(found[key]["chain 0"]) == 30
    assert found["divergences"]["chain 0"] == []
    assert 0 < found["acceptance rate"]["chain 0"] <= 1
    assert ("energy" in found) == (name in ("MALT", "HMC", "Underdamped"))
    mcmc.summary()


@pytest.mark.parametrize("name", ADJUSTED)
def test_one_chain_finds_known_posteriors(name: str) -> None:
    pyro.set_rng_seed(1)
    kernel = ADJUSTED[name](conjugate)
    draws = 1500 if kernel.gradients == 1 else 600  # of which each is worth more, and costs more
    mcmc = ran(kernel, draws, 300)
    table = mcmc.diagnostics()
    for site, exact in CONJUGATE.items():
        x = mcmc.get_samples()[site]
        # below zero where draws are antithetic: they are worth no fewer than they are, then
        ess = table[site]["n_eff"]
        ess = torch.where(ess > 0, ess, float(draws))
        error = exact.stddev / ess.sqrt()
        # Four numbers a kernel: beyond 4.5 standard errors once in 40 000 runs.
        assert bool(((x.mean(0) - exact.mean).abs() < 4.5 * error).all()), site
        assert float(ess.min()) > 100


@pytest.mark.parametrize("name", KERNELS)
def test_a_seed_gives_the_same_draws(name: str) -> None:
    kernel = KERNELS[name](conjugate)
    runs = []
    for _ in range(2):  # a second run on the same kernel, too
        pyro.set_rng_seed(3)
        runs.append(ran(kernel, 8, 8).get_samples())
    assert all(torch.equal(runs[0][site], runs[1][site]) for site in runs[0])


@pytest.mark.parametrize("name", KERNELS)
def test_a_potential_function_and_its_starting_point(name: str) -> None:
    def potential_fn(z: dict[str, Tensor]) -> Tensor:
        value: Tensor = 0.5 * ((z["b"] - 3.0) ** 2).sum() + 0.5 * (z["a"] ** 2).sum()
        return value

    start = {"a": torch.full((2, 2), 0.7), "b": torch.tensor([5.0])}
    options = {"step_size": 1e-6, "adapt_step_size": False, "metric": "none"}
    kernel = KERNELS[name](potential_fn=potential_fn, **options)
    samples = ran(kernel, 2, 0, initial_params=start).get_samples()
    for site, value in start.items():
        assert torch.allclose(samples[site][0], value, atol=1e-4)
        assert samples[site].shape == (2, *value.shape)


@pytest.mark.parametrize("name", KERNELS)
def test_a_model_without_latent_sites(name: str) -> None:
    def empty() -> None:
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.tensor(1.0))

    assert ran(KERNELS[name](empty), 5, 2).get_samples() == {}


@pytest.mark.parametrize("name", KERNELS)
def test_regions_that_are_not_finite_are_never_entered(name: str) -> None:
    pyro.set_rng_seed(4)

    def half(z: dict[str, Tensor]) -> Tensor:
        value: Tensor = torch.where(z["x"][0] > 0, 0.5 * (z["x"] ** 2).sum(), torch.nan)
        return value

    kernel = KERNELS[name](potential_fn=half, step_size=0.5, adapt_step_size=False, metric="none")
    mcmc = ran(kernel, 200, 0, initial_params={"x": torch.tensor([0.5, 0.5])})
    x = mcmc.get_samples()["x"]
    assert bool((x[:, 0] > 0).all()) and bool(torch.isfinite(x).all())
    assert float(x[:, 0].std()) > 0.1
    assert len(mcmc.diagnostics()["divergences"]["chain 0"]) > 0


@pytest.mark.parametrize("name", KERNELS)
def test_a_singular_matrix_rejects_instead_of_raising(name: str) -> None:
    pyro.set_rng_seed(5)
    fixed: dict[str, Any] = {"step_size": 0.1, "adapt_step_size": False, "metric": "none"}
    start = init_to_value(values={"scale": torch.tensor(0.6), "beside": torch.tensor(0.0)})
    mcmc = ran(KERNELS[name](might_be_singular, init_strategy=start, **fixed), 50, 0)
    scale = mcmc.get_samples()["scale"]
    assert bool((scale > 0).all()) and float(scale.std()) > 0


def test_names_of_saved_sites_come_in_any_order() -> None:
    pyro.set_rng_seed(6)

    def model() -> None:
        pyro.sample("a", dist.Normal(100.0, 1.0))
        pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    samples = ran(MALA(model), 20, 20, save_params=["b", "a"]).get_samples()
    assert samples["b"].shape == (20, 2) and samples["a"].shape == (20,)
    assert float(samples["a"].mean()) > 90 > float(samples["b"].abs().max())
    kernel = MALA(model)
    kernel.save_params = ["b"]
    assert set(ran(kernel, 5, 5).get_samples()) == {"b"}


# In a process of its own: other tests load JAX, which must not be forked, and a chain that hangs
# would hang them all.
TWO_PROCESSES = """
import sys
import pyro, torch
import pyro.distributions as dist
from pyro.infer import MCMC
from pyro_lebm.inference import MALT

class Weighted(pyro.nn.PyroModule):
    def __init__(self):
        super().__init__()
        self.loc = torch.nn.Parameter(torch.tensor(0.0))

    def forward(self):
        pyro.sample("x", dist.Normal(self.loc, 1.0))

def with_store():
    pyro.sample("x", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))

if __name__ == "__main__":
    model, context = sys.argv[1:]
    torch.multiprocessing.cpu_count = lambda: 4  # or Pyro runs them one after the other
    pyro.param("loc", torch.tensor(50.0))
    pyro.set_rng_seed(7)
    weighted = Weighted()
    weighted.loc.data += 50.0  # trained
    kernel = MALT(weighted if model == "module" else with_store)
    mcmc = MCMC(kernel, 30, 30, num_chains=2, mp_context=context, disable_progbar=True)
    mcmc.run()
    x = mcmc.get_samples(group_by_chain=True)["x"]
    assert x.shape == (2, 30)
    assert not torch.equal(x[0], x[1])
    assert abs(float(x.mean()) - 50) < 2, x.mean()  # 0 where it was lost
"""


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("model", ["module", "store"])
def test_two_processes_carry_the_weights(context: str, model: str, tmp_path: Path) -> None:
    script = tmp_path / "two_processes.py"
    script.write_text(TWO_PROCESSES)
    result = run_script(str(script), model, context, cwd=tmp_path, timeout=120)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("metric", ["dense", "diag"])
def test_the_metric_makes_up_for_scales(metric: str) -> None:
    pyro.set_rng_seed(8)
    sd = torch.logspace(-3, 3, 8)

    def model() -> None:
        pyro.sample("x", dist.Normal(torch.zeros(8), sd).to_event(1))

    mcmc = ran(MALA(model, metric=metric), 2000, 600)
    x = mcmc.get_samples()["x"]
    ess = mcmc.diagnostics()["x"]["n_eff"]
    assert float(ess.min()) > 100
    # eight means and eight variances, 4.5 standard errors each
    assert bool((x.mean(0).abs() < 4.5 * sd / ess.sqrt()).all())


def test_a_regression_on_uncentred_years() -> None:
    pyro.set_rng_seed(9)
    years = torch.arange(1950.0, 2010.0, dtype=torch.float64)
    y = 0.3 * (years - 1980) + 5 + torch.randn(60, dtype=torch.float64)

    def model() -> None:
        intercept = pyro.sample("intercept", dist.Normal(torch.tensor(0.0).double(), 2000.0))
        slope = pyro.sample("slope", dist.Normal(torch.tensor(0.0).double(), 10.0))
        pyro.sample("y", dist.Normal(intercept + slope * years, 1.0).to_event(1), obs=y)

    design = torch.stack([torch.ones_like(years), years], 1)
    precision = design.T @ design + torch.diag(torch.tensor([2000.0**-2, 0.01]).double())
    cov = torch.linalg.inv(precision)
    mean = cov @ design.T @ y
    assert float(-cov[0, 1] / (cov[0, 0] * cov[1, 1]).sqrt()) > 0.9999
    mcmc = ran(MALA(model), 3000, 1000)
    table = mcmc.diagnostics()
    for k, site in enumerate(("intercept", "slope")):
        x, ess = mcmc.get_samples()[site], table[site]["n_eff"]
        sd = cov[k, k].sqrt()
        assert float(ess) > 300
        assert float((x.mean() - mean[k]).abs()) < 4.5 * float(sd / ess.sqrt())
        assert abs(float(x.std() / sd) - 1) < 4.5 * math.sqrt(1 / (2 * float(ess)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MALA(), "model, potential_fn: expected exactly one"),
        (lambda: MALA(conjugate, lambda z: z["x"]), "model, potential_fn: expected exactly one"),
        (lambda: MALA(conjugate, step_size=0.0), "step_size: expected a positive number, got 0"),
        (lambda: MALA(conjugate, metric="full"), "metric: expected one of"),
        (lambda: ULA(conjugate, target_acceptance=1.0), r"target_acceptance: expected .* got 1.0"),
        (lambda: Underdamped(conjugate, friction=0.0), "friction: expected a positive number"),
        (lambda: MALT(conjugate, friction=-1.0), "friction: expected a number of at least 0"),
        (lambda: MALT(conjugate, steps=0), "steps: expected a whole number of at least 1, got 0"),
        (lambda: MCLMC(conjugate, length=-1.0), "length: expected a positive number, got -1.0"),
        (lambda: Tempered(conjugate, temperatures=1), "temperatures: expected .* 2, got 1"),
        (lambda: Tempered(conjugate, hottest=1.0), "hottest: expected a number above 1, got 1.0"),
        (lambda: ran(MALA(potential_fn=lambda z: z["x"]), 2, 2), "initial_params: expected"),
    ],
)
def test_bad_input_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_mclmc_says_that_it_needs_two_dimensions() -> None:
    def model() -> None:
        pyro.sample("x", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="at least 2 dimensions, got 1"):
        ran(MCLMC(model), 2, 2)
