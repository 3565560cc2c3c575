"""`EnergyPrior`: where negatives come from, when chains advance, what log Z it keeps."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

from learned import Model, bent, noisy_guide, positions, step_of
from pyro_lebm.base import StandardNormal
from pyro_lebm.partition import log_z
from pyro_lebm.prior import EnergyPrior
from pyro_lebm.programs.potential import potential
from scenarios import LearnedNormal, Quartic, quadrature_draws
from untyped import PyroLinear, optim

# The chains


def test_chains_advance_once_an_optimiser_step_whatever_happens_in_between() -> None:
    prior = EnergyPrior(bent(), 2, num_chains=16)
    model = Model(prior, torch.randn(20, 2))
    svi = step_of(model)
    before = positions(prior)

    svi.evaluate_loss()
    prior().sample(torch.Size((3,)))
    Predictive(Model(prior, None), num_samples=2)()
    u = potential(Model(prior, None))
    z = u.initial(2).requires_grad_(True)
    u(z).sum().backward()
    log_z(prior, particles=32, repeats=2, rungs=20)
    prior.statistics()
    assert torch.equal(positions(prior), before)

    torch.manual_seed(3)
    svi.step()
    once = positions(prior)
    assert not torch.equal(once, before)
    # several backward passes at the same parameters: the same negatives
    for _ in range(3):
        Trace_ELBO().differentiable_loss(model, lambda: None).backward()
    assert not torch.equal(positions(prior), once)  # the parameters did move since
    twice = positions(prior)
    Trace_ELBO().differentiable_loss(model, lambda: None).backward()
    assert torch.equal(positions(prior), twice)


@pytest.mark.parametrize("name", ["Adam", "ClippedAdam", "SGD", "AdagradRMSProp", "RMSprop"])
def test_every_optimiser_moves_the_chains_on(name: str) -> None:
    """Some write to `p.data`, which torch's version counter does not see."""
    prior = EnergyPrior(bent(), 2, num_chains=8)
    svi = SVI(
        Model(prior, torch.randn(20, 2)),
        lambda: None,
        getattr(optim, name)({} if name == "AdagradRMSProp" else {"lr": 1e-2}),
        Trace_ELBO(),
    )
    seen = [positions(prior)]
    for _ in range(3):
        svi.step()
        assert not any(torch.equal(positions(prior), old) for old in seen)
        seen.append(positions(prior))


@pytest.mark.parametrize("vectorised", [True, False])
def test_five_particles_share_one_draw_of_negatives(
    vectorised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = EnergyPrior(bent(), 2, num_chains=8)
    calls = []

    def run(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        return torch.randn(8, 2)

    monkeypatch.setattr(prior.chains, "run", run)
    particles: dict[str, Any] = {"num_particles": 5, "vectorize_particles": vectorised}
    if vectorised:
        particles["max_plate_nesting"] = 1
    svi = step_of(Model(prior, None), guide=noisy_guide, **particles)
    svi.evaluate_loss()
    assert len(calls) == 0
    for n in (1, 2, 3):
        svi.step()
        assert len(calls) == n


def test_eval_mode_writes_nothing_back() -> None:
    prior = EnergyPrior(bent(), 2, num_chains=8)
    svi = step_of(Model(prior, torch.randn(20, 2)))
    before = prior.chains.training_state()
    prior.eval()
    svi.step()
    after = prior.chains.training_state()
    assert torch.equal(before["position"], after["position"])
    assert torch.equal(before["step_size"], after["step_size"])
    assert not after["visited"].any()
    prior.train()
    svi.step()
    assert not torch.equal(positions(prior), before["position"])


def test_chains_are_no_weights_and_travel_as_training_state() -> None:
    energy = bent()
    prior, other = EnergyPrior(energy, 2, num_chains=8), EnergyPrior(bent(), 2, num_chains=8)
    assert set(prior.state_dict()) == {f"energy.{name}" for name in energy.state_dict()}
    step_of(Model(prior, torch.randn(20, 2))).step()
    # a trained prior loads beside another number of chains
    EnergyPrior(bent(), 2, num_chains=3).load_state_dict(prior.state_dict())
    other.load_state_dict(prior.state_dict())
    other.chains.load_training_state(prior.chains.training_state())
    points = torch.randn(20, 2)
    pyro.clear_param_store()
    torch.manual_seed(1)
    step_of(Model(prior, points)).step()
    pyro.clear_param_store()
    torch.manual_seed(1)
    step_of(Model(other, points)).step()
    assert torch.equal(positions(prior), positions(other))
    assert all(
        torch.equal(a, b) for a, b in zip(prior.parameters(), other.parameters(), strict=True)
    )


def test_a_copy_is_independent() -> None:
    prior = EnergyPrior(bent(), 2, num_chains=8)
    log_z(prior, particles=32, repeats=2, rungs=20)
    other = copy.deepcopy(prior)
    assert other.log_z is not None
    before = positions(prior)
    step_of(Model(other, torch.randn(20, 2))).step()
    assert torch.equal(positions(prior), before)
    assert not torch.equal(positions(other), before)
    assert prior.log_z is not None and other.log_z is None


# Holding the energy fixed


def test_without_learning_nothing_is_drawn_and_the_energy_gets_no_gradient() -> None:
    prior = EnergyPrior(bent(), 2, num_chains=8)
    model = Model(prior, None)
    svi = step_of(model, guide=noisy_guide)
    before, weights = positions(prior), copy.deepcopy(prior.state_dict())
    prior.learning = False
    svi.step()
    assert pyro.param("loc").abs().sum() > 0  # the guide learns
    assert torch.equal(positions(prior), before)
    assert prior.statistics() == {}
    assert all(torch.equal(weights[n], t) for n, t in prior.state_dict().items())
    prior.learning = True
    svi.step()
    assert not torch.equal(positions(prior), before)
    assert any(not torch.equal(weights[n], t) for n, t in prior.state_dict().items())


@pytest.mark.parametrize("kind", ["nn", "pyro", "param"])
def test_energies_of_every_kind_of_module_are_registered_and_learn(kind: str) -> None:
    """Pyro notes a PyroModule's parameters as they are read: log_prob is too late for that."""

    class Param(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.slope: Any = PyroParam(torch.tensor(1.0), constraint=dist.constraints.positive)

        def forward(self, z: Tensor) -> Tensor:
            energy: Tensor = (self.slope * z).sum(-1)
            return energy

    class Pyro(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = PyroLinear(2, 1)

        def forward(self, z: Tensor) -> Tensor:
            energy: Tensor = self.inner(z).squeeze(-1)
            return energy

    kinds: dict[str, Callable[[], nn.Module]] = {"nn": bent, "pyro": Pyro, "param": Param}
    energy = kinds[kind]()
    prior = EnergyPrior(energy, 2, num_chains=8)
    svi = step_of(Model(prior, torch.randn(20, 2)))
    prior.learning = False
    svi.step()
    before = [p.detach().clone() for p in prior.parameters()]
    assert all(p.grad is None or p.grad.eq(0).all() for p in prior.parameters())
    prior.learning = True
    svi.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, prior.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_floating_types(dtype: torch.dtype) -> None:
    prior = EnergyPrior(bent(), 2, num_chains=8).to(dtype)
    step_of(Model(prior, torch.randn(5, 2, dtype=dtype))).step()
    assert prior.chains.position.dtype == dtype
    assert prior().sample().dtype == dtype
    found = log_z(prior, particles=16, repeats=2, rungs=20)
    assert prior.log_z is not None and prior.log_z.dtype == dtype
    # the number belongs to the other type's parameters
    assert (
        EnergyPrior.to(prior, torch.float16 if dtype is torch.float32 else torch.float32).log_z
        is None
    )
    assert math.isfinite(found.estimate)


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_chains": 0}, "num_chains, steps: expected at least 1, got 0 and 5"),
        ({"steps": 0}, "num_chains, steps: expected at least 1, got 512 and 0"),
        ({"step_size": 0.0}, "step_size: expected a positive number, got 0.0"),
        ({"step_size": -0.1}, "step_size: expected a positive number"),
        ({"negatives": "fresh"}, "negatives: expected one of .*'persistent'.*, got 'fresh'"),
        ({"sampler": "exact"}, "sampler: expected one of .*'annealed'.*, got 'exact'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnergyPrior(bent(), 2, **options)


def test_a_bad_energy_or_base_is_refused_at_construction() -> None:
    with pytest.raises(ValueError, match="energy: expected one number per point"):
        EnergyPrior(nn.Linear(2, 1), 2)
    with pytest.raises(ValueError, match="dim: expected at least 1, got 0"):
        StandardNormal(0)

    class Positive(nn.Module):
        def forward(self) -> Any:
            return dist.Gamma(torch.ones(2), 1.0).to_event(1)

    with pytest.raises(ValueError, match="base: expected an unconstrained support"):
        EnergyPrior(bent(), Positive())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"particles": 1}, "particles: expected at least 2, got 1"),
        ({"repeats": 1}, "repeats, rungs, moves: expected at least 2, 1 and 1, got 1"),
        ({"exact": True}, "draws: expected exact ones for exact=True, got None"),
        ({"draws": torch.zeros(100, 3)}, "draws: expected shape (n, 2), got (100, 3)"),
        ({"draws": torch.full((9, 2), torch.nan)}, "draws: expected finite ones, got NaN or inf"),
    ],
)
def test_what_no_constant_comes_of_is_refused(options: dict[str, Any], message: str) -> None:
    prior = EnergyPrior(bent(), 2, num_chains=8)
    with pytest.raises(ValueError, match=re.escape(message)):
        log_z(prior, **options)
    assert prior.log_z is None


def test_the_base_learns_in_the_prior() -> None:
    torch.set_default_dtype(torch.float64)
    prior = EnergyPrior(Quartic(), LearnedNormal(), num_chains=4)
    exact = quadrature_draws(prior.energy, prior.base)
    prior._cache = (exact, [p.detach().clone() for p in prior._density()])
    points = torch.linspace(-1, 1, 5)[:, None]
    step_of(Model(prior, points), "SGD").step()  # registers, moves and uses the negatives
    assert not torch.equal(prior.state_dict()["base.loc"], torch.tensor([0.4]))
