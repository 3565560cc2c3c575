"""`EnergyBased` in Pyro: one contract, wherever Pyro puts it.

The gradient's reference is finite differences of the density normalised by quadrature in float64;
negatives are quantiles of that density, so that nothing here is random but where it says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    HMC,
    MCMC,
    NUTS,
    SVI,
    Predictive,
    Trace_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pyro_lebm.distribution import EnergyBased, annealed_draws, base_draws
from scenarios import (
    LearnedNormal,
    Mixture,
    Quartic,
    quadrature_draws,
    quadrature_log_z,
)

POINTS = torch.linspace(-1.5, 1.0, 12, dtype=torch.float64)[:, None]  # (12, 1)
ROWS = POINTS.reshape(3, 4, 1)
MASK = torch.arange(12) % 3 != 0
ELBOS: list[type[Any]] = [Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO]


class Counted:
    """Exact negatives, and how often they were asked for."""

    def __init__(self, tilted: Tilted) -> None:
        self.tilted, self.calls = tilted, 0

    def __call__(self) -> Tensor:
        self.calls += 1
        return quadrature_draws(self.tilted.energy, self.tilted.base)


class Tilted(PyroModule):
    """A model of the points: its one site is energy-based, with a learned energy and base."""

    def __init__(self, place: str = "plain", observed: bool = True) -> None:
        super().__init__()
        self.energy, self.base = Quartic(), LearnedNormal()
        self.place, self.observed = place, observed
        self.count = Counted(self)

    def density(self) -> EnergyBased:
        return EnergyBased(self.energy, self.base(), negatives=self.count)

    def forward(self) -> Tensor:
        index = torch.arange(0, 12, 4)
        fn: Any = self.density()
        points, around, size, subsample = POINTS, [], 12, None
        if self.place == "subsampled":
            points, subsample = POINTS[index], index
        elif self.place == "scale":
            around = [poutine.scale(scale=0.3)]
        elif self.place == "mask":
            around = [poutine.mask(mask=MASK)]
        elif self.place == "masked":
            fn = fn.expand([12]).mask(MASK)
        elif self.place == "to_event":
            fn, size, points = fn.expand([4]).to_event(1), 3, ROWS
        elif self.place == "expanded":
            fn = fn.expand([1]).expand([12])
        with ExitStack() as stack:
            for context in (pyro.plate("points", size, subsample=subsample, dim=-1), *around):
                stack.enter_context(context)
            value: Tensor = pyro.sample("z", fn, obs=points if self.observed else None)
        return value


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
                p += sign * h
                ends.append(exact_loss(model))
                p -= sign * h
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
        def forward(self) -> dist.TorchDistribution:
            return dist.Normal(slope.sin().reshape(1), slope.exp()).to_event(1)

    def exact() -> Tensor:
        lp = Base()().log_prob(POINTS) - energy(POINTS) - quadrature_log_z(energy, Base())
        return lp.sum()

    with torch.no_grad():
        slope += 1e-5
        up = exact()
        slope -= 2e-5
        down = exact()
        slope += 1e-5
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
            lp = build(p).log_prob(POINTS) - energy(POINTS) - quadrature_log_z(energy, Base())
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
    known = EnergyBased(model.energy, model.base(), log_z=log_z)
    assert torch.allclose(known.log_prob(POINTS), expected - log_z)
    assert torch.allclose(known.expand([12]).log_prob(POINTS), expected - log_z)


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
            self.stiff = PyroParam(one, constraint=dist.constraints.positive)

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


# How often negatives are drawn


def noisy_guide() -> None:
    loc = pyro.param("loc", torch.zeros(12, 1, dtype=torch.float64))
    with pyro.plate("points", 12):
        pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))


@pytest.mark.parametrize("elbo", ELBOS)
@pytest.mark.parametrize("observed", [True, False], ids=["observed", "latent"])
def test_svi_draws_once_a_step_and_evaluation_never(elbo: Any, observed: bool) -> None:
    model = Tilted(observed=observed)
    guide = (lambda: None) if observed else noisy_guide
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), elbo())
    svi.evaluate_loss()
    assert model.count.calls == 0
    before = [p.detach().clone() for p in model.parameters()]
    svi.step()
    assert model.count.calls == 1
    assert all((a != b).all() for a, b in zip(before, model.parameters(), strict=True))


def test_the_mean_field_elbo_falls_back_to_draws() -> None:
    model = Tilted(observed=False)
    torch.manual_seed(0)
    found = TraceMeanField_ELBO().loss(model, noisy_guide)
    torch.manual_seed(0)
    q = dist.Normal(torch.zeros(12, 1).double(), 0.5).to_event(1)
    z = q.sample()
    with torch.no_grad():
        expected = q.log_prob(z).sum() - (model.base().log_prob(z) - model.energy(z)).sum()
    assert abs(found - float(expected)) < 1e-9


@pytest.mark.parametrize("kernel", [HMC, NUTS])
def test_pyros_mcmc_samples_the_density_and_draws_no_negatives(kernel: Any) -> None:
    model = Tilted(observed=False)
    model.register_buffer("unused", torch.zeros(()))

    def program() -> None:
        pyro.sample("z", model.density())

    steps: dict[str, Any] = {"num_steps": 3} if kernel is HMC else {"max_tree_depth": 2}
    mcmc = MCMC(kernel(program, **steps), num_samples=200, warmup_steps=50, disable_progbar=True)
    mcmc.run()
    assert model.count.calls == 0
    draws = mcmc.get_samples()["z"]
    exact = quadrature_draws(model.energy, model.base)
    # five standard errors at an effective 40 of 200 draws: fewer than either kernel gives
    assert abs(float(draws.mean() - exact.mean())) < 5 * float(exact.std()) / math.sqrt(40)
    assert abs(float(draws.std() / exact.std()) - 1) < 5 / math.sqrt(80)
    assert all(p.grad is None for p in model.parameters())


# Sampling


def test_draws_have_the_modes_weights() -> None:
    target = Mixture(sd=0.3)
    base = dist.Normal(torch.zeros(2), 3.0).to_event(1)
    fn = EnergyBased(lambda z: base.log_prob(z) - target.log_density(z), base)
    z = fn.expand([1000]).sample(torch.Size((4,)))
    assert z.shape == (4, 1000, 2)
    # measured over 40 runs in test_smc: standard deviation .05 of one population of 300
    assert abs(target.share(z.flatten(0, 1)) - target.weight) < 5 * 0.05 * math.sqrt(300 / 4000)
    few = torch.cat([fn.sample(torch.Size((2,))) for _ in range(25)])
    # two draws of one population are nearly independent
    assert abs(target.share(few) - target.weight) < 5 * math.sqrt(0.16 / 50)


@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("parallel", [True, False])
def test_predictive_in_every_mode(mode: Any, parallel: bool) -> None:
    def model() -> None:
        # N(2, 1) in disguise
        fn = EnergyBased(lambda z: -2.0 * z, dist.Normal(0.0, 1.0))
        with pyro.plate("outer", 3, dim=-1):
            z = pyro.sample("z", fn)
            pyro.sample("x", dist.Normal(z, 0.1))

    n = 400 if parallel else 6
    with mode():
        draws = Predictive(model, num_samples=n, parallel=parallel)()
    assert draws["z"].shape == draws["x"].shape == (n, 3)
    assert not draws["z"].requires_grad
    # draws of one call share a population of 512 or 1200: nearly independent
    assert abs(float(draws["z"].mean()) - 2) < 5 / math.sqrt(min(3 * n, 500))
    assert abs(float((draws["x"] - draws["z"]).std()) - 0.1) < 5 * 0.1 / math.sqrt(2 * 3 * n)


def test_a_sampler_of_ones_own_and_base_draws() -> None:
    asked: list[int] = []

    def sampler(fn: EnergyBased, n: int) -> Tensor:
        asked.append(n)
        return torch.full((n, 1), 7.0)

    fn = EnergyBased(lambda z: z.sum(-1), dist.Normal(torch.zeros(1), 1.0).to_event(1))
    fn = EnergyBased(fn.energy, fn.base, sampler=sampler).expand([3])
    assert fn.sample(torch.Size((2,))).shape == (2, 3, 1)
    assert asked == [6]
    with base_draws():
        assert fn.sample().ne(7).all()
    assert asked == [6]
    assert fn.sample().eq(7).all()
    assert fn.expand([0]).sample().shape == (0, 1)


def test_a_seed_reproduces_draws() -> None:
    fn = EnergyBased(lambda z: -2.0 * z, dist.Normal(0.0, 1.0))
    pyro.set_rng_seed(4)
    first = fn.sample(torch.Size((5,)))
    pyro.set_rng_seed(4)
    assert torch.equal(fn.sample(torch.Size((5,))), first)


def test_negatives_are_drawn_by_the_sampler_if_nothing_else_is_given() -> None:
    """The gradient of a mean: slope's is E_p[z] - mean(points), to Monte Carlo error."""

    class Slope(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slope = nn.Parameter(torch.tensor(-2.0))

        def forward(self, z: Tensor) -> Tensor:
            return self.slope * z

    energy = Slope()
    fn = EnergyBased(energy, dist.Normal(0.0, 1.0))
    fn.log_prob(torch.full((4,), 1.0)).mean().backward()
    assert energy.slope.grad is not None
    # 256 draws of N(2, 1); five standard errors, doubled as draws share ancestors
    assert abs(float(energy.slope.grad) - (2.0 - 1.0)) < 2 * 5 / math.sqrt(256)


# Pyro's handlers


def test_trace_condition_expand_mask() -> None:
    def model() -> Tensor:
        fn = EnergyBased(lambda z: z.sum(-1), dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("a", 3, dim=-2), pyro.plate("b", 4, dim=-1):
            value: Tensor = pyro.sample("z", fn)
        return value

    site = poutine.trace(model).get_trace().nodes["z"]
    assert site["value"].shape == (3, 4, 2)
    assert site["fn"].log_prob(site["value"]).shape == (3, 4)
    z = torch.randn(3, 4, 2)
    trace = poutine.trace(poutine.condition(model, {"z": z})).get_trace()
    expected = dist.Normal(0.0, 1.0).log_prob(z).sum(-1) - z.sum(-1)
    assert torch.allclose(trace.log_prob_sum(), expected.sum())
    masked = poutine.mask(model, mask=torch.tensor([True, False, False, False]))
    trace = poutine.trace(poutine.condition(masked, {"z": z})).get_trace()
    assert torch.allclose(trace.log_prob_sum(), expected[:, 0].sum())
    nothing = poutine.trace(poutine.condition(poutine.mask(model, mask=False), {"z": z}))
    assert nothing.get_trace().log_prob_sum() == 0


def test_shapes_follow_torchs_rules() -> None:
    fn = EnergyBased(lambda z: z.sum(-1), dist.Normal(torch.zeros(2), 1.0).to_event(1))
    assert (fn.batch_shape, fn.event_shape, fn.event_dim) == ((), (2,), 1)
    wide = fn.expand([3]).expand([4, 3])
    assert (wide.batch_shape, wide.event_shape) == ((4, 3), (2,))
    assert wide.log_prob(torch.zeros(2)).shape == (4, 3)
    assert wide.log_prob(torch.zeros(5, 4, 3, 2)).shape == (5, 4, 3)
    assert wide.to_event(1).log_prob(torch.zeros(4, 3, 2)).shape == (4,)
    assert wide.sample(torch.Size((5,))).shape == (5, 4, 3, 2)
    assert fn.has_rsample is False
    assert str(fn.support) == str(fn.base.support)
    with pytest.raises(ValueError, match="support"):
        wide.log_prob(torch.full((4, 3, 2), math.nan))


# Refusals


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
            self.slope = PyroSample(dist.Normal(0.0, 1.0))

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
        SVI(model, reparametrised, pyro.optim.Adam({}), Trace_ELBO()).step()
    with base_draws(), pytest.raises(ValueError, match=part):
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
            SVI(model, lambda: None, pyro.optim.Adam({}), Trace_ELBO()).step()
    assert count == 0
    before = energy.slope.item()
    SVI(known, lambda: None, pyro.optim.Adam({}), Trace_ELBO()).step()
    assert energy.slope.item() != before
    # outside SVI nobody but the user knows which parameters are to move
    Trace_ELBO().differentiable_loss(hidden, lambda: None).backward()


def pairs() -> Iterator[tuple[Any, Any]]:
    fn = EnergyBased(lambda z: z, dist.Normal(0.0, 1.0))
    yield fn, fn
    yield fn, dist.Normal(0.0, 1.0)
    yield dist.Normal(0.0, 1.0), fn
    yield dist.Normal(torch.zeros(2), 1.0).to_event(1), fn.expand([2]).to_event(1)


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
