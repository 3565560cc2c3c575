"""Values that are scored along a trajectory: the data's, others, those outside of a support."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor, nn

from fused_engines import FUSED
from pyro_lebm import Series, engine
from pyro_lebm.engines import Engine
from pyro_lebm.models import BernoulliEmission, LatentODE, PoissonEmission
from pyro_lebm.observations.seen import SeenPath

N, T, D = 3, 5, 2


def seen(
    way: Engine,
    values: Tensor,
    emission: Callable[[int, int], nn.Module] | None = None,
    z0: Tensor | None = None,
) -> tuple[Any, LatentODE]:
    """The distribution of these values, all of it drawn from one seed, and the model."""
    torch.manual_seed(0)
    model = LatentODE(2, D, emission=None if emission is None else emission(2, D))
    model.load_state_dict({**model.state_dict(), "step_size": torch.tensor(0.1)})
    series = Series(torch.linspace(0.1, 1, T), values)
    states = torch.randn(N, 2) if z0 is None else z0
    conditioned = pyro.poutine.condition(model, {"z0": states})
    with engine(way), pyro.validation_enabled(False):
        trace = pyro.poutine.trace(conditioned).get_trace(series)
    return trace.nodes["x"]["fn"], model


@pytest.mark.parametrize("way", FUSED)
def test_hidden_entries_of_other_values_count_for_nothing(way: Engine) -> None:
    values = torch.randn(N, T, D)
    values[0, 2] = torch.nan
    other = torch.randn(N, T, D)
    other[0, 2] = torch.tensor([torch.nan, torch.inf])
    (ours, _), (theirs, _) = seen(way, values), seen("eager", values)
    with pyro.validation_enabled(False):
        torch.testing.assert_close(ours.log_prob(other), theirs.log_prob(other))


@pytest.mark.parametrize(("emission", "value"), [(BernoulliEmission, 0.5), (PoissonEmission, -1.0)])
@pytest.mark.parametrize("way", FUSED)
def test_data_outside_of_the_support_are_refused_where_pyro_looks(
    way: Engine, emission: Callable[[int, int], nn.Module], value: float
) -> None:
    values = torch.ones(N, T, D)
    good, _ = seen(way, values, emission)
    assert torch.isfinite(good.log_prob(good.values)).all()
    values[1, 2, 0] = value
    bad, _ = seen(way, values, emission)
    with pyro.validation_enabled(False):
        bad.log_prob(bad.values)
    assert "plain" not in vars(bad)  # nobody asked PyTorch
    with pytest.raises(ValueError, match="to be within the support"):
        bad.log_prob(bad.values)
    with pytest.raises(ValueError, match="to be within the support"):
        good.log_prob(values)


@pytest.mark.parametrize("way", FUSED)
def test_gradients_of_each_sequence_at_once(way: Engine) -> None:
    values, found = torch.randn(N, T, D), []
    for name in (way, "eager"):
        fn, model = seen(name, values)
        parameters, log_prob = list(model.emission.parameters()), fn.log_prob(values)
        each = partial(torch.autograd.grad, log_prob, parameters, retain_graph=True)
        found.append(torch.func.vmap(each)(torch.eye(N)))
        if name == way:
            with pytest.raises(RuntimeError, match=r"is_grads_batched: expected False .*func.vmap"):
                each(torch.eye(N), is_grads_batched=True)
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("way", FUSED)
def test_gradients_mapped_over_states(way: Engine) -> None:
    fn, _ = seen(way, torch.randn(N, T, D))
    many, scale = torch.randn(4, N, 2), torch.tensor(0.5)

    def total(scale: Tensor, z0: Tensor) -> Tensor:
        log_prob: Tensor = SeenPath(z0, fn._problem, scale, lambda: fn.plain).log_prob(fn.values)
        return log_prob.sum()

    gradient = torch.func.grad(total)
    found = torch.func.vmap(gradient, in_dims=(None, 0))(scale, many)
    torch.testing.assert_close(found, torch.stack([gradient(scale, z0) for z0 in many]))


@pytest.mark.parametrize("way", FUSED)
def test_parameters_have_no_second_derivatives(way: Engine) -> None:
    values = torch.randn(N, T, D)
    fn, model = seen(way, values)
    scale = model.emission.log_scale
    (first,) = torch.autograd.grad(fn.log_prob(values).sum(), scale, create_graph=True)
    with pytest.raises(RuntimeError, match="got second ones"):
        torch.autograd.grad(first, scale)


@pytest.mark.parametrize("way", FUSED)
def test_no_states_at_all(way: Engine) -> None:
    fn, model = seen(way, torch.randn(N, T, D), z0=torch.zeros(0, N, 2, requires_grad=True))
    log_prob = fn.log_prob(fn.values)
    assert log_prob.shape == (0, N)
    gradients = torch.autograd.grad(log_prob.sum(), list(model.emission.parameters()))
    assert all(not g.any() for g in gradients)
