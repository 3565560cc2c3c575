"""NumPyro on Pyro models as they are: the translation, its loops, and the draws."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from compiled_models import MODELS, TIMES, Tilted
from pyro_lebm.inference import NumPyroMCMC
from pyro_lebm.inference.sampling.numpyro_mcmc import translated
from pyro_lebm.programs.potential import potential
from samplers import CONJUGATE, conjugate

jax = pytest.importorskip("jax")


@pytest.mark.parametrize("name", ["conjugate", "energy and trajectory"])
def test_value_and_gradient_are_those_of_torch(name: str) -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        with jax.enable_x64(True):
            target = MODELS[name]()
            z = 0.5 * torch.randn(4, target.dim, dtype=torch.float64)
            function = jax.jit(jax.value_and_grad(translated(target, z[0])))
            for one in z:
                leaf = one.clone().requires_grad_(True)
                value = target.single(leaf)
                (gradient,) = torch.autograd.grad(value, leaf)
                found, slope = function(one.numpy())
                assert float(found) == pytest.approx(value.item(), rel=1e-10)
                assert torch.allclose(
                    torch.tensor(slope.tolist(), dtype=torch.float64), gradient, atol=1e-8
                )
    finally:
        torch.set_default_dtype(torch.float32)


def _size(step: float) -> int:
    torch.manual_seed(0)
    target = potential(Tilted(step), TIMES)
    function = translated(target, torch.zeros(target.dim))
    return len(str(jax.make_jaxpr(function)(jax.numpy.zeros(target.dim))).splitlines())


def test_equal_steps_of_a_solver_are_one_loop() -> None:
    few, many = _size(4.0 / 16), _size(4.0 / 64)
    assert many < 1.2 * few


@pytest.mark.parametrize("kernel", ["nuts", "hmc", "barker"])
def test_known_posteriors(kernel: str) -> None:
    pyro.set_rng_seed(0)
    mcmc = NumPyroMCMC(conjugate, kernel, 1000, 500, num_chains=4)
    mcmc.run()
    assert mcmc.get_samples(group_by_chain=True)["centre"].shape == (4, 1000, 2)
    table = mcmc.diagnostics()
    for site, exact in CONJUGATE.items():
        x, ess = mcmc.get_samples()[site], table[site]["n_eff"]
        # four means a kernel, beyond 4.5 standard errors once in 12 000 runs of all three
        assert bool(((x.mean(0) - exact.mean).abs() < 4.5 * exact.stddev / ess.sqrt()).all())
        assert float(ess.min()) > 100
    mcmc.summary()


def test_a_seed_and_a_start_give_the_same_draws() -> None:
    start = {"rate": torch.zeros(2), "share": torch.zeros(2), "centre": torch.ones(2, 2)}
    runs = []
    for _ in range(2):
        pyro.set_rng_seed(1)
        mcmc = NumPyroMCMC(conjugate, "nuts", 20, 20, num_chains=2, initial_params=start)
        mcmc.run()
        runs.append(mcmc.get_samples()["rate"])
    assert torch.equal(runs[0], runs[1])
    assert mcmc.statistics["lp"].shape == (2, 20)
    assert {"acceptance_rate", "n_steps", "diverging", "energy"} <= set(mcmc.statistics)


def test_an_operation_that_is_not_translated_is_named_with_its_site() -> None:
    def model() -> None:
        x = pyro.sample("x", dist.Normal(1.0, 1.0))
        pyro.sample("y", dist.Normal(torch.special.airy_ai(x), 1.0), obs=torch.ones(()))

    with pytest.raises(NotImplementedError, match=r"'y' needs the operation aten.special_airy"):
        NumPyroMCMC(model, num_samples=2).run()


def test_a_branch_on_latent_values_is_refused() -> None:
    def model() -> None:
        x = pyro.sample("x", dist.Normal(1.0, 1.0))
        scale = 2.0 if bool(x > 0) else 1.0
        pyro.sample("y", dist.Normal(x, scale), obs=torch.ones(()))

    with pytest.raises(ValueError, match="expected the same operations whatever the latent values"):
        NumPyroMCMC(model, num_samples=2).run()


def counts() -> None:
    """A number that is an integer in the first turn only."""
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    n = (a > -5).long()
    for _ in range(6):
        n = n + 0.3 * a
    pyro.sample("x", dist.Normal(n, 0.1), obs=torch.tensor(1.0))


def widening() -> None:
    """A number that becomes a vector."""
    mean = pyro.sample("start", dist.Normal(0.0, 1.0))
    slopes = pyro.sample("slopes", dist.Normal(torch.zeros(6), 1.0).to_event(1))
    for slope, column in zip(slopes, torch.arange(18.0).reshape(6, 3), strict=True):
        mean = mean + slope * column
    pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=torch.ones(3))


def growing() -> None:
    """A history that gets longer."""
    path = pyro.sample("path", dist.Normal(torch.zeros(1), 1.0).to_event(1))
    for _ in range(6):
        path = torch.cat([path, torch.sin(0.5 * path[-1:])])
    pyro.sample("x", dist.Normal(path, 1.0).to_event(1), obs=torch.ones(7))


@pytest.mark.parametrize("model", [counts, widening, growing])
def test_turns_that_are_not_alike(model: Any) -> None:
    torch.manual_seed(0)
    target = potential(model)
    function = jax.value_and_grad(translated(target, torch.zeros(target.dim)))
    for z in torch.randn(3, target.dim):
        leaf = z.clone().requires_grad_(True)
        value = target.single(leaf)
        (gradient,) = torch.autograd.grad(value, leaf)
        found, slope = function(z.numpy())
        assert float(found) == pytest.approx(value.item(), rel=1e-4)
        assert torch.allclose(torch.tensor(slope.tolist()), gradient, rtol=1e-3, atol=1e-2)


def periodic() -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(5), 1.0).to_event(1))
    wide = nn.functional.pad(z[None, None], (1, 1), mode="circular")
    pyro.sample("x", dist.Normal(wide.sum(), 1.0), obs=torch.tensor(0.0))


def dropping() -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(5), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(nn.functional.dropout(z).sum(), 1.0), obs=torch.tensor(0.0))


def outside() -> None:
    z = pyro.sample("z", dist.Normal(0.5, 0.1))
    pyro.sample("x", dist.Normal(float(np.sin(z.detach().numpy())), 0.1), obs=torch.tensor(1.0))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (periodic, "aten.copy_.* writes into part of a tensor"),
        (dropping, r"no random numbers in a density, got aten.* eval\(\) mode"),
        (outside, "its translation is another function: log density"),
    ],
)
def test_what_cannot_be_followed_is_refused_not_wrong(model: Any, message: str) -> None:
    pyro.set_rng_seed(0)
    with pytest.raises(ValueError, match=message):
        NumPyroMCMC(model, num_samples=2, warmup_steps=2, num_chains=1).run()


def test_without_jax_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpyro", None)
    monkeypatch.setitem(sys.modules, "numpyro.infer", None)
    with pytest.raises(ImportError, match=r"pip install 'pyro-lebm\[numpyro\]'"):
        NumPyroMCMC(conjugate)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "gibbs"}, "kernel: expected one of .* got 'gibbs'"),
        ({"num_chains": 0}, "num_chains: expected"),
        ({"num_samples": 0}, "num_samples: expected"),
    ],
)
def test_bad_input_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NumPyroMCMC(conjugate, **options)
