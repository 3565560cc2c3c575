"""Gradients by computing again: the same numbers, from less memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn

from memory import Memory
from pyro_lebm import Series, engine, trajectory
from pyro_lebm.inference import LangevinGuide
from pyro_lebm.models import BernoulliEmission, GaussianEmission, LatentODE, MLPField
from pyro_lebm.programs.program import Program


class OwnField(nn.Module):
    """A field that is none of ours, driven by time."""

    def __init__(self) -> None:
        super().__init__()
        self.net: nn.Module = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        out: Tensor = self.net(torch.cat([z, t.expand(*z.shape[:-1], 1)], -1))
        return out


class OwnEmission(nn.Module):
    """Student's t about a network's output."""

    def __init__(self) -> None:
        super().__init__()
        self.net: nn.Module = nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 1))

    def forward(self, path: Tensor) -> Any:
        return dist.StudentT(4.0, self.net(path), 0.3)


def series_of(n: int, points: int, own: bool, dtype: torch.dtype = torch.float64) -> Series:
    generator = torch.Generator().manual_seed(1)
    times = torch.rand((n, points) if own else (points,), generator=generator, dtype=dtype)
    times = (3 * times).sort(-1).values + 1e-5 * torch.arange(points)
    values = (torch.rand(n, points, 1, generator=generator) < 0.5).to(dtype)
    return Series(times, values, torch.rand(n, points, 1, generator=generator) < 0.8)


def build(field: str, emission: str, **options: Any) -> LatentODE:
    torch.manual_seed(0)
    fields: dict[str, Callable[[], nn.Module]] = {
        "mlp": lambda: MLPField(2, (8,), time=True),
        "own": OwnField,
    }
    emissions: dict[str, Callable[[], nn.Module]] = {
        "gaussian": lambda: GaussianEmission(2, 1, (8,)),
        "bernoulli": lambda: BernoulliEmission(2, 1, (8,)),
        "own": OwnEmission,
    }
    # weights in double before the emission is tried
    parts = {"field": fields[field]().double(), "emission": emissions[emission]().double()}
    model = LatentODE(2, 1, **parts, **options).double()
    model.load_state_dict({**model.state_dict(), "step_size": torch.tensor(0.17)})
    return model


def gradients(model: LatentODE, series: Series) -> list[Tensor]:
    z = torch.randn(len(series), 2, generator=torch.Generator().manual_seed(2)).double()
    z.requires_grad_()
    with engine("eager"):
        value = model._seen(z, series).log_prob(series.filled)
    weight = torch.linspace(1, 2, len(series), dtype=value.dtype)
    variables = [z, *model.field.parameters(), *model.emission.parameters()]
    return [value, *torch.autograd.grad((value * weight).sum(), variables)]


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("method", ["rk4", "heun"])
@pytest.mark.parametrize(
    ("field", "emission"), [("mlp", "gaussian"), ("own", "own"), ("own", "bernoulli")]
)
def test_the_numbers_are_the_plain_ones(
    field: str, emission: str, method: str, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyro_lebm.models.slices.ROWS", 12)  # several slices
    series = series_of(4, 23, own)
    plain = gradients(build(field, emission, method=method), series)
    again = gradients(build(field, emission, method=method, recompute=True), series)
    assert len(plain) == len(again)
    for a, b in zip(plain, again, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3, 16, 17])
def test_any_number_of_steps_and_times_in_any_order(steps: int, own: bool) -> None:
    torch.manual_seed(3)
    rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)  # of a plain closure
    z0 = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    times = torch.rand((3, 9) if own else (9,), dtype=torch.float64)
    times = torch.cat([times, times[..., :2], torch.ones_like(times[..., :1])], -1)
    found = []
    for recompute in (False, True):
        path = trajectory(
            lambda t, z: -rate * z + t.sin() * z.flip(-1),
            z0,
            times,
            t0=0.0,
            step_size=1 / steps,
            recompute=recompute,
        )
        loss = (path * torch.linspace(1, 2, path.numel()).view_as(path)).sum()
        found.append([path, *torch.autograd.grad(loss, [z0, rate], create_graph=True)])
        found[-1].append(*torch.autograd.grad(found[-1][1].square().sum(), [rate]))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-11)


def peak(points: int, steps: int, recompute: bool, own: bool = False) -> int:
    """Bytes of a gradient beyond the path and the data."""
    torch.manual_seed(0)
    parts = {"field": MLPField(2, (64,)), "emission": GaussianEmission(2, 1, (64,))}
    model = LatentODE(2, 1, recompute=recompute, **parts)
    series = series_of(32, points, own, torch.float32)
    step = torch.tensor(float(series.times.max()) / steps)
    model.load_state_dict({**model.state_dict(), "step_size": step})
    z = torch.randn(32, 2, requires_grad=True)
    memory = Memory()
    with memory, engine("eager"):
        value = model._seen(z, series).log_prob(series.filled).sum()
        value.backward()
    assert steps - 1 <= float(series.times.max()) / float(model.step_size) <= steps + 1
    return memory.peak


@pytest.mark.parametrize("own", [False, True])
def test_memory_is_flat_in_the_times_beyond_the_path(own: bool) -> None:
    few, many = (peak(points, 16, True, own) for points in (200, 1000))
    path = 32 * 800 * 2 * 4  # bytes of the 800 times more
    assert (many - few) / path < 8  # the path, its gradient, and what makes it of the nodes
    plain = peak(1000, 16, False, own) - peak(200, 16, False, own)
    assert plain / path > 20  # the emission's 64 hidden values beside the path's 2


def test_memory_grows_as_the_square_root_of_the_steps() -> None:
    at = {steps: peak(20, steps, True) for steps in (16, 64, 256)}
    assert at[256] / at[64] < 2.3 and at[64] / at[16] < 2.3
    plain = {steps: peak(20, steps, False) for steps in (64, 256)}
    assert plain[256] / plain[64] > 3.2 and plain[256] > 10 * at[256]


def test_times_of_each_sequence_s_own_cost_no_path_a_segment() -> None:
    times = torch.rand(8, 500, generator=torch.Generator().manual_seed(0)).sort(-1).values
    peaks = []
    for steps in (16, 1024):  # 4 segments, 32
        with Memory() as memory:
            path = trajectory(
                lambda t, z: -z,
                torch.ones(8, 2, requires_grad=True),
                times,
                t0=0.0,
                step_size=1 / steps,
                recompute=True,
            )
            path.sum().backward()
        peaks.append(memory.peak / (path.numel() * path.element_size()))
    assert peaks[1] < peaks[0] + 1


class Decay(PyroModule):
    """dz/dt = -rate z, the rate a site of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = PyroSample(dist.LogNormal(0.0, 1.0))

    def forward(self, t: Tensor, z: Tensor) -> Any:
        return -self.rate * z  # type: ignore[operator]


class Decaying(PyroModule):
    def __init__(self, recompute: bool) -> None:
        super().__init__()
        self.field, self.recompute = Decay(), recompute

    def forward(self, z0: Tensor) -> None:
        times = torch.linspace(0, 1, 5)
        path = trajectory(self.field, z0, times, step_size=0.1, recompute=self.recompute)
        pyro.sample("x", dist.Normal(path, 1.0).to_event(3), obs=torch.zeros_like(path))


def test_a_field_with_sampled_weights_is_not_sampled_again() -> None:
    found = []
    for recompute in (False, True):
        z0 = torch.ones(1, 1, requires_grad=True)
        given = pyro.poutine.condition(Decaying(recompute), {"field.rate": torch.tensor(2.0)})
        density = pyro.poutine.trace(given).get_trace(z0).log_prob_sum()
        assert isinstance(density, Tensor)
        found.append(torch.autograd.grad(density, [z0])[0])
    assert torch.equal(*found)


def test_a_closure_over_a_network_is_held_fixed_both_times() -> None:
    class Model(PyroModule):
        def __init__(self, recompute: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.network, self.recompute = nn.Linear(2, 2), recompute

        def forward(self, x: Tensor) -> None:
            network = self.network
            with pyro.plate("n", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                path = trajectory(
                    lambda t, z: network(z).tanh(),
                    z,
                    torch.linspace(0, 1, 3),
                    step_size=0.1,
                    recompute=self.recompute,
                )
                pyro.sample("x", dist.Normal(path, 1.0).to_event(2), obs=x)

    found = []
    for recompute in (False, True):
        model = Model(recompute)
        guide = LangevinGuide(model, torch.ones(3, 3, 2), steps=2)
        torch.manual_seed(1)
        guide(torch.ones(3, 3, 2))
        found.append(guide.chains.position)
    assert torch.allclose(*found)


def test_many_chains_and_predictions_fall_back() -> None:
    series = series_of(4, 9, False)
    z = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(4)).double()
    found = []
    for recompute in (False, True):
        model = build("mlp", "gaussian", recompute=recompute)
        with engine("eager"):
            program = Program.read(model, series)
            at = z.clone().requires_grad_()
            density = program.log_density(at)
            assert program.unmapped is None
            found.append((density, *torch.autograd.grad(density.sum(), [at])))
        assert model.generate(2, series.times).shape == (2, 9, 1)
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-9)


def test_a_guide_trains_with_it_and_its_density_has_the_rest_of_a_distribution() -> None:
    series = series_of(4, 9, False)
    model = build("own", "gaussian", recompute=True)
    with engine("eager"):
        guide = LangevinGuide(model, series, steps=2)
        guide(series)
        x = model._seen(torch.zeros(4, 2).double(), series)
    assert x.batch_shape == (4,) and x.event_shape == (9, 1)
    assert x.sample().shape == x.mean.shape == x.variance.shape == (4, 9, 1)
    assert x.sample((2,)).shape == (2, 4, 9, 1) and x.expand((4,)) is x
    assert x.expand((3, 4)).batch_shape == (3, 4)


def test_what_it_cannot_do_is_refused() -> None:
    class Smooth(OwnEmission):
        def forward(self, path: Tensor) -> Any:
            return super().forward(path + path.mean(-2, keepdim=True))

    class Noisy(OwnEmission):
        def forward(self, path: Tensor) -> Any:
            return super().forward(nn.functional.dropout(path, 0.5))

    for emission in (Smooth(), Noisy()):
        LatentODE(2, 1, emission=emission)
        with pytest.raises(ValueError, match="recompute: expected an emission that treats each"):
            LatentODE(2, 1, emission=emission, recompute=True)
    with pytest.raises(ValueError, match=r"recompute: expected one of \['rk4', .*got 'dopri5'"):
        LatentODE(2, 1, method="dopri5", recompute=True)
    with pytest.raises(ValueError, match=r"recompute: expected a fixed method .* got 'dopri5'"):
        trajectory(lambda t, z: -z, torch.ones(1), torch.ones(2), method="dopri5", recompute=True)
