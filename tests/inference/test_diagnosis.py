"""Words about runs whose faults are known."""

from __future__ import annotations

import arviz
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC

from pyro_lebm.inference import MALA, NumPyroMCMC, VectorizedMCMC, diagnose, to_arviz


def data(x: np.ndarray, **stats: np.ndarray) -> object:
    found: object = arviz.from_dict(posterior={"x": x}, sample_stats=stats or None)
    return found


def good(seed: int = 0, shape: tuple[int, ...] = (4, 500)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def names(found: object) -> set[str]:
    return {finding.what for finding in diagnose(found).findings}


def test_independent_draws_pass() -> None:
    found = diagnose(data(good(), diverging=np.zeros((4, 500), bool)))
    assert found.passed and not found.findings
    assert str(found).startswith("No problem found")
    assert found.r_hat < 1.01 and found.ess_bulk > 1000


def test_chains_in_two_modes_are_counted_out() -> None:
    x = good()
    for c in (1, 3):
        x[c] += 20 - x[c].mean()
    found = diagnose(data(x))
    assert not found.passed
    text = str(found)
    assert "They sit in 2 places: 2 of 4 chains near" in text and "near 20" in text
    assert "Tempered" in text


def test_slow_chains_are_no_modes() -> None:
    x = np.cumsum(good(), axis=1)
    found = diagnose(data(x))
    assert {"r_hat", "ess_bulk"} <= {f.what for f in found.findings}
    assert "places" not in str(found)


def test_divergences_still_chains_and_infinities() -> None:
    diverging = np.zeros((4, 500), bool)
    diverging[0, :7] = True
    assert "7 draws (0.4%) diverged" in str(diagnose(data(good(), diverging=diverging)))
    x = good()
    x[2] = 3.0
    assert "chains [2] never moved" in str(diagnose(data(x)))
    x = good()
    x[0, 0] = np.inf
    assert "not finite" in names(data(x))
    assert "one chain" in names(data(good(shape=(1, 2000))))


def test_energies_that_hardly_change() -> None:
    energy = np.cumsum(0.1 * good(1), axis=1)
    assert "energy" in names(data(good(), energy=energy))
    assert "energy" not in names(data(good(), energy=good(1)))


def test_a_site_without_elements_says_nothing() -> None:
    told = diagnose(arviz.from_dict({"x": good(), "none": np.zeros((4, 500, 0))}))
    assert told.passed and told.r_hat < 1.01


def test_what_cannot_be_diagnosed_is_refused() -> None:
    with pytest.raises(ValueError, match="data: expected a group 'posterior', got none"):
        diagnose(arviz.from_dict(prior={"x": good()}))
    with pytest.raises(ValueError, match="data: expected at least 4 draws a chain, got 3"):
        diagnose(data(good(shape=(2, 3))))


SIGMA = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
EFFECT = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])


def centred() -> None:
    """Neal's funnel: its neck is too narrow for any one step."""
    v = pyro.sample("v", dist.Normal(0.0, 3.0))
    pyro.sample("x", dist.Normal(torch.zeros(9), (0.5 * v).exp()).to_event(1))


def non_centred() -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", 8):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * z)
        pyro.sample("y", dist.Normal(theta, SIGMA), obs=EFFECT)


def test_a_funnel_is_flagged_and_a_non_centred_model_passes() -> None:
    pyro.set_rng_seed(0)
    funnel = NumPyroMCMC(centred, "nuts", 500, 500, num_chains=4)
    funnel.run()
    assert not diagnose(to_arviz(funnel)).passed
    schools = VectorizedMCMC(MALA(non_centred), 500, 500, num_chains=64, thinning=4, progress=False)
    schools.run()
    tree = to_arviz(schools)
    found = diagnose(tree)
    assert found.r_hat < 1.02 and found.ess_bulk > 400, str(found)
    assert tree.posterior["theta"].dims == ("chain", "draw", "school")
    assert tree.log_likelihood["y_given_latents"].dims == ("chain", "draw", "school")
    assert tree.observed_data["y"].dims == ("school",)


def test_a_site_that_was_not_saved_is_not_drawn_from_the_prior() -> None:
    kernel = MALA(non_centred)
    mcmc = MCMC(kernel, 8, 8, save_params=["mu", "tau"], disable_progbar=True)
    mcmc.run()
    with pytest.warns(
        UserWarning, match="no deterministics, data or log likelihood.*'z', got none"
    ):
        tree = to_arviz(mcmc)
    assert "log_likelihood" not in tree.groups()
    assert set(tree.posterior.data_vars) == {"mu", "tau"}
