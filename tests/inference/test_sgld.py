"""Minibatches: the bias they have, what control variates take off it, and what is refused."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC
from torch import Tensor

from pyro_lebm.inference import SGLD, VectorizedMCMC, diagnose, to_arviz

N, B, STEP, CHAINS = 500, 10, 0.5, 400
DATA = torch.randn(N, generator=torch.Generator().manual_seed(0)) + 1.0
SD = (N + 1 / 100) ** -0.5  # of the posterior of `location`


def location(x: Tensor) -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def logistic(x: Tensor, y: Tensor) -> None:
    slope = pyro.sample("slope", dist.Normal(torch.zeros(2), 5.0).to_event(1))
    intercept = pyro.sample("intercept", dist.Normal(0.0, 5.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=x @ slope + intercept), obs=y)


def ran(kernel: SGLD, draws: int, warmup: int, chains: int, **options: Any) -> VectorizedMCMC:
    mcmc = VectorizedMCMC(kernel, draws, warmup, num_chains=chains, progress=False, **options)
    mcmc.run()
    return mcmc


@pytest.mark.parametrize("control_variates", [True, False])
def test_variance_is_that_of_the_step_and_the_minibatches(control_variates: bool) -> None:
    pyro.set_rng_seed(0)
    kernel = SGLD(
        location, data=DATA, batch_size=B, step_size=STEP, control_variates=control_variates
    )
    mcmc = ran(kernel, 20, 60, CHAINS, thinning=5)
    # In white coordinates z' = (1 - s^2/2) z + s e + s^2/2 n; a row's gradient x - z differs from
    # that at any centre by no more than z does, so that control variates leave no noise at all.
    noise = 0.0 if control_variates else STEP**2 / 4 * (N * SD) ** 2 / B * DATA.var(correction=0)
    variance = SD**2 * (1 + float(noise)) / (1 - STEP**2 / 4)
    z = mcmc.get_samples(group_by_chain=True)["loc"].double()
    mean = float(DATA.sum()) * SD**2
    by_chain = (z - mean).square().mean(1)
    error = float(by_chain.std()) / math.sqrt(CHAINS)
    assert error < 0.05 * variance
    assert abs(float(by_chain.mean()) - variance) < 4 * error  # once in 16 000, each
    centre = float(z.mean(1).std()) / math.sqrt(CHAINS)
    assert abs(float(z.mean()) - mean) < 4 * centre
    seen = mcmc.statistics["gradient_noise"].double()
    assert abs(float(seen.mean() - noise)) < 4 * float(seen.std()) / math.sqrt(seen.numel()) + 1e-6


def test_the_diagnosis_tells_the_noise() -> None:
    pyro.set_rng_seed(1)
    noisy, quiet = (
        diagnose(
            to_arviz(ran(SGLD(location, data=DATA, batch_size=B, control_variates=cv), 50, 20, 4))
        )
        for cv in (False, True)
    )
    assert "gradient_noise" in {f.what for f in noisy.findings if f.grave}
    assert "gradient_noise" not in {f.what for f in quiet.findings}
    assert "unadjusted" in {f.what for f in quiet.findings}


@pytest.mark.parametrize("named", [True, False])
def test_several_sites_and_columns_agree_with_all_data(named: bool) -> None:
    pyro.set_rng_seed(2)
    x = torch.randn(400, 2)
    y = dist.Bernoulli(logits=x @ torch.tensor([1.0, -1.0]) + 0.5).sample()
    data: Any = {"x": x, "y": y} if named else [x, y]
    small = ran(SGLD(logistic, data=data, batch_size=40, step_size=0.4), 50, 50, 100, thinning=4)
    large = ran(SGLD(logistic, data=data, batch_size=400, step_size=0.4), 50, 50, 100, thinning=4)
    a, b = small.get_samples(group_by_chain=True), large.get_samples(group_by_chain=True)
    for site in ("slope", "intercept"):
        means = a[site].mean(1), b[site].mean(1)
        error = ((means[0].var(0) + means[1].var(0)) / 100).sqrt()
        assert bool(((means[0] - means[1]).mean(0).abs() < 4 * error).all())  # once in 5000
        assert bool((error < 0.2 * b[site].flatten(0, 1).std(0)).all())
    assert abs(float(a["slope"][..., 0].mean()) - 1.0) < 1.0  # and not in another order
    assert abs(float(a["slope"][..., 1].mean()) + 1.0) < 1.0


def test_pyros_own_mcmc_runs_it() -> None:
    pyro.set_rng_seed(3)
    mcmc = MCMC(
        SGLD(location, data=DATA, batch_size=B, step_size=STEP), 400, 50, disable_progbar=True
    )
    mcmc.run()
    z = mcmc.get_samples()["loc"]
    assert abs(float(z.mean()) - float(DATA.mean())) < 5 * SD
    assert 0.7 < float(z.std()) / SD < 1.4
    tree = to_arviz(mcmc)
    assert tree.sample_stats["gradient_noise"].shape == (1, 400)
    assert tree.log_likelihood["x_given_latents"].shape == (1, 400, N)


def test_resumed_as_if_never_stopped(tmp_path: Path) -> None:
    def kernel() -> SGLD:
        return SGLD(location, data=DATA, batch_size=B)

    pyro.set_rng_seed(4)
    whole = ran(kernel(), 12, 3, 3)
    pyro.set_rng_seed(4)
    ran(kernel(), 5, 3, 3, checkpoint=tmp_path / "run")
    more = VectorizedMCMC(
        kernel(), 12, 3, num_chains=3, progress=False, checkpoint=tmp_path / "run"
    )
    more.resume()
    assert torch.equal(more.get_samples()["loc"], whole.get_samples()["loc"])


def test_data_are_read_whole_at_the_start_only() -> None:
    lengths: list[int] = []

    def model(x: Tensor) -> None:
        lengths.append(len(x))
        location(x)

    ran(SGLD(model, data=DATA, batch_size=B), 3, 2, 2)
    whole = lengths.count(N)
    lengths.clear()
    ran(SGLD(model, data=DATA, batch_size=B), 30, 20, 2)
    assert lengths.count(N) < whole + 10  # the search for a mode varies
    assert lengths.count(B // 2) >= 50


def inside(x: Tensor) -> None:
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def funnel(x: Tensor) -> None:
    scale = pyro.sample("scale", dist.Normal(0.0, 3.0))
    z = pyro.sample("z", dist.Normal(torch.zeros(9), (scale / 2).exp()).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(0 * z.sum(), 1.0), obs=x)


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (location, {"batch_size": 3}, ValueError, "batch_size: expected an even number from 2"),
        (location, {"batch_size": N + 2}, ValueError, "batch_size: expected an even number"),
        (
            location,
            {"data": [DATA, DATA[:3]]},
            ValueError,
            r"data: expected as many rows .* \[3, 5",
        ),
        (location, {"data": [DATA, 3.0]}, TypeError, "data: expected tensors, got float"),
        (
            inside,
            {"control_variates": False, "curvature": False},
            ValueError,
            "outside of the plates",
        ),
        (funnel, {}, ValueError, "model: expected a mode"),
    ],
)
def test_bad_inputs(model: Any, options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        ran(SGLD(model, **{"data": DATA, "batch_size": B, **options}), 2, 2, 2)


X = torch.randn(2000, 3, generator=torch.Generator().manual_seed(1))
Y = X @ torch.tensor([1.0, 2.0, 3.0]) + torch.randn(
    2000, generator=torch.Generator().manual_seed(2)
)


def line(x: Tensor, y: Tensor, length: int | None = None, anchor: bool = False) -> None:
    b = pyro.sample("b", dist.Normal(torch.zeros(3), 5.0).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    if anchor:
        pyro.sample("sum", dist.Normal(b.sum(), 0.1), obs=torch.tensor(0.0))
    plate = pyro.plate("rows", len(y)) if length is None else None
    with plate or pyro.plate("rows", length, subsample_size=len(y)):
        pyro.sample("y", dist.Normal(x @ b, scale), obs=y)


@pytest.mark.parametrize("curvature", [True, False])
def test_chains_that_start_far_off_are_not_lost(curvature: bool) -> None:
    pyro.set_rng_seed(0)
    step = 0.2 if curvature else 0.2 / 2000**0.5
    kernel = SGLD(line, data=(X, Y), batch_size=100, curvature=curvature, step_size=step)
    mcmc = VectorizedMCMC(kernel, 300, 300, num_chains=16, progress=False)
    mcmc.run()
    scale = mcmc.get_samples()["scale"]
    exact = float((Y - X @ torch.linalg.lstsq(X, Y).solution).std())
    assert float((scale - exact).abs().max()) < 6 * exact / 4000**0.5 * 1.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 2000}, "got a subsampled one"),
        ({"anchor": True}, "a sum over rows, .* of two halves"),
    ],
)
def test_a_likelihood_that_is_no_sum_over_rows_is_refused(
    options: dict[str, Any], message: str
) -> None:
    kernel = SGLD(functools.partial(line, **options), data=(X, Y), batch_size=100)
    with pytest.raises(ValueError, match=message):
        VectorizedMCMC(kernel, 2, 2, num_chains=2, progress=False).run()
