"""What `EnergyBased` refuses, above all a log Z that would differ from element to element."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import (
    MCMC,
    NUTS,
    SVI,
    Trace_ELBO,
)
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pyro_lebm.distribution import EnergyBased, annealed_draws, drawn_by, from_base
from scenarios import (
    LearnedNormal,
    Quartic,
    quadrature_draws,
)
from untyped import optim, poutine

POINTS = torch.linspace(-1.5, 1.0, 12, dtype=torch.float64)[:, None]  # (12, 1)


def test_a_base_with_a_batch_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"base: expected an empty batch shape .*got \(3,\)"):
        EnergyBased(lambda z: z, dist.Normal(torch.zeros(3), 1.0))


@pytest.mark.parametrize(
    "energy", [lambda z: z, lambda z: z.sum(), lambda z: z.sum(-1, keepdim=True)]
)
def test_an_energy_of_another_shape_is_refused(energy: Callable[[Tensor], Tensor]) -> None:
    fn = EnergyBased(energy, dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pytest.raises(ValueError, match=r"energy: expected one number per point, shape \(5,\)"):
        fn.log_prob(torch.zeros(5, 2))


def test_an_energy_with_sampled_parameters_is_refused() -> None:
    class Bayesian(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.slope: Any = PyroSample(dist.Normal(0.0, 1.0))

        def forward(self, z: Tensor) -> Tensor:
            energy: Tensor = self.slope * z
            return energy

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Bayesian()

    with pytest.raises(ValueError, match=r"energy: expected parameters, got .*doubly intractable"):
        EnergyBased(Outer(), dist.Normal(0.0, 1.0))


def on_a_site(kind: str) -> Callable[[], None]:
    """A program whose second site hangs on its first through energy or base."""

    class Field(nn.Module):
        def __init__(self, at: Tensor) -> None:
            super().__init__()
            self.at = at

        def forward(self, z: Tensor) -> Tensor:
            return z * self.at

    def model() -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        bases = {"same": lambda: a, "view": lambda: a.reshape(1)[0], "computed": lambda: a.exp()}
        energies: dict[str, Any] = {"closure": lambda z: z * a, "module": Field(a)}
        base = dist.Normal(bases[kind]() if kind in bases else 0.0, 1.0)
        pyro.sample("b", EnergyBased(energies.get(kind, lambda z: 2 * z), base))

    return model


@pytest.mark.parametrize("kind", ["same", "view"])
def test_a_base_on_another_site_is_refused_in_a_plain_trace(kind: str) -> None:
    with pytest.raises(ValueError, match="base: expected constants or parameters"):
        poutine.trace(on_a_site(kind)).get_trace()


def reparametrised() -> None:
    loc = pyro.param("loc", torch.zeros(()))
    pyro.sample("a", dist.Normal(loc, 1.0))
    pyro.sample("b", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize("kind", ["same", "view", "computed", "closure", "module"])
def test_what_hangs_on_another_site_is_refused_in_svi_and_mcmc(kind: str) -> None:
    model = on_a_site(kind)
    part = (
        "base: expected constants" if kind in ("same", "view", "computed") else "energy: expected"
    )
    with pytest.raises(ValueError, match=part):
        SVI(model, reparametrised, optim.Adam({}), Trace_ELBO()).step()
    with drawn_by(from_base), pytest.raises(ValueError, match=part):
        MCMC(NUTS(model), num_samples=1, warmup_steps=1, disable_progbar=True).run()


def test_a_parameter_that_the_energy_closes_over_is_refused() -> None:
    net = nn.Linear(1, 1)
    fn = EnergyBased(lambda z: net(z).squeeze(-1), dist.Normal(torch.zeros(1), 1.0).to_event(1))
    with torch.no_grad():
        fn.log_prob(torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"energy: expected an nn\.Module that owns all it learns"):
        fn.log_prob(torch.zeros(3, 1))


def test_parameters_that_svi_would_not_move_are_refused() -> None:
    energy, base = Quartic(), LearnedNormal()
    count = 0

    def negatives() -> Tensor:
        nonlocal count
        count += 1
        return quadrature_draws(energy, base)

    def hidden() -> None:
        with pyro.plate("points", 12):
            pyro.sample("z", EnergyBased(energy, base(), negatives=negatives), obs=POINTS)

    def half() -> None:
        pyro.module("energy", energy)
        hidden()

    def known() -> None:
        pyro.module("base", base)
        half()

    for model in (hidden, half):
        with pytest.raises(ValueError, match="parameters that Pyro knows, got one that SVI would"):
            SVI(model, lambda: None, optim.Adam({}), Trace_ELBO()).step()
    assert count == 0
    before = energy.slope.item()
    SVI(known, lambda: None, optim.Adam({}), Trace_ELBO()).step()
    assert energy.slope.item() != before
    # outside SVI nobody but the user knows which parameters are to move
    Trace_ELBO().differentiable_loss(hidden, lambda: None).backward()


def pairs() -> Iterator[tuple[Any, Any]]:
    fn = EnergyBased(lambda z: z, dist.Normal(0.0, 1.0))
    wide: Any = fn.expand([2])
    yield fn, fn
    yield fn, dist.Normal(0.0, 1.0)
    yield dist.Normal(0.0, 1.0), fn
    yield dist.Normal(torch.zeros(2), 1.0).to_event(1), wide.to_event(1)


@pytest.mark.parametrize("pair", pairs())
def test_divergence_and_entropy_have_no_closed_form(pair: tuple[Any, Any]) -> None:
    with pytest.raises(NotImplementedError, match="EnergyBased: kl_divergence has no closed form"):
        kl_divergence(*pair)
    with pytest.raises(NotImplementedError, match="EnergyBased: entropy has no closed form"):
        EnergyBased(lambda z: z, dist.Normal(0.0, 1.0)).entropy()


def test_the_divergence_of_a_point_mass_is_its_log_density() -> None:
    fn = EnergyBased(lambda z: z, dist.Normal(0.0, 1.0))
    at = torch.tensor(0.3)
    assert torch.equal(kl_divergence(dist.Delta(at), fn), -fn.log_prob(at))


@pytest.mark.parametrize("base", [dist.Uniform(0.0, 1.0), dist.Gamma(2.0, 1.0)])
def test_annealing_refuses_a_constrained_base(base: Any) -> None:
    fn = EnergyBased(lambda z: z, base)
    with pytest.raises(ValueError, match="base: annealed sampling expects an unconstrained"):
        annealed_draws(fn, 3)
    assert torch.isfinite(fn.log_prob(torch.tensor(0.5)))
