"""Guides that sample the posterior train to the exact maximum likelihood."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import PyroOptim

import rotations
from pyro_lebm.inference import EncoderGuide, LangevinGuide, RefinedGuide, fit
from pyro_lebm.series import Series
from scalars import Scalars, maximum_likelihood, scalars

ADJUSTED: dict[str, Any] = {"step_size": 0.5}  # nobody schedules hot steps under plain SVI


def adam(rate: float) -> PyroOptim:
    return PyroOptim(torch.optim.Adam, {"lr": rate})


@pytest.mark.parametrize(("guide", "size"), [("langevin", 200), ("langevin", 50), ("refined", 50)])
def test_svi_reaches_the_exact_maximum_likelihood(guide: str, size: int) -> None:
    series, model = scalars(), Scalars()
    programs = {
        "langevin": lambda: LangevinGuide(model, series, steps=3, **ADJUSTED),
        "refined": lambda: RefinedGuide(
            EncoderGuide(model, series), steps=6, refine_from=0.0, step_size=0.5
        ),
    }
    svi = SVI(model, programs[guide](), adam(0.05), Trace_ELBO())
    path = []
    for _ in range(300):
        svi.step(series if size == 200 else next(series.minibatches(size)))
        path.append(model.estimate)
    found = torch.stack(path[120:]).mean(0)
    # Over 8 seeds the averages scatter by .0034 (all data) and .017 (minibatches): five of these,
    # and room for a Monte Carlo bias.
    assert torch.allclose(found, maximum_likelihood(series), atol=0.025 if size == 200 else 0.09)


def test_fit_reaches_the_exact_maximum_likelihood() -> None:
    series, model = scalars(), Scalars()
    guide = LangevinGuide(model, series, steps=3, hot_until=0.2, step_size=0.5)
    history = fit(
        model,
        guide,
        series,
        max_steps=300,
        batch_size=100,
        learning_rate=0.05,
        final_rate=0.02,
        progress=False,
    )
    # Over 6 seeds the estimate scatters by .007.
    assert torch.allclose(model.estimate, maximum_likelihood(series), atol=0.04)
    assert history.loss_name == "negative unnormalised log joint"
    acceptance = history.column("acceptance")
    assert bool(acceptance[:59].isnan().all())  # hot steps have none
    assert 0.4 < acceptance[-1] < 0.8 and history.column("step_size")[-1] > 0.2


@pytest.mark.parametrize("size", [1280, 640])
def test_at_the_maximum_likelihood_of_a_latent_ode_the_gradient_vanishes(size: int) -> None:
    once = rotations.swings(64)
    best, hessian = rotations.maximum_likelihood(once)
    copies = 20  # of each sequence, with chains of their own: the same maximum, less noise
    series = Series(once.times, once.values.repeat(copies, 1, 1))
    model = rotations.rotating(*best.tolist(), tolerance=1e-4)
    guide = LangevinGuide(model, series, steps=2, **ADJUSTED)
    svi, parameters = SVI(model, guide, adam(0.0), Trace_ELBO()), list(model.parameters())
    gradients = []
    for step in range(60):
        for batch in series.minibatches(size):  # gradients add up over an epoch
            svi.loss_and_grads(model, guide, batch)
        if step >= 20:
            gradients.append(torch.stack([p.grad for p in parameters if p.grad is not None]))
        for p in parameters:
            p.grad = None
    # One Newton step from here, in units of the parameters' own standard errors.
    error = torch.linalg.inv(hessian)
    mean = torch.stack(gradients).double() * (size / 1280) / copies
    away = mean @ error / error.diagonal().sqrt()
    batches = away.reshape(8, 5, 3).mean(1)
    noise = batches.std(0) / 8**0.5
    assert bool((noise < 0.25).all())
    # Student's t with 7 degrees of freedom, three parameters: 6.5 is passed once in 1000 seeds.
    assert bool((batches.mean(0).abs() < 6.5 * noise).all())


def test_fit_brings_a_latent_ode_to_its_maximum_likelihood() -> None:
    series = rotations.swings(64)
    best, hessian = rotations.maximum_likelihood(series)
    model = rotations.rotating(2.2, 1.0, 0.0, tolerance=1e-3)
    guide = LangevinGuide(model, series, steps=3, hot_until=0.1, step_size=0.3)
    fit(
        model,
        guide,
        series,
        max_steps=100,
        batch_size=64,
        learning_rate=0.06,
        final_rate=0.05,
        progress=False,
    )
    found = torch.stack([p.detach() for p in model.parameters()]).double()
    # In units of the data's own standard errors; over 6 seeds the estimates scatter by .45.
    assert bool(((found - best).abs() < 2.0 * torch.linalg.inv(hessian).diagonal().sqrt()).all())
