"""The parameter gradient of `EnergyBased` in Pyro, wherever Pyro puts it.

The reference is finite differences of the density normalised by quadrature in float64;
negatives are quantiles of that density, so that nothing here is random but where it says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import (
    Trace_ELBO,
)
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

from pyro_lebm.distribution import EnergyBased
from scenarios import (
    Quartic,
    quadrature_draws,
    quadrature_log_z,
)
from tilted import ELBOS, MASK, POINTS, ROWS, Tilted
from untyped import poutine

PLACES: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda lp: lp.sum(),
    "subsampled": lambda lp: 4 * lp[::4].sum(),
    "scale": lambda lp: 0.3 * lp.sum(),
    "mask": lambda lp: lp[MASK].sum(),
    "masked": lambda lp: lp[MASK].sum(),
    "to_event": lambda lp: lp.sum(),
    "expanded": lambda lp: lp.sum(),
}


def exact_loss(model: Tilted) -> Tensor:
    """-log density of the points, normalised by quadrature, as the model's place weighs it."""
    lp = model.base().log_prob(POINTS) - model.energy(POINTS)
    lp = lp - quadrature_log_z(model.energy, model.base)
    return -PLACES[model.place](lp)


def finite_differences(model: Tilted, h: float = 1e-5) -> dict[str, Tensor]:
    slopes = {}
    with torch.no_grad():
        for name, p in model.named_parameters():
            ends = []
            for sign in (1, -1):
                p.add_(sign * h)
                ends.append(exact_loss(model))
                p.sub_(sign * h)
            slopes[name] = ((ends[0] - ends[1]) / (2 * h)).reshape(p.shape)
    return slopes


def guide_for(model: Tilted) -> Callable[[], None]:
    def guide() -> None:
        if not model.observed:
            index = torch.arange(0, 12, 4)
            full = {"subsampled": POINTS[index], "to_event": ROWS}.get(model.place, POINTS)
            size = 3 if model.place == "to_event" else 12
            subsample = index if model.place == "subsampled" else None
            # the mean-field ELBO reads mask and scale off the guide
            mask = MASK if model.place == "mask" else True
            scale = 0.3 if model.place == "scale" else 1.0
            plate = pyro.plate("points", size, subsample=subsample, dim=-1)
            with plate, poutine.mask(mask=mask), poutine.scale(scale=scale):
                event_dim = 2 if model.place == "to_event" else 1
                pyro.sample("z", dist.Delta(full, event_dim=event_dim))

    return guide


def check_gradients(model: Tilted, elbo: Any, negatives: int = 1) -> None:
    expected = finite_differences(model)
    scale = max(float(slope.abs().max()) for slope in expected.values())
    elbo.loss_and_grads(model, guide_for(model))
    assert model.count.calls == negatives
    for name, p in model.named_parameters():
        assert p.grad is not None
        # quantiles leave an error of order 1/20,000; signals are larger by far
        assert torch.allclose(p.grad, expected[name], atol=1e-3 * scale), name
        assert expected[name].abs().max() > 0.02 * scale, "a weak test"


# The gradient


@pytest.mark.parametrize("observed", [True, False], ids=["observed", "latent"])
@pytest.mark.parametrize("place", PLACES)
def test_the_gradient_is_that_of_the_normalised_density(place: str, observed: bool) -> None:
    check_gradients(Tilted(place, observed), Trace_ELBO())


@pytest.mark.parametrize("observed", [True, False], ids=["observed", "latent"])
@pytest.mark.parametrize("elbo", ELBOS)
@pytest.mark.parametrize("vectorised", [True, False])
def test_every_elbo_gives_that_gradient(elbo: Any, observed: bool, vectorised: bool) -> None:
    particles: dict[str, Any] = {"num_particles": 3, "vectorize_particles": vectorised}
    if vectorised:
        particles["max_plate_nesting"] = 1
    check_gradients(Tilted("mask", observed), elbo(**particles), negatives=1 if vectorised else 3)


@pytest.mark.parametrize("elbo", ELBOS)
def test_a_parameter_as_a_site_gets_its_gradient_and_hides_none(elbo: Any) -> None:
    """A point estimate: the site's value is a leaf itself, and no parameter of the density."""
    model = Tilted(observed=False)

    def guide() -> None:
        at = pyro.param("at", POINTS.clone())
        with pyro.plate("points", 12, dim=-1):
            pyro.sample("z", dist.Delta(at, event_dim=1))

    elbo().loss_and_grads(model, guide)
    expected = finite_differences(model)
    for name, p in model.named_parameters():
        assert p.grad is not None
        assert torch.allclose(p.grad, expected[name], rtol=1e-2, atol=1e-3)
    z = POINTS.clone().requires_grad_(True)
    lp = model.base().log_prob(z) - model.energy(z)
    (slope,) = torch.autograd.grad(-lp.sum(), z)
    at = pyro.get_param_store()._params["at"]
    assert at.grad is not None and torch.allclose(at.grad, slope)
    assert model.count.calls == 1


def test_energy_and_base_get_their_gradient_when_both_hang_on_one_parameter() -> None:
    class Shared(nn.Module):
        def __init__(self, slope: nn.Parameter) -> None:
            super().__init__()
            self.slope = slope

        def forward(self, z: Tensor) -> Tensor:
            return (0.1 * z**4 + self.slope * z).sum(-1)

    slope = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
    energy = Shared(slope)

    class Base(nn.Module):
        def forward(self) -> Any:
            return dist.Normal(slope.sin().reshape(1), slope.exp()).to_event(1)

    def exact() -> Tensor:
        lp: Tensor = Base()().log_prob(POINTS) - energy(POINTS) - quadrature_log_z(energy, Base())
        return lp.sum()

    with torch.no_grad():
        slope.add_(1e-5)
        up = exact()
        slope.sub_(2e-5)
        down = exact()
        slope.add_(1e-5)
    expected = (up - down) / 2e-5
    fn = EnergyBased(energy, Base()(), negatives=lambda: quadrature_draws(energy, Base()))
    fn.log_prob(POINTS).sum().backward()
    assert slope.grad is not None
    assert torch.allclose(slope.grad, expected, rtol=1e-3)


def mvn(p: nn.Parameter) -> Any:
    return dist.MultivariateNormal(torch.zeros(1).double(), scale_tril=p.exp().reshape(1, 1))


def covariance(p: nn.Parameter) -> Any:
    return dist.MultivariateNormal(torch.zeros(1).double(), p.exp().reshape(1, 1) ** 2)


def affine(p: nn.Parameter) -> Any:
    normal = dist.Normal(torch.zeros(1).double(), 1.0)
    move = dist.transforms.AffineTransform(0.0, p.exp())
    return dist.TransformedDistribution(normal, [move]).to_event(1)


def mixture(p: nn.Parameter) -> Any:
    parts = dist.Normal(torch.tensor([[-0.5, 0.5]]).double(), p.exp()).to_event(0)
    return dist.MixtureSameFamily(dist.Categorical(torch.ones(1, 2).double()), parts).to_event(1)


def normal(p: nn.Parameter) -> Any:
    return dist.Normal(torch.zeros(1).double(), p.exp()).to_event(1)


@pytest.mark.parametrize("build", [normal, mvn, covariance, affine, mixture])
def test_any_base_learns(build: Callable[[nn.Parameter], Any]) -> None:
    """However the base keeps its arguments, log Z's gradient reaches them."""
    p, energy = nn.Parameter(torch.tensor(0.1, dtype=torch.float64)), Quartic()

    class Base(nn.Module):
        def forward(self) -> Any:
            return build(p)

    def exact() -> Tensor:
        with torch.no_grad():
            lp: Tensor = (
                build(p).log_prob(POINTS) - energy(POINTS) - quadrature_log_z(energy, Base())
            )
        return lp.sum()

    p.data += 1e-5
    up = exact()
    p.data -= 2e-5
    expected = (up - exact()) / 2e-5
    p.data += 1e-5
    fn = EnergyBased(energy, build(p), negatives=lambda: quadrature_draws(energy, Base()))
    fn.log_prob(POINTS).sum().backward()
    assert p.grad is not None
    assert torch.allclose(p.grad, expected, rtol=1e-3)


def test_the_gradient_in_z_is_exact_and_draws_nothing() -> None:
    model = Tilted()
    z = POINTS.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(model.density().log_prob(z).sum(), z)
    reference = POINTS.clone().requires_grad_(True)
    lp = model.base().log_prob(reference) - model.energy(reference)
    (expected,) = torch.autograd.grad(lp.sum(), reference)
    assert torch.allclose(found, expected, rtol=1e-12)
    assert model.count.calls == 0


def test_values_are_deterministic_and_log_z_enters_them() -> None:
    model = Tilted()
    fn, log_z = model.density(), quadrature_log_z(model.energy, model.base)
    expected = model.base().log_prob(POINTS) - model.energy(POINTS)
    assert torch.equal(fn.log_prob(POINTS), expected)
    known = EnergyBased(model.energy, model.base(), negatives=model.count, log_z=log_z)
    assert torch.allclose(known.log_prob(POINTS), expected - log_z)
    assert torch.allclose(known.expand([12]).log_prob(POINTS), expected - log_z)
    # a constant with a graph of its own does not count twice
    known.log_prob(POINTS).sum().backward()
    slopes = finite_differences(model)
    for name, p in model.named_parameters():
        assert p.grad is not None
        assert torch.allclose(-p.grad, slopes[name], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("base_learns", [True, False])
def test_without_learn_the_energy_stays_out_of_the_graph(base_learns: bool) -> None:
    model = Tilted()
    model.base.requires_grad_(base_learns)
    fn = EnergyBased(model.energy, model.base(), negatives=model.count, learn=False)
    z = POINTS.clone().requires_grad_(True)
    fn.expand([12]).log_prob(z).sum().backward()
    assert z.grad is not None and z.grad.ne(0).all()
    assert all(p.grad is None for p in model.energy.parameters())
    assert model.count.calls == base_learns  # a base that learns under a fixed energy needs log Z
    if base_learns:
        expected = finite_differences(model)
        for name, p in model.base.named_parameters():
            assert p.grad is not None
            assert torch.allclose(-p.grad, expected[f"base.{name}"], rtol=1e-2)


def test_an_energy_of_pyro_params_learns_and_can_be_held_fixed() -> None:
    class Stiff(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            one = torch.tensor(1.0, dtype=torch.float64)
            self.stiff: Any = PyroParam(one, constraint=dist.constraints.positive)

        def forward(self, z: Tensor) -> Tensor:
            energy: Tensor = (0.5 * self.stiff * z**2).sum(-1)
            return energy

    class Model(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.energy, self.learn = Stiff(), True

        def forward(self) -> None:
            base = dist.Normal(torch.zeros(1).double(), 1.0).to_event(1)
            fn = EnergyBased(
                self.energy,
                base,
                negatives=lambda: quadrature_draws(self.energy, lambda: base),  # type: ignore[arg-type]
                learn=self.learn,
            )
            with pyro.plate("points", 12):
                pyro.sample("z", fn, obs=POINTS)

    model = Model()
    (unconstrained,) = model.parameters()
    elbo = Trace_ELBO()
    for learn in (False, True):
        model.learn = learn
        elbo.loss_and_grads(model, lambda: None)
        if not learn:
            assert unconstrained.grad is None
    # a precision of 1 + k: log density .5 log(1 + k) - .5 (1 + k) z^2, and k = exp(u)
    exact = 0.5 * (POINTS**2).sum() - 12 * 0.5 / 2
    assert unconstrained.grad is not None
    assert torch.allclose(unconstrained.grad, exact, rtol=1e-3)
