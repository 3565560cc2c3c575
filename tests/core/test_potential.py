"""The potential of a program against Pyro's own, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.mcmc.util import initialize_model
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

from programs import MODELS, X, hierarchy
from pyro_lebm.dynamics.langevin import evaluate, mala_step
from pyro_lebm.energy import MLPEnergy
from pyro_lebm.prior import EnergyPrior
from pyro_lebm.programs.potential import Potential, potential
from pyro_lebm.programs.program import Program
from untyped import optim, poutine


def pair(fn: Callable[[], Any]) -> tuple[Potential, Callable[[dict[str, Tensor]], Tensor], Any]:
    """Our potential, Pyro's, and a map from Pyro's unconstrained values to our vector."""
    ours = potential(fn)
    _, theirs, transforms, _ = initialize_model(fn)

    def vector(u: dict[str, Tensor]) -> Tensor:
        values = {n: transforms[n].inv(v) if n in transforms else v for n, v in u.items()}
        return ours.program.pack(values).reshape(-1)

    return ours, theirs, vector


def points(fn: Callable[[], Any], n: int) -> list[dict[str, Tensor]]:
    init, _, _, _ = initialize_model(fn)
    return [{k: 0.7 * torch.randn(v.shape).to(v) for k, v in init.items()} for _ in range(n)]


@pytest.mark.parametrize("name", MODELS)
def test_value_and_gradient_are_those_of_pyros_potential(name: str) -> None:
    ours, theirs, vector = pair(MODELS[name])
    for u in points(MODELS[name], 3):
        for tensor in u.values():
            tensor.requires_grad_(True)
        reference = theirs(u)
        slopes = torch.autograd.grad(reference, list(u.values()))
        z = vector(u).detach().requires_grad_(True)
        assert z.shape == (ours.dim,)
        found = ours.single(z)
        assert found.shape == ()
        assert torch.allclose(found, reference, rtol=1e-10)
        (slope,) = torch.autograd.grad(found, z)
        # the vector is a permutation of Pyro's values: pull the slope back through it
        pulled = torch.autograd.grad(vector(u), list(u.values()), slope)
        assert all(torch.allclose(a, b, atol=1e-8) for a, b in zip(pulled, slopes, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_many_chains_are_single_ones_side_by_side(name: str) -> None:
    u = potential(MODELS[name])
    z = 0.7 * torch.randn(2, 3, u.dim, dtype=torch.float64)
    z.requires_grad_(True)
    found = u(z)
    singles = torch.stack([torch.stack([u.single(a) for a in row]) for row in z])
    assert found.shape == (2, 3)
    assert torch.allclose(found, singles, rtol=1e-12)
    (a,), (b,) = (torch.autograd.grad(x.sum(), z) for x in (found, singles))
    assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)
    assert torch.equal(u.log_density(z), -u(z))
    assert torch.allclose(u(z[:1, :1]), singles[:1, :1], rtol=1e-12)  # one chain, without vmap


@pytest.mark.parametrize("name", MODELS)
def test_starts_are_finite_and_named_values_lie_on_their_supports(name: str) -> None:
    u = potential(MODELS[name])
    z = u.initial(4)
    assert z.shape == (4, u.dim)
    assert torch.isfinite(u(z)).all()
    trace: Any = poutine.trace(MODELS[name]).get_trace()
    values = u.constrain(z)
    plates = {f.name for node in trace.nodes.values() for f in node.get("cond_indep_stack", ())}
    assert set(values) == set(trace.stochastic_nodes) - plates
    for site, value in values.items():
        assert value.shape == (4, *trace.nodes[site]["value"].shape)
        assert trace.nodes[site]["fn"].support.check(value).all()
    single = u.constrain(z[0])
    assert all(torch.allclose(single[site], values[site][0]) for site in values)


def test_adjusted_langevin_on_a_potential_samples_the_posterior() -> None:
    """z ~ N(0, 1), x = 1.5 ~ N(z, .5): the posterior is N(1.2, .2); five standard errors."""

    def program() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=torch.tensor(1.5))

    u = potential(program)
    state = evaluate(u.log_density, u.initial(1500))
    for _ in range(60):
        state, _ = mala_step(u.log_density, state, 0.6)
    z = u.constrain(state.position)["z"]
    assert abs(float(z.mean()) - 1.2) < 5 * math.sqrt(0.2 / 1500)
    assert abs(float(z.var()) / 0.2 - 1) < 5 * math.sqrt(2 / 1500)


# Parameters


class Net(PyroModule):
    """Parameters of every kind, a learned prior among them."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
        self.prior = EnergyPrior(MLPEnergy(2, hidden=(4,)), 2, num_chains=8)
        self.scale: Any = PyroParam(torch.tensor(1.0), constraint=dist.constraints.positive)
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> None:
        raw = pyro.param("raw", torch.tensor(0.0))
        with pyro.plate("n", len(x)):
            z = pyro.sample("z", self.prior())
            loc = self.net(z).squeeze(-1) + self.shift + raw
            pyro.sample("x", dist.Normal(loc, self.scale), obs=x)


def guide(x: Tensor) -> None:
    loc = pyro.param("loc", torch.zeros(len(x), 2))
    with pyro.plate("n", len(x)):
        pyro.sample("z", dist.Normal(loc, 0.3).to_event(1))


def trained(x: Tensor) -> Net:
    net = Net()
    svi = SVI(net, guide, optim.Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(5):
        svi.step(x)
    return net


def by_hand(net: Net, z: Tensor, x: Tensor) -> Tensor:
    with torch.no_grad():
        log_p = net.prior().log_prob(z)
        loc = net.net(z).squeeze(-1) + net.shift + pyro.param("raw")
        total: Tensor = -(log_p + dist.Normal(loc, net.scale).log_prob(x)).sum()
        return total


def test_trained_parameters_are_used_and_nothing_reaches_them() -> None:
    x = torch.randn(6) + 3
    net = trained(x)
    u, z = potential(net, x), torch.randn(5, 12, requires_grad=True)
    store = {name: p.detach().clone() for name, p in pyro.get_param_store().items()}
    chains = net.prior.chains.training_state()
    for p in net.parameters():
        p.grad = None
    found = u(z)
    assert torch.allclose(found[0], by_hand(net, z[0].reshape(6, 2), x), rtol=1e-5)
    assert not torch.allclose(found[0], by_hand(Net(), z[0].reshape(6, 2), x), rtol=1e-2)
    found.sum().backward()
    assert z.grad is not None and z.grad.abs().min() > 0
    assert all(p.grad is None for p in net.parameters())
    assert not u(z.detach()).requires_grad and not u.single(z[0].detach()).requires_grad
    after = {name: p.detach() for name, p in pyro.get_param_store().items()}
    assert list(after) == list(store)
    assert all(torch.equal(store[n], after[n]) for n in store)
    assert torch.equal(chains["position"], net.prior.chains.position)
    # training goes on, and the potential follows
    SVI(net, guide, optim.Adam({"lr": 0.05}), Trace_ELBO()).step(x)
    assert torch.allclose(u.single(z[0]), by_hand(net, z[0].reshape(6, 2), x), rtol=1e-5)
    assert not torch.allclose(u.single(z[0]), found[0], rtol=1e-5)


def test_a_store_that_was_loaded_counts() -> None:
    x = torch.randn(6) + 3
    net = trained(x)
    state, z = pyro.get_param_store().get_state(), torch.randn(12)
    expected = potential(net, x).single(z)
    pyro.clear_param_store()
    pyro.get_param_store().set_state(state)
    other = Net()
    u = potential(other, x)
    # as in Pyro: a PyroParam is read off the store, other parameters keep to their module
    assert not torch.allclose(u.single(z), expected)
    assert torch.equal(other.scale, net.scale)
    _, theirs, _, _ = initialize_model(other, model_args=(x,))
    assert torch.allclose(u.single(z), theirs({"z": z.reshape(6, 2)}))


def test_a_function_with_pyro_module_inside() -> None:
    net = nn.Linear(1, 1)

    def program(x: Tensor) -> None:
        pyro.module("net", net)
        with pyro.plate("n", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(net(z).squeeze(-1), 1.0), obs=x)

    u = potential(program, torch.ones(3))
    z = torch.randn(2, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(u(z).sum(), z)
    residual = net(z.unsqueeze(-1)).squeeze(-1) - 1
    assert torch.allclose(slope, z + residual * net.weight.squeeze())


def test_it_works_under_no_grad_and_inference_mode() -> None:
    u = potential(hierarchy)
    z = torch.randn(3, u.dim, dtype=torch.float64)
    expected = u(z)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(u(z), expected)
            assert torch.allclose(potential(hierarchy)(z), expected)
            assert u.initial(2).shape == (2, u.dim)
            state = evaluate(u.log_density, z)
            assert state.gradient.ne(0).all()


# Refusals


def regression(x: Tensor, **subsample: Any) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("n", 24, **subsample) as index:
        pyro.sample("x", dist.Normal(w, 1.0), obs=x[index])


def local(x: Tensor, **subsample: Any) -> None:
    with pyro.plate("n", 24, **subsample) as index:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(w, 1.0), obs=x[index])


def by_turns(x: Tensor, **subsample: Any) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    for i in map(int, pyro.plate("n", 24, **subsample)):
        pyro.sample(f"x{i}", dist.Normal(w, 1.0), obs=x[i])


@pytest.mark.parametrize("fn", [regression, local, by_turns])
@pytest.mark.parametrize(
    "subsample", [{"subsample_size": 3}, {"subsample": torch.tensor([1, 5, 7])}], ids=str
)
def test_a_minibatch_is_refused(fn: Any, subsample: dict[str, Any]) -> None:
    assert potential(fn, X).dim in (1, 24)
    with pytest.raises(ValueError, match=r"model: expected full data, got .*'n'.* 3 .*24"):
        potential(fn, X, **subsample)


def test_points_of_another_shape_are_refused() -> None:
    u = potential(hierarchy)
    for bad in (torch.zeros(9), torch.zeros(2, 10), torch.zeros(())):
        with pytest.raises(ValueError, match=r"z: expected shape \(10,\), got"):
            u.single(bad)
    for bad in (torch.zeros(10), torch.zeros(2, 9)):
        with pytest.raises(ValueError, match=r"z: expected shape \(\*chains, 10\), got"):
            u(bad)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"engine: expected one of .* got 'fast'"):
        potential(hierarchy, engine="fast")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="chains: expected at least 1, got 0"):
        potential(hierarchy).initial(0)
    assert Potential(Program.read(hierarchy)).dim == 10


@pytest.mark.parametrize("strategy", ["auto", "vmap", "loop", "plate"])
def test_no_chains_have_no_potentials(strategy: Any) -> None:
    target = potential(hierarchy, strategy=strategy)
    z = torch.zeros(3, 0, target.dim, requires_grad=True)
    (slope,) = torch.autograd.grad(target(z).sum(), z)
    assert target(z).shape == (3, 0) and slope.shape == z.shape
    per_element = z.reshape(3, 0, *target.program.elements, target.program.dim)
    for part in target.program.log_parts(per_element):
        assert part.shape == (3, 0, *target.program.elements)
