"""ImplicitEmission: its samples and the bound of its density, told what is seen or not."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC
from torch import Tensor, nn

from noisy import stirred
from pyro_lebm.inference import MALA, MCLMC, ULA, Barker, Underdamped
from pyro_lebm.inference.sampling.kernel import Kernel
from pyro_lebm.models import DiffusionProcess, GaussianEmission, ImplicitEmission, LatentODE
from pyro_lebm.series import Series


class Watched(nn.Module):
    """A denoiser's network that keeps what it was shown."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.shown = network, list[Tensor]()

    def given(self, context: Tensor) -> Any:
        denoise = self.network.given(context)  # type: ignore[operator]

        def watched(u: Tensor, level: Tensor) -> Any:
            self.shown.append(u.detach())
            return denoise(u, level)

        return watched


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(4, 3), (5, 4, 3), (2, 5, 4, 3)])
def test_shapes(shape: tuple[int, ...], eta: float) -> None:
    x = ImplicitEmission(3, 2, stochasticity=eta)(torch.randn(shape))
    full = (*shape[:-1], 2)
    assert x.batch_shape == full and x.event_shape == ()
    assert x.sample().shape == x.mean.shape == full
    assert x.sample((7,)).shape == (7, *full) and not x.sample().requires_grad
    assert x.expand(torch.Size((6, *full))).sample().shape == (6, *full)
    if eta:
        assert x.log_prob(torch.zeros(full)).shape == full
        assert x.to_event(2).log_prob(torch.zeros(full)).shape == shape[:-2]


@pytest.mark.parametrize("steps", [1, 5])
def test_it_starts_as_a_gaussian_emission(steps: int) -> None:
    emission, peer = ImplicitEmission(3, 2, steps=steps).double(), GaussianEmission(3, 2, (64,))
    peer.network.load_state_dict(emission.network.state_dict())
    path = torch.randn(1, 6, 3).double()
    x, plain = emission(path), peer.double()(path)
    assert torch.allclose(x.mean, plain.mean)
    values = plain.sample((4000,))[:, 0]
    off = (x.expand((4000, 6, 2)).log_prob(values) - plain.log_prob(values)).detach()
    # Five standard errors of 48000 numbers: 1e-6 false alarms.
    assert abs(float(off.mean())) < 5 * float(off.std()) / 48000**0.5 + 1e-4
    drawn = (x.sample((4000,))[:, 0] - plain.mean[0].detach()) / 0.5
    assert abs(float(drawn.mean())) < 5 / 48000**0.5 + 1e-3
    assert abs(float(drawn.var()) - 1) < 5 * (2 / 48000) ** 0.5 + 1e-3


def test_its_density_is_a_lower_bound_of_what_it_draws() -> None:
    emission = stirred(ImplicitEmission(1, 1, steps=3), by=0.03).double()
    path = torch.zeros(1, 1, 1).double()
    drawn = emission(path).sample((20000,)).flatten()
    # The density by counting, in bins that hold 500 draws or more
    low, high = drawn.quantile(torch.tensor([0.1, 0.9]).double())
    edges = torch.linspace(float(low), float(high), 9).double()
    counts = torch.stack([((drawn > a) & (drawn <= b)).sum() for a, b in edges.unfold(0, 2, 1)])
    density = (counts / 20000 / edges.diff()[0]).log()
    middles = (edges[1:] + edges[:-1]) / 2
    values = middles.view(8, 1, 1, 1).expand(8, 4000, 1, 1)
    bound = emission(path.expand(4000, 1, 1)).log_prob(values).detach().flatten(1)
    # Five standard errors of both; bins curve the density by less than .01.
    error = (1 / counts + bound.var(1) / 4000).sqrt()
    assert bool((bound.mean(1) < density + 5 * error + 0.01).all())
    assert bool((bound.mean(1) > density - 0.5).all())


def test_fewer_levels_cost_no_bias() -> None:
    emission = stirred(ImplicitEmission(2, 2, steps=6), by=0.05).double()
    path, x = torch.randn(1, 2).double(), torch.zeros(1, 2).double()
    every = emission(path.expand(20000, 2)).log_prob(x).detach()
    emission.levels = 2
    some = emission(path.expand(20000, 2)).log_prob(x).detach()
    error = ((every.var(0) + some.var(0)) / 20000).sqrt()
    assert bool(((every.mean(0) - some.mean(0)).abs() < 5 * error).all())
    assert bool((some.var(0) > every.var(0)).all())


# What is observed


@pytest.mark.parametrize("hidden", [torch.nan, torch.inf, -1e30, 7.0])
def test_hidden_values_never_matter(hidden: float) -> None:
    emission = stirred(ImplicitEmission(2, 3), by=0.2)
    path, values = torch.randn(4, 5, 2, requires_grad=True), torch.randn(4, 5, 3)
    mask = torch.rand(4, 5, 3) > 0.4
    found = []
    for x in (values, torch.where(mask, values, hidden)):
        emission.zero_grad()
        torch.manual_seed(2)
        leaf = x.clone().requires_grad_(True)
        log_prob = emission.seen(path, mask).log_prob(leaf)
        (of_path,) = torch.autograd.grad(log_prob.sum(), path, retain_graph=True)
        log_prob.sum().backward()
        grads = [p.grad for p in emission.parameters() if p.grad is not None]
        assert leaf.grad is not None and bool((leaf.grad[~mask] == 0).all())
        found.append([log_prob.detach(), of_path, leaf.grad, *grads])
    assert len(found[0]) > 6 and all(bool(torch.isfinite(f).all()) for f in found[0])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert bool((found[0][0][~mask] == 0).all())


def test_what_is_hidden_is_pure_noise_to_the_denoiser() -> None:
    emission = ImplicitEmission(2, 2)
    watched = Watched(emission.denoiser)
    emission.denoiser = watched
    mask = torch.tensor([True, False])
    values = torch.full((3000, 2), 50.0)
    emission.seen(torch.zeros(3000, 2), mask.expand(3000, 2)).log_prob(values)
    (u,) = watched.shown
    # 15000 standard normals, five standard errors
    assert abs(float(u[..., 1].mean())) < 5 / 15000**0.5
    assert abs(float(u[..., 1].var()) - 1) < 5 * (2 / 15000) ** 0.5
    assert float(u[-1, :, 0].min()) > 10


def test_the_denoiser_is_told_what_is_seen() -> None:
    emission = stirred(ImplicitEmission(2, 2), by=0.2)
    path, u, level = torch.randn(3, 2), torch.randn(3, 2), torch.tensor([0.5])
    mask = torch.tensor([[True, False]]).expand(3, 2)
    all_seen, plain = emission.given(path, torch.ones(3, 2).bool()), emission.given(path)
    assert torch.equal(all_seen(u, level)[0], plain(u, level)[0])
    assert not torch.allclose(emission.given(path, mask)(u, level)[0], plain(u, level)[0])


def test_a_model_of_paths_without_steps_takes_it_too() -> None:
    values = torch.randn(3, 4, 2)
    values[0, 1, 1] = torch.nan
    model = LatentODE(2, 2, emission=ImplicitEmission(2, 2))
    trace = poutine.trace(model).get_trace(Series(torch.linspace(0, 1, 4), values))
    trace.compute_log_prob()
    assert bool(torch.isfinite(trace.nodes["x"]["log_prob"]).all())
    assert model.generate(5, torch.linspace(0, 1, 3)).shape == (5, 3, 2)


# Learning


def test_it_learns_two_peaks_that_no_normal_has() -> None:
    emission = ImplicitEmission(1, 1, steps=5, hidden=(32,), levels=2)
    path = torch.zeros(512, 1)
    optimiser = torch.optim.Adam(emission.parameters(), lr=1e-2)
    for _ in range(250):
        x = 2 * torch.randint(0, 2, (512, 1)) - 1 + 0.1 * torch.randn(512, 1)
        loss = -emission(path).log_prob(x).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    x = 2 * torch.randint(0, 2, (20000, 1)) - 1 + 0.1 * torch.randn(20000, 1)
    emission.levels = None
    bound = float(emission(torch.zeros(20000, 1)).log_prob(x).detach().mean())
    # The best normal has variance 1.01; what is reached lies far above it.
    best = -float(dist.Normal(0.0, 1.01**0.5).entropy())
    assert bound > best + 0.5
    drawn = emission(torch.zeros(4000, 1)).sample().abs()
    assert float(((drawn - 1).abs() < 0.4).float().mean()) > 0.9


@pytest.mark.parametrize("order", [1, 2])
def test_deterministic_samples_follow_the_path_at_the_emissions_scale(order: int) -> None:
    emission = ImplicitEmission(2, 2, stochasticity=0.0, steps=20, order=order, scale=0.2)
    for place in (-3.0, 3.0):
        path = torch.full((1, 2), place)
        drawn = emission(path).sample((4000,))[:, 0]
        # A standard normal in units of .2: five standard errors. Steps of first order leave the
        # product of their cosines, those of second order everything.
        left = math.prod(math.cos(math.pi / 40) for _ in range(20)) if order == 1 else 1.0
        mean = emission.mean(path)[0].detach()
        assert bool(((drawn.mean(0) - mean).abs() < 5 * 0.2 / 4000**0.5).all())
        assert bool(((drawn.std(0) / 0.2 - left).abs() < 5 / 8000**0.5 + 1e-3).all())


# Bad inputs


def test_a_deterministic_sampler_has_no_density() -> None:
    x = ImplicitEmission(2, 1, stochasticity=0.0)(torch.zeros(3, 2))
    with pytest.raises(NotImplementedError, match=r"stochasticity: expected above 0 .* got 0: set"):
        x.log_prob(torch.zeros(3, 1))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"levels": 1.5}, "levels: expected a whole number, got 1.5"),
        ({"steps": 2.5}, "steps: expected a whole number, got 2.5"),
        ({"latent": 2.0}, "latent: expected a whole number, got 2.0"),
        ({"scale": "a"}, "scale: expected a number, got 'a'"),
        ({"hidden": 64}, "hidden: expected a sequence of widths"),
    ],
)
def test_what_is_no_number_is_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        ImplicitEmission(**{"latent": 2, "observed": 1, **kwargs})


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"latent": 0}, "latent: expected a size of at least 1, got 0"),
        ({"observed": 0}, "observed: expected a size of at least 1, got 0"),
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"stochasticity": -0.1}, r"stochasticity: expected .*\[0, 1\], got -0.1"),
        ({"order": 3}, "order: expected 1 or 2, got 3"),
        ({"levels": 0}, "levels: expected at least 1, got 0"),
        ({"scale": 0.001}, "scale: expected a finite number above 0.001, got 0.001"),
        ({"hidden": ()}, "hidden: expected at least one layer, got none"),
    ],
)
def test_bad_inputs(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImplicitEmission(**{"latent": 2, "observed": 1, **kwargs})


@pytest.mark.parametrize("kind", [MALA, Barker, ULA, Underdamped, MCLMC])
def test_our_kernels_refuse_it_under_pyros_mcmc(kind: type[Kernel]) -> None:
    """Its density is another one at each call: what accepts by it has no invariant law."""
    model = DiffusionProcess(2, 2, hidden=(8,), emission=ImplicitEmission(2, 2, hidden=(8,)))
    series = Series(torch.arange(3.0), torch.zeros(2, 3, 2))
    mcmc = MCMC(kind(model), num_samples=1, warmup_steps=1, disable_progbar=True)
    with pytest.raises(ValueError, match="site 'x': expected a density, got an estimate of one"):
        mcmc.run(series)


@pytest.mark.parametrize("shape", [(4, 5, 1), (5, 1), (1,)])
def test_a_mask_broadcasts(shape: tuple[int, ...]) -> None:
    emission, path = ImplicitEmission(2, 3, hidden=(8,)), torch.randn(4, 5, 2)
    x, mask = torch.randn(4, 5, 3), torch.ones(shape, dtype=torch.bool)
    found = []
    for each in (mask, mask.expand(4, 5, 3)):
        torch.manual_seed(0)
        found.append(emission.seen(path, each).log_prob(x))
    assert found[0].shape == (4, 5, 3) and torch.equal(*found)
