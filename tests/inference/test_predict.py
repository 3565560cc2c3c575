from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_lebm.inference.draws import Draws
from pyro_lebm.inference.predict import (
    log_likelihood,
    log_score,
    posterior_predict,
    prior_draws,
)
from pyro_lebm.series import Series
from straight_lines import SIGMA, Lines, evidence, lines, mean, posterior


def draws_for(series: Series, chains: int = 2, draws: int = 5) -> Draws:
    return Draws({"z0": posterior(series).sample((chains, draws))}, method="exact")


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("driven", [False, True], ids=["free", "driven"])
@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_means_follow_each_draw(shared: bool, driven: bool, batch_size: int | None) -> None:
    torch.manual_seed(0)
    series = lines(shared=shared, driven=driven)
    draws = draws_for(series)
    path = posterior_predict(Lines(), draws, series, batch_size=batch_size, mean=True)
    assert path.shape == (2, 5, 4, 6, 1)
    assert torch.equal(path, mean(draws["z0"], series.times, series.covariates))


def test_new_times_and_their_covariates() -> None:
    torch.manual_seed(0)
    series = lines(driven=True)
    draws = draws_for(series)
    times, covariates = torch.tensor([10.0, 20.0]), torch.randn(4, 2, 1, dtype=torch.float64)
    path = posterior_predict(Lines(), draws, series, times, covariates=covariates, mean=True)
    assert torch.equal(path, mean(draws["z0"], times.double(), covariates))


def test_predictions_are_random_about_the_mean_independent_and_seeded() -> None:
    torch.manual_seed(0)
    series = lines(n=40)
    draws = draws_for(series, 4, 50)
    pyro.set_rng_seed(3)
    path = posterior_predict(Lines(), draws, series)
    pyro.set_rng_seed(3)
    assert torch.equal(path, posterior_predict(Lines(), draws, series))
    noise = (path - mean(draws["z0"], series.times))[..., 0]
    assert noise.std() == pytest.approx(SIGMA, rel=0.02)
    assert torch.corrcoef(noise[0].flatten(1)[:2])[0, 1].abs() < 0.3


def test_prediction_scores_no_data_touches_no_gradient_and_no_outer_handler() -> None:
    torch.manual_seed(0)
    series, model = lines(), Lines()
    draws = Draws({"z0": posterior(series).sample((2, 5)).requires_grad_()})
    with poutine.trace() as outer:
        path = posterior_predict(model, draws, series)
        assert model.conditioned == 0
        density = log_likelihood(model, draws, series)
    assert not path.requires_grad
    assert not density.requires_grad
    assert not [name for name in outer.trace.nodes if name not in ("_INPUT", "_RETURN")]


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("batch_size", [None, 3])
def test_log_likelihood_is_of_observed_entries_only(shared: bool, batch_size: int | None) -> None:
    torch.manual_seed(0)
    series = lines(shared=shared, driven=True).hide(4)
    draws = draws_for(series)
    density = log_likelihood(Lines(), draws, series, batch_size=batch_size)
    noise = dist.Normal(mean(draws["z0"], series.times, series.covariates), SIGMA)
    expected = (noise.log_prob(series.filled) * series.mask).sum((-1, -2))
    assert density.shape == (2, 5, 4)
    assert torch.allclose(density, expected)


def test_log_likelihood_of_a_minibatch_is_not_scaled() -> None:
    torch.manual_seed(0)
    series = lines(n=8)
    part = series.batch([1, 5])
    draws = draws_for(series)
    whole = log_likelihood(Lines(), draws, series)[..., [1, 5]]
    assert torch.allclose(log_likelihood(Lines(), draws.select([1, 5]), part), whole)


def test_a_mask_set_by_a_handler_counts() -> None:
    torch.manual_seed(0)
    series = lines()
    keep = torch.tensor([True, False, True, False])
    masked: Any = poutine.mask(Lines(), mask=keep)  # type: ignore[call-overload]
    density = log_likelihood(masked, draws_for(series), series)
    assert (density[..., ~keep] == 0).all()
    assert (density[..., keep] != 0).all()


def test_log_score_is_the_exact_conditional_density() -> None:
    torch.manual_seed(0)
    series = lines(n=6, length=7)
    given = series.hide(4)
    exact = (evidence(series) - evidence(given)).sum() / (6 * 3)
    score = log_score(Lines(), draws_for(given, 4, 4000), given, series, batch_size=5000)
    assert score == pytest.approx(float(exact), abs=0.01)
    assert score == pytest.approx(
        log_score(Lines(), draws_for(given, 4, 4000), given, series.without(given)), abs=0.01
    )


def test_log_score_counts_a_sequence_without_hidden_entries_for_nothing() -> None:
    torch.manual_seed(0)
    series = lines(n=3)
    mask = series.mask.clone()
    mask[:2, 2:] = False
    given = Series(series.times, series.values, mask)
    draws = draws_for(given)
    both = log_score(Lines(), draws.select([0, 1]), given[[0, 1]], series[[0, 1]])
    assert log_score(Lines(), draws, given, series) == pytest.approx(both)


def test_log_score_prefers_the_posterior_to_the_prior() -> None:
    torch.manual_seed(0)
    series = lines(n=20)
    given = series.hide(3)
    before = log_score(Lines(), prior_draws(Lines(), given, 200), given, series)
    assert log_score(Lines(), draws_for(given, 1, 200), given, series) > before + 0.2


@pytest.mark.parametrize("batch_size", [None, 300])
def test_prior_draws_know_nothing_of_the_data(batch_size: int | None) -> None:
    torch.manual_seed(0)
    draws = prior_draws(Lines(), lines(n=10), 1000, batch_size=batch_size)
    assert draws.sites == ("z0",)
    assert draws.shape == (1, 1000, 10)
    assert draws["z0"].mean((0, 1)).abs().max() < 0.15
    assert draws["z0"].std() == pytest.approx(1.0, abs=0.03)


def test_bad_input_is_refused() -> None:
    torch.manual_seed(0)
    series, model = lines(), Lines()
    draws = draws_for(series)

    def predict(*args: Any, **kwargs: Any) -> None:
        posterior_predict(model, draws, series, *args, **kwargs)

    with pytest.raises(ValueError, match=r"draws: expected draws for the 2 sequences .* got 4"):
        posterior_predict(model, draws, series[:2])
    with pytest.raises(ValueError, match=r"draws: expected draws for the 2 sequences .* got 4"):
        log_likelihood(model, draws, series[:2])
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        predict(batch_size=0)
    with pytest.raises(ValueError, match="times: expected finite and strictly increasing"):
        predict(torch.tensor([1.0, 1.0]))
    with pytest.raises(ValueError, match="times: expected finite and strictly increasing"):
        predict(torch.tensor([1.0, torch.nan]))
    with pytest.raises(ValueError, match=r"times: expected shape \(T,\) or \(4, T\), got \(3, 2\)"):
        predict(torch.zeros(3, 2))
    with pytest.raises(
        ValueError, match=r"covariates: expected shape \(4, 2, C\), got \(4, 3, 1\)"
    ):
        predict(torch.tensor([1.0, 2.0]), covariates=torch.zeros(4, 3, 1))
    with pytest.raises(ValueError, match="covariates: expected none without times"):
        predict(covariates=torch.zeros(4, 6, 1))
    with pytest.raises(ValueError, match="covariates: expected values at the new times"):
        posterior_predict(model, draws, lines(driven=True), torch.tensor([1.0]))
    with pytest.raises(ValueError, match=r"expected values of the latent site 'z0', got \['u'\]"):
        posterior_predict(model, Draws({"u": draws["z0"]}), series)
    with pytest.raises(ValueError, match="target: expected the 4 sequences of given, got 2"):
        log_score(model, draws, series, series[:2])
    with pytest.raises(ValueError, match="target: expected entries observed that given hides"):
        log_score(model, draws, series, series)
    with pytest.raises(ValueError, match="num_draws: expected at least 1, got 0"):
        prior_draws(model, series, 0)


def test_a_model_of_another_make_is_refused() -> None:
    torch.manual_seed(0)
    series = lines()
    draws = draws_for(series)

    def silent(*args: Any, **kwargs: Any) -> None:
        pyro.sample("y", dist.Normal(0, 1), obs=torch.tensor(0.0))

    def flat(*args: Any, **kwargs: Any) -> None:
        pyro.sample("x_new", dist.Normal(torch.zeros(3), 1))
        pyro.sample("x", dist.Normal(torch.zeros(3), 1), obs=torch.zeros(3))

    with pytest.raises(ValueError, match=r"model: expected a sample site 'x_new', got .*'y'"):
        posterior_predict(silent, draws, series)
    with pytest.raises(ValueError, match=r"expected site 'x_new' of shape \(10, 4\) .* got"):
        posterior_predict(flat, draws, series)
    with pytest.raises(ValueError, match="expected one log-density of site 'x' for each of 4"):
        log_likelihood(flat, draws, series)
