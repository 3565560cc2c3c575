"""Programs of every kind under a tilt: their plates and sites, what is fixed, where they stand."""

from __future__ import annotations

import copy
import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn

from hierarchies import ExactTilt, Hierarchy, Quadratic, log_joint
from pyro_lebm import EnergyPrior, LayerwiseEnergy, MLPEnergy, log_z
from pyro_lebm.tilting.tilt import Tilt
from untyped import optim, poutine

N = 6
NORMAL = dist.Normal(torch.zeros(1), 1.0).to_event(1)


def zero(sites: Any) -> Tensor:
    first: Tensor = next(iter(sites.values()))
    return torch.zeros_like(first)


def three() -> Tensor:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(a, 0.1))
    c: Tensor = pyro.sample("c", dist.Normal(b, 0.1))
    return c


def test_sites_after_one_that_is_fixed_are_drawn_given_it() -> None:
    """A false alarm in 1e-5: a mean at five standard errors of an effective third of 300 draws."""
    torch.manual_seed(0)
    tilt = Tilt(three, zero, num_chains=8)
    at = torch.full((300,), 5.0)
    with pyro.plate("rows", 300):
        c = poutine.condition(tilt, {"b": at})()
    assert abs(float(c.mean()) - 5.0) < 5 * 0.1 / math.sqrt(100)
    assert 0.05 < float(c.std()) < 0.15


@pytest.mark.parametrize("inner", ["scale", "mask"])
@pytest.mark.parametrize("coordinates", ["own", "noise"])
def test_what_scales_or_masks_the_sites_inside_scales_the_factor(
    inner: str, coordinates: Any
) -> None:
    """The normalised density counts for less; it is no other one, and its chains' neither."""
    mask = torch.arange(N) % 2 == 0

    class Inside(Hierarchy):
        def forward(self) -> Tensor:
            around = poutine.scale(scale=0.3) if inner == "scale" else poutine.mask(mask=mask)
            with pyro.plate("rows", N), around:
                return self.sites()

    program, energy = Inside(), Quadratic()
    values = {
        "top": torch.linspace(-1.0, 1.0, N, dtype=torch.float64)[:, None],
        "low": torch.linspace(2.0, -1.0, N, dtype=torch.float64)[:, None],
    }
    tilt = ExactTilt(program, energy, coordinates=coordinates)
    leaves = [*program.parameters(), *energy.parameters()]
    trace = poutine.trace(poutine.condition(tilt, values)).get_trace()
    weight = torch.full((N,), 0.3, dtype=torch.float64) if inner == "scale" else mask.double()
    expected = (weight * log_joint(program, energy, values)).sum()
    torch.testing.assert_close(
        torch.autograd.grad(trace.log_prob_sum(), leaves),
        torch.autograd.grad(expected, leaves),
        rtol=1e-9,
        atol=1e-9,
    )
    rows = torch.cat([values["top"], values["low"]], -1)
    bare = log_joint(program, energy, values) + energy(values)
    constant = tilt.own().log_prob(rows) - bare  # of the tilted one: the same of all rows
    torch.testing.assert_close(constant.detach(), constant[:1].detach().expand(N))


@pytest.mark.parametrize("coordinates", ["own", "noise"])
def test_a_program_with_plates_of_its_own_is_drawn(coordinates: Any) -> None:
    torch.manual_seed(0)
    tilt = Tilt(Hierarchy(rows=4), Quadratic(), coordinates=coordinates, num_chains=8)
    assert tilt().shape == (4, 1)
    fixed = {"top": torch.ones(4, 1, dtype=torch.float64)}
    assert poutine.condition(tilt, fixed)().shape == (4, 1)
    with pyro.plate("outer", 3, dim=-2):
        assert tilt().shape == (3, 4, 1)


def test_values_that_are_the_same_for_all_elements_are_taken() -> None:
    program, energy = Hierarchy(), Quadratic()
    tilt = ExactTilt(program, energy)
    one = {"top": torch.full((1,), 0.4).double(), "low": torch.full((1,), -0.2).double()}
    with pyro.plate("rows", N):
        total = poutine.trace(poutine.condition(tilt, one)).get_trace().log_prob_sum()
    leaves = [*program.parameters(), *energy.parameters()]
    expected = log_joint(program, energy, {k: v.expand(N, 1) for k, v in one.items()}).sum()
    torch.testing.assert_close(
        torch.autograd.grad(total, leaves), torch.autograd.grad(expected, leaves)
    )


class Scaled(PyroModule):
    scale: Any

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = PyroParam(torch.tensor(scale), dist.constraints.positive)

    def forward(self) -> Any:
        return pyro.sample("z", dist.Normal(torch.zeros(1), self.scale).to_event(1))


def test_building_leaves_nothing_in_pyros_store_and_shares_nothing() -> None:
    first, second = Scaled(1.0), Scaled(7.0)
    tilts = [Tilt(program, zero_of_events, num_chains=4) for program in (first, second)]
    assert not pyro.get_param_store().keys()
    assert float(second.scale.detach()) == pytest.approx(7.0)
    assert [name for name, _ in tilts[1].named_parameters()] == ["program.scale_unconstrained"]


def zero_of_events(sites: Any) -> Tensor:
    return zero(sites)[..., 0]


class Inner(PyroModule):
    def forward(self) -> Any:
        return pyro.sample("b", NORMAL)


class Outer(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self) -> Any:
        return pyro.sample("a", dist.Normal(self.inner(), 1.0).to_event(1))


@pytest.mark.parametrize("ran", [False, True])
def test_modules_within_the_program_may_have_run_before(ran: bool) -> None:
    program = Outer()
    if ran:
        program()
    tilt = Tilt(program, zero_of_events, num_chains=4)
    assert tilt().shape == (1,)
    pyro.get_param_store().clear()

    class Model(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.prior = Tilt(Outer(), zero_of_events, num_chains=4)

    assert Model().prior().shape == (1,)


def test_another_latent_site_before_them_is_no_reason_to_go_one_by_one() -> None:
    def program() -> None:
        pyro.sample("theta", dist.Normal(0.0, 1.0))
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0))

    for coordinates in ("own", "noise"):
        tilt = Tilt(program, zero, sites=["z", "y"], coordinates=coordinates, num_chains=8)
        rows = torch.randn(5, 2)
        tilt.coordinates.values(rows)
        expected = dist.Normal(0.0, 1.0).log_prob(rows[:, 0])
        expected = expected + dist.Normal(rows[:, 0], 1.0).log_prob(rows[:, 1])
        torch.testing.assert_close(tilt.own().log_prob(rows), expected)
        assert tilt.own.structure.unmapped is None


def test_constrained_sites_have_their_jacobians() -> None:
    """Gamma(3, 1) under E = 2 g is Gamma(3, 3): a false alarm in 1e-5."""
    torch.manual_seed(0)

    def program() -> None:
        pyro.sample("g", dist.Gamma(3.0, 1.0))
        pyro.sample("d", dist.Dirichlet(torch.ones(3)))

    tilt = Tilt(program, lambda z: 2.0 * z["g"], num_chains=8)
    with pyro.plate("rows", 2000):
        nodes = poutine.trace(tilt).get_trace().nodes
    g, d = nodes["g"]["value"], nodes["d"]["value"]
    n = 2000 / 3  # effective draws of one population
    assert abs(float(g.mean()) - 1.0) < 5 * math.sqrt(1 / 3 / n)
    assert ((d.mean(0) - 1 / 3).abs() < 5 * math.sqrt(1 / 18 / n)).all()
    assert abs(float(log_z(tilt, particles=128, rungs=40).estimate) + 3 * math.log(3)) < 0.1
    values = {"g": torch.tensor([0.5, 2.0]), "d": torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]])}
    back = tilt.own.values(tilt.own.rows(values))
    torch.testing.assert_close(back, values)
    jacobian = tilt.own.log_jacobian(tilt.own.rows(values))
    own = dist.Gamma(3.0, 1.0).log_prob(values["g"]) + math.log(2)
    torch.testing.assert_close(tilt.own().log_prob(tilt.own.rows(values)), own + jacobian)


class Two(PyroModule):
    """A tilt, and after it another latent site of some kind."""

    def __init__(self, after: str) -> None:
        super().__init__()
        self.first = Tilt(Layers("u"), LayerwiseEnergy({"u": MLPEnergy(1, (4,))}), num_chains=4)
        self.second: Any = None
        if after == "tilt":
            energy = LayerwiseEnergy({"v": MLPEnergy(1, (4,))})
            self.second = Tilt(Layers("v"), energy, num_chains=4, name="other")
        elif after == "energy prior":
            self.second = EnergyPrior(MLPEnergy(1, (4,)), 1, num_chains=4)

    def forward(self, data: Tensor) -> None:
        with pyro.plate("rows", len(data)):
            loc = self.first()
            if isinstance(self.second, Tilt):
                loc = loc + self.second()
            else:
                fn = NORMAL if self.second is None else self.second()
                loc = loc + pyro.sample("w", fn)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=data)


class Layers(PyroModule):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.linear = name, nn.Linear(1, 1)

    def forward(self) -> Any:
        above = pyro.sample(self.name, NORMAL)
        below = dist.Normal(self.linear(above), 1.0).to_event(1)
        return pyro.sample(f"{self.name}_low", below)


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("after", ["plain", "tilt", "energy prior"])
def test_pyros_own_guides_learn_it_whatever_comes_after(after: str, particles: int) -> None:
    torch.manual_seed(0)
    model, data = Two(after), torch.randn(N, 1)
    guide = AutoNormal(model)
    elbo = Trace_ELBO(num_particles=particles, vectorize_particles=particles > 1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    svi = SVI(model, guide, optim.Adam({"lr": 1e-2}), elbo)
    for _ in range(3):
        svi.step(data)
    still = [n for n, p in model.named_parameters() if torch.equal(p, before[n])]
    assert all(".energ" in n and n.endswith("net.2.bias") for n in still)


def test_an_energy_held_fixed_lets_the_conditionals_learn() -> None:
    program, energy = Hierarchy(), Quadratic()
    values = {"top": torch.ones(N, 1).double(), "low": -torch.ones(N, 1).double()}
    for coordinates in ("own", "noise"):
        tilt = ExactTilt(program, energy, coordinates=coordinates)
        tilt.learning = False
        with pyro.plate("rows", N):
            total = poutine.trace(poutine.condition(tilt, values)).get_trace().log_prob_sum()
        leaves = [*program.parameters()]
        expected = torch.autograd.grad(log_joint(program, energy, values).sum(), leaves)
        torch.testing.assert_close(torch.autograd.grad(total, leaves), expected)


def test_copies_and_doubles_are_tilts_of_their_own() -> None:
    torch.manual_seed(0)
    tilt = Tilt(Layers("u"), LayerwiseEnergy({"u": MLPEnergy(1)}), num_chains=4)
    other: Any = copy.deepcopy(tilt).double()
    assert other.own.structure.model is other.program is not tilt.program
    assert other.program.linear.weight.dtype == other.own.structure.draw.dtype == torch.float64
    assert tilt.own.structure.draw.dtype == torch.float32
    assert tilt().dtype == torch.float32


class Sampled(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.z = PyroSample(dist.Normal(0.0, 1.0))

    def forward(self) -> Any:
        return self.z


class ByElement(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([-5.0, 0.0, 5.0]))

    def forward(self) -> None:
        with pyro.plate("rows", 3):
            pyro.sample("a", dist.Normal(self.loc, 1.0))


def masked() -> None:
    with pyro.plate("rows", 2):
        pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).mask(torch.tensor([True, False])))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (Sampled(), r"the PyroSample attributes \['z'\]"),
        (ByElement(), r"one density of all elements of \['rows'\], got one that differs"),
        (masked, "no mask in a distribution, got one in that of 'a'"),
    ],
)
def test_programs_that_have_no_one_density_are_refused(program: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tilt(program, zero, num_chains=4)


def test_arguments_that_change_the_density_are_refused() -> None:
    class By(PyroModule):
        def forward(self, by: Tensor) -> Any:
            return pyro.sample("a", dist.Normal(by, 1.0))

    tilt = Tilt(By(), zero, example=(torch.zeros(()),), num_chains=4)
    tilt(torch.zeros(()))
    with pytest.raises(ValueError, match="whose density the arguments do not change"):
        tilt(torch.tensor(5.0))


def test_each_tilt_of_a_model_has_a_name() -> None:
    tilts = [
        Tilt(lambda n=name: pyro.sample(n, NORMAL), zero_of_events, num_chains=4) for name in "ab"
    ]

    def model() -> None:
        for tilt in tilts:
            tilt()

    with pytest.raises(ValueError, match="name: expected one of its own for each tilt"):
        poutine.trace(model).get_trace()
