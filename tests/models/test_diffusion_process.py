"""DiffusionProcess: its sites, its transitions and their densities, gaps, flows, saving."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import PyroOptim
from torch import Tensor, nn

from noisy import stirred
from pyro_lebm.diffusion.schedule import alpha_bar
from pyro_lebm.energy import MLPEnergy
from pyro_lebm.models import (
    BernoulliEmission,
    DiffusionProcess,
    GaussianEmission,
    ImplicitEmission,
    PoissonEmission,
    StepNetwork,
    VolumePreservingFlow,
)
from pyro_lebm.prior import EnergyPrior
from pyro_lebm.series import Series

EMISSIONS = [GaussianEmission, BernoulliEmission, PoissonEmission, ImplicitEmission]
ETAS = [0.0, 0.4, 1.0]


def counts(n: int = 5, length: int = 4, observed: int = 1, *, shared: bool = True) -> Series:
    """Zeros and ones with hidden entries: fit for every emission."""
    times = torch.rand((length,) if shared else (n, length)).cumsum(-1)
    values = torch.randint(0, 2, (n, length, observed)).float()
    mask = torch.rand(n, length, observed) > 0.3
    mask[:, 0] = True
    return Series(times, torch.where(mask, values, torch.nan))


class Drawn(nn.Module):
    """Exact for z' ~ N(decay^gap z + u, variance), in the state's own units."""

    def __init__(self, decay: float = 0.7, variance: float = 0.2, spread: bool = True) -> None:
        super().__init__()
        self.decay, self.variance, self.spread = decay, variance, spread

    def forward(
        self, noisy: Tensor, level: Tensor, z: Tensor, gap: Tensor, u: Tensor | None
    ) -> Any:
        mean = self.mean(z, gap, u)
        a = alpha_bar(level)
        total = a * self.variance + 1 - a
        clean = mean + self.variance * a.sqrt() * (noisy - a.sqrt() * mean) / total
        return (clean, (self.variance * (1 - a) / total).sqrt()) if self.spread else clean

    def mean(self, z: Tensor, gap: Tensor, u: Tensor | None) -> Tensor:
        return self.decay**gap * z + (0.0 if u is None else u)


# Sites


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("emission", EMISSIONS)
@pytest.mark.parametrize(("observed", "shared"), [(1, True), (3, False)])
def test_sites_plates_and_shapes(emission: Any, observed: int, shared: bool, eta: float) -> None:
    model = DiffusionProcess(
        3, observed, steps=2, stochasticity=eta, emission=emission(3, observed)
    )
    series = counts(observed=observed, shared=shared)
    trace = poutine.trace(model).get_trace(series.batch([4, 1]))
    trace.compute_log_prob()
    sites = {n: s for n, s in trace.nodes.items() if s["type"] == "sample" and n != "sequences"}
    assert list(sites) == ["z0", "noise", "x"]
    assert [s["is_observed"] for s in sites.values()] == [False, False, True]
    shapes = [tuple(s["value"].shape) for s in sites.values()]
    assert shapes == [(2, 3), (2, 3, 9 if eta else 3), (2, 4, observed)]
    for site in sites.values():
        assert site["fn"].batch_shape == site["log_prob"].shape == (2,)
        assert bool(torch.isfinite(site["log_prob"]).all())
        (frame,) = site["cond_indep_stack"]
        assert (frame.name, frame.dim, frame.size, frame.full_size) == ("sequences", -1, 2, 5)
        assert site["scale"] == 5 / 2


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("shared", [True, False])
def test_a_plate_of_particles_goes_through(eta: float, shared: bool) -> None:
    model = stirred(DiffusionProcess(2, 1, steps=3, stochasticity=eta))
    series = counts(3, shared=shared)
    values = {"z0": torch.randn(4, 3, 2), "noise": torch.randn(4, 3, 3, model.noise)}

    def path(at: dict[str, Tensor]) -> Tensor:
        found: Tensor = poutine.condition(model, data=at)(series)
        return found

    with pyro.plate("particles", 4, dim=-2):
        many = path(values)
    each = torch.stack([path({name: v[i] for name, v in values.items()}) for i in range(4)])
    assert many.shape == (4, 3, 4, 2) and torch.allclose(many, each, atol=1e-5)
    gaps = series.times.diff()
    mapped = torch.func.vmap(lambda z, n: model.path(z, n, gaps))(*values.values())
    assert torch.allclose(mapped, each, atol=1e-5)


def test_sequences_with_times_of_their_own_do_not_meet() -> None:
    model, series = stirred(DiffusionProcess(2, 1)), counts(4, 5, shared=False)
    at = {"z0": torch.randn(4, 2), "noise": torch.randn(4, 4, 2)}
    together = poutine.condition(model, data=at)(series)
    for i in range(4):
        one = {name: v[i : i + 1] for name, v in at.items()}
        alone = poutine.condition(model, data=one)(series[i])
        assert torch.allclose(together[i : i + 1], alone, atol=1e-6)


@pytest.mark.parametrize("emission", EMISSIONS)
@pytest.mark.parametrize("hidden", [torch.nan, torch.inf, 7.0])
def test_hidden_values_never_matter(emission: Any, hidden: float) -> None:
    model = stirred(DiffusionProcess(2, 2, emission=emission(2, 2)))
    series = counts(observed=2)
    other = Series(series.times, torch.where(series.mask, series.values, hidden), series.mask)
    found = []
    for data in (series, other):
        torch.manual_seed(1)
        model.zero_grad()
        trace = poutine.trace(model).get_trace(data)
        trace.compute_log_prob()
        trace.log_prob_sum().backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        found.append([trace.nodes["x"]["log_prob"].detach(), *grads])
    assert len(found[0]) > 10 and all(bool(torch.isfinite(g).all()) for g in found[0])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_one_time_needs_no_steps() -> None:
    trace = poutine.trace(DiffusionProcess(2, 1)).get_trace(times=torch.zeros(1), n=3)
    assert "noise" not in trace.nodes and trace.nodes["x_new"]["value"].shape == (3, 1, 1)


# Transitions


@pytest.mark.parametrize("order", [1, 2])
def test_the_deterministic_sampler_reaches_a_gaussian_transition(order: int) -> None:
    model = DiffusionProcess(1, 1, steps=200, denoiser=Drawn(), unit=2.0, order=order).double()
    noise = torch.tensor([[0.0], [1.0]]).double()
    z, gap = torch.tensor([[1.5]]).double(), torch.tensor([3.0]).double()
    low, high = model.step(z, gap, noise)
    # Affine in its noise; of first order in 1 / 200, nothing is random.
    assert float(low) == pytest.approx(0.7**1.5 * 1.5, abs=0.02)
    assert float(high - low) == pytest.approx(math.sqrt(0.2), rel=0.02)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_transition_has_the_density_of_a_gaussian_one(steps: int) -> None:
    denoiser = Drawn()
    model = DiffusionProcess(2, 1, steps=steps, stochasticity=1.0, denoiser=denoiser, covariates=2)
    model = model.double()
    n = 4000
    z, u = torch.randn(n, 2).double(), torch.randn(n, 2).double()
    gap = torch.rand(n, 1).double()
    mean = denoiser.mean(z, gap, u)
    target = mean + 0.2**0.5 * torch.randn_like(mean)
    exact = dist.Normal(mean, 0.2**0.5).log_prob(target).sum(-1)
    noise, ratio, _ = model.bridge(z, gap, target, u)
    assert noise.shape == (n, 2 * (steps + 1))
    assert torch.allclose(model.step(z, gap, noise, u), target, atol=1e-9)
    back, passed = model.retrace(z, gap, noise, u)
    assert torch.allclose(back, target, atol=1e-9)
    every = [ratio, passed, model.gaps(z, gap, target, u)]
    for found in [*every, model.gaps(z, gap, target, u, levels=2)]:
        off = found + exact
        # Five standard errors, and what the top level keeps of the target: 1e-4 of its square.
        assert abs(float(off.mean())) < 5 * float(off.std()) / n**0.5 + 1e-3
    moved = model.step(z, gap, torch.randn(n, model.noise).double(), u) - mean
    assert bool((moved.mean(0).abs() < 5 * (0.2 / n) ** 0.5 + 0.02).all())
    assert bool(((moved.var(0) / 0.2 - 1).abs() < 5 * (2 / n) ** 0.5 + 1e-3).all())


def test_particles_of_the_state_before_meet_one_target() -> None:
    model = DiffusionProcess(2, 1, steps=3, stochasticity=1.0, denoiser=Drawn())
    z, gap, target = torch.randn(6, 5, 2), torch.ones(5, 1), torch.randn(5, 2)
    noise, ratio, _ = model.bridge(z, gap, target)
    assert noise.shape == (6, 5, 8) and ratio.shape == (6, 5)
    assert torch.allclose(model.step(z, gap, noise), target.expand(6, 5, 2), atol=1e-4)
    assert model.gaps(z, gap, target).shape == (6, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_bridges_of_particles_over_all_times_at_once(eta: float, dtype: torch.dtype) -> None:
    flow = VolumePreservingFlow(2)
    model = DiffusionProcess(2, 1, steps=3, stochasticity=eta, covariates=1, flow=flow)
    model = stirred(model).to(dtype)
    path, u = torch.randn(6, 3, 5, 2, dtype=dtype), torch.randn(3, 4, 1, dtype=dtype)
    gaps = torch.tensor([0.3, 0.0, 2.0, 50.0], dtype=dtype)[:, None]
    noise, ratio, _ = model.bridge(path[..., :-1, :], gaps, path[..., 1:, :], u)
    assert noise.shape == (6, 3, 4, 8) and ratio.shape == (6, 3, 4) and ratio.dtype == dtype
    assert bool(torch.isfinite(ratio).all())
    covariates = torch.cat([torch.zeros(3, 1, 1, dtype=dtype), u], 1)
    back = model.path(path[..., 0, :], noise, gaps[:, 0], covariates)
    assert torch.allclose(back, path, atol=1e-2 if dtype == torch.float32 else 1e-7)
    # A target without particles meets states that have them.
    alone = model.gaps(path[..., 0, :], gaps[0], path[0, :, 1], u[:, 0], levels=1)
    assert alone.shape == (6, 3)


def test_the_default_starts_as_a_random_walk() -> None:
    model = DiffusionProcess(2, 1, steps=4, stochasticity=1.0, unit=2.0).double()
    z, gap = torch.randn(5, 2).double(), torch.tensor([3.0]).double()
    scale = 0.2 * math.sqrt(1 - math.exp(-1.5) + 0.01)
    target = z + scale * torch.randn(2000, 5, 2).double()
    exact = dist.Normal(z, scale).log_prob(target).sum(-1)
    noise, *_ = model.bridge(z, gap, target)
    off = (model.retrace(z, gap, noise)[1] + exact).detach()
    # The top level's 0.01 x u, with x and u standard normal, is all that is left of 20000 numbers.
    assert abs(float(off.mean())) < 5 * 0.02 / 1e4**0.5 + 1e-3 and float(off.std()) < 0.03


def test_no_time_hardly_moves_a_state_and_a_gap_matters() -> None:
    z, noise, model = torch.randn(200, 2), torch.randn(200, 2), DiffusionProcess(2, 1)
    none, one = (model.step(z, torch.tensor([g]), noise).detach() - z for g in (0.0, 1.0))
    share = (0.01 / (1 - math.exp(-1.0) + 0.01)) ** 0.5
    assert torch.allclose(none, share * one, atol=1e-5)
    stirred(model)
    one, two = (model.step(z, torch.tensor([g]), noise).detach() for g in (1.0, 2.0))
    assert not torch.allclose(one, two, atol=0.01)
    # No time, no drift: without noise in it, the frame's place is the state itself.
    place, _ = model.denoiser.frame(z, torch.zeros(1))
    assert torch.equal(place, z)


@pytest.mark.parametrize("eta", ETAS)
def test_a_path_thrown_far_out_goes_on_by_bounded_steps(eta: float) -> None:
    model = stirred(DiffusionProcess(2, 1, stochasticity=eta), by=1.0)  # a drift that grows with z
    z0 = torch.tensor([[1e3, -1e3]]).expand(50, -1)
    path = model.path(z0, torch.randn(50, 400, model.noise), torch.ones(400))
    steps = path.diff(dim=-2).detach().norm(dim=-1)
    first, rest = steps[:, 0].max(), steps.max()
    assert bool(path.isfinite().all()) and float(rest) < 5 * float(first)


def test_a_gap_is_counted_in_units() -> None:
    slow, quick = DiffusionProcess(2, 1, unit=10.0), DiffusionProcess(2, 1)
    quick.load_state_dict(stirred(slow).state_dict())
    z, noise = torch.randn(3, 2), torch.randn(3, 2)
    there = slow.step(z, torch.tensor([5.0]), noise)
    assert torch.allclose(there, quick.step(z, torch.tensor([0.5]), noise), atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 2), (4, 3, 2), (2, 5, 4, 3, 2)])
def test_a_denoiser_prepared_for_its_levels_is_the_same(shape: tuple[int, ...]) -> None:
    network = StepNetwork(2, 3, (8,))
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn_like(p))
    denoise = network.given(torch.randn(*shape[:-1], 3))
    u, chosen = torch.randn(shape), (1.0, 0.6, 0.2)
    many = denoise(u, torch.tensor(chosen).view(3, *[1] * len(shape)))
    for i, (both, alone) in enumerate(
        zip(denoise.at(chosen, spread=True), denoise.at(chosen, spread=False), strict=True)
    ):
        clean, spread = both(u)
        here = denoise(u, torch.tensor([chosen[i]]))
        for found in (clean, alone(u), many[0][i], here[0]):
            assert isinstance(found, Tensor)
            assert torch.allclose(found, clean, atol=1e-5)
        assert torch.allclose(many[1][i], spread, atol=1e-5)
    # What is learned differs from level to level, not only what it is mixed with.
    a = alpha_bar(torch.tensor(chosen)).view(3, *[1] * len(shape))
    learned = (many[0] - a.sqrt() * u) / (1 - a).sqrt()
    assert not torch.allclose(learned[0], learned[1], atol=1e-2)


def test_sampling_may_change_after_training() -> None:
    model = stirred(DiffusionProcess(2, 1, steps=4, stochasticity=1.0))
    times = torch.linspace(0, 1, 3)
    assert model.noise == 10 and model.generate(5, times).shape == (5, 3, 1)
    model.stochasticity, model.steps, model.order = 0.0, 7, 2
    assert model.noise == 2 and model.generate(5, times).shape == (5, 3, 1)
    z, noise = torch.zeros(1, 2), torch.randn(1, 2)
    second = model.step(z, torch.ones(1), noise)
    model.order = 1
    assert not torch.allclose(second, model.step(z, torch.ones(1), noise))


@pytest.mark.parametrize("name", ["transition", "bridge", "gaps", "retrace"])
def test_a_deterministic_transition_has_no_density(name: str) -> None:
    z = torch.zeros(3, 2)
    given = (z, torch.ones(1)) if name == "transition" else (z, torch.ones(1), z)
    with pytest.raises(NotImplementedError, match=r"stochasticity: expected above 0 .*, got 0: sa"):
        getattr(DiffusionProcess(2, 1), name)(*given)


# Pyro's own ways


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_it_learns_by_svi_and_everything_of_it_does(eta: float) -> None:
    energy = EnergyPrior(MLPEnergy(2, (8,)), 2, num_chains=8)
    model = DiffusionProcess(2, 1, steps=2, stochasticity=eta, hidden=(8,), prior=energy)
    series = counts(3, 3)
    guide = AutoNormal(model, init_scale=0.2)
    elbo = Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(model, guide, PyroOptim(torch.optim.Adam, {"lr": 1e-2}), elbo)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(5):
        assert math.isfinite(svi.step(series))
    still = {n for n, p in model.named_parameters() if torch.equal(p, before[n])}
    assert still <= {"prior.energy.net.2.bias", "prior.energy.net.2.weight"}


def test_predictive_draws_from_the_program() -> None:
    model, times = DiffusionProcess(2, 1, steps=2), torch.linspace(0, 1, 4)
    drawn = Predictive(model, num_samples=6)(times=times, n=3)
    assert drawn["x_new"].shape == (6, 3, 4, 1) and drawn["noise"].shape == (6, 3, 3, 2)
