"""Trajectories against closed forms, their gradients, their cost, and what bad input gets."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pyro_lebm.trajectories.ode import choose_step, interpolate, trajectory
from pyro_lebm.trajectories.solvers import ADAPTIVE, FIXED

T0 = 0.25


def rotate(t: Tensor, z: Tensor) -> Tensor:
    """The harmonic oscillator of 1 rad per unit of time."""
    return torch.stack([z[..., 1], -z[..., 0]], dim=-1)


def rotated(z0: Tensor, times: Tensor) -> Tensor:
    """Its solution from time T0."""
    c, s = (times - T0).cos()[..., None], (times - T0).sin()[..., None]
    a, b = z0[..., None, :1], z0[..., None, 1:]
    return torch.cat([c * a + s * b, -s * a + c * b], dim=-1)


def grids(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Unsorted times in [T0, T0 + 4], shared and per sequence, with a repeated one."""
    shared, each = 4 * torch.rand(20, dtype=dtype) + T0, 4 * torch.rand(3, 20, dtype=dtype) + T0
    shared[7], each[:, 7] = shared[3], each[:, 3]
    return {"shared": shared, "each": each}


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 2)).double()
        self.calls = 0

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.net(z) + torch.cos(t)
        return out


@pytest.mark.parametrize("kind", ["shared", "each"])
@pytest.mark.parametrize("lead", [(), (2,), (4, 2)])
@pytest.mark.parametrize("method", FIXED)
def test_known_solution_in_every_form(method: str, lead: tuple[int, ...], kind: str) -> None:
    z0, times = torch.randn(*lead, 3, 2, dtype=torch.float64), grids()[kind]
    path = trajectory(rotate, z0, times, t0=T0, method=method, step_size=0.02)
    assert path.shape == (*lead, 3, 20, 2)
    assert torch.allclose(path, rotated(z0, times), atol=2e-3 if method == "heun" else 1e-6)


@pytest.mark.parametrize("kind", ["shared", "each"])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_adaptive_methods(method: str, kind: str) -> None:
    z0, times = torch.randn(2, 3, 2, dtype=torch.float64), grids()[kind]
    path = trajectory(rotate, z0, times, t0=T0, method=method, rtol=1e-5, atol=1e-6)
    assert path.shape == (2, 3, 20, 2)
    # Their own dense output is much less accurate than their nodes.
    assert torch.allclose(path, rotated(z0, times), atol=0.02)


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_single_precision_and_no_batch(method: str) -> None:
    z0, times = torch.randn(2), grids(torch.float32)["shared"]
    path = trajectory(rotate, z0, times, t0=T0, method=method, rtol=1e-6, atol=1e-6)
    assert path.dtype == torch.float32
    assert torch.allclose(path, rotated(z0, times), atol=2e-3)


@pytest.mark.parametrize("method", FIXED)
def test_error_falls_with_the_order_of_the_method(method: str) -> None:
    z0, times = torch.randn(5, 2, dtype=torch.float64), T0 + torch.linspace(0, 4, 301).double()
    truth = rotated(z0, times)
    coarse, fine = (
        (trajectory(rotate, z0, times, method=method, step_size=h) - truth).abs().max().item()
        for h in (0.2, 0.1)
    )
    assert math.log2(coarse / fine) == pytest.approx(FIXED[method].order, abs=0.4)


def test_dopri5_nodes_are_of_fifth_order() -> None:
    z0, times = torch.randn(5, 2, dtype=torch.float64), torch.tensor([T0, T0 + 4.0]).double()
    truth = rotated(z0, times)
    coarse, fine = (
        (trajectory(rotate, z0, times, method="dopri5_fixed", step_size=h) - truth).abs().max()
        for h in (0.2, 0.1)
    )
    assert math.log2((coarse / fine).item()) == pytest.approx(5.0, abs=0.4)


@pytest.mark.parametrize("method", [*FIXED, "dopri5"])
def test_time_dependent_field(method: str) -> None:
    times = torch.tensor([3.0, 0.5, 1.7]).double()
    path = trajectory(
        lambda t, z: torch.cos(t) * torch.ones_like(z),
        torch.zeros(1, 1).double(),
        times,
        t0=0.0,
        method=method,
        step_size=0.01,
        rtol=1e-7,
        atol=1e-7,
    )
    assert torch.allclose(path[0, :, 0], times.sin(), atol=1e-4)


@pytest.mark.parametrize("kind", ["shared", "each"])
@pytest.mark.parametrize("method", FIXED)
def test_gradients(method: str, kind: str) -> None:
    field, times = Small(), grids()[kind][..., :4]
    names = [name for name, _ in field.named_parameters()]

    def solve(z0: Tensor, *parameters: Tensor) -> Tensor:
        def move(t: Tensor, z: Tensor) -> Tensor:
            named = dict(zip(names, parameters, strict=True))
            slope: Tensor = torch.func.functional_call(field, named, (t, z))
            return slope

        return trajectory(move, z0, times, t0=T0, method=method, step_size=1.0)

    z0 = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(solve, (z0, *field.parameters()))


@pytest.mark.parametrize("kind", ["shared", "each"])
def test_vmap_of_gradients_is_the_loop(kind: str) -> None:
    field, chains = Small(), torch.randn(5, 3, 2, dtype=torch.float64)
    times = grids()[kind]

    def energy(z0: Tensor) -> Tensor:
        return trajectory(field, z0, times, t0=T0, step_size=0.5).square().sum()

    looped = torch.stack([torch.func.grad(energy)(z0) for z0 in chains])
    assert torch.allclose(torch.func.vmap(torch.func.grad(energy))(chains), looped)


def test_step_has_to_be_given_under_vmap() -> None:
    times = grids(torch.float32)["shared"]
    with pytest.raises(ValueError, match=r"step_size: expected a number under torch\.func\.vmap"):
        torch.func.vmap(lambda z0: trajectory(rotate, z0, times))(torch.randn(5, 3, 2))


@pytest.mark.parametrize("points", [2, 3000])
def test_cost_does_not_depend_on_the_number_of_times(points: int) -> None:
    field = Small()
    times = torch.linspace(0, 5, points).double()
    trajectory(field, torch.zeros(3, 2).double(), times, step_size=0.5)
    assert field.calls == 4 * 10 + 1


@pytest.mark.parametrize("method", FIXED)
@pytest.mark.parametrize("tolerance", [1e-2, 1e-4])
def test_chosen_step_is_within_tolerance_and_not_wasteful(method: str, tolerance: float) -> None:
    z0, times = torch.randn(6, 2, dtype=torch.float64), T0 + torch.linspace(0, 9, 200).double()
    step = choose_step(rotate, z0, times, method=method, tolerance=tolerance)
    truth = rotated(z0, times)

    def error(h: float) -> float:
        path = trajectory(rotate, z0, times, method=method, step_size=h)
        return ((path - truth).abs() / (1 + truth.abs())).max().item()

    assert error(step) <= 1.05 * tolerance
    assert error(1.3 * step) > tolerance


def test_default_step_is_the_chosen_one() -> None:
    z0, times = torch.randn(3, 2, dtype=torch.float64), grids()["each"]
    step = choose_step(rotate, z0, times, t0=T0, tolerance=1e-4)
    chosen = trajectory(rotate, z0, times, t0=T0, tolerance=1e-4)
    assert torch.equal(chosen, trajectory(rotate, z0, times, t0=T0, step_size=step))


def test_choosing_a_step_leaves_no_graph() -> None:
    field = Small()
    z0 = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    trajectory(field, z0, grids()["shared"], t0=T0).sum().backward()
    first = z0.grad
    assert first is not None and first.isfinite().all()


def test_only_the_start_asked_for() -> None:
    z0 = torch.randn(3, 2)
    path = trajectory(rotate, z0, torch.full((3, 4), 2.0), t0=2.0)
    assert torch.equal(path, z0[:, None].expand(3, 4, 2))


def test_start_is_rounded_to_the_precision_of_the_times() -> None:
    times = torch.tensor([0.7, 1.0])  # below the double 0.7
    assert trajectory(rotate, torch.ones(1, 2), times, t0=0.7, step_size=0.1).shape == (1, 2, 2)


def test_adjoint_gradients() -> None:
    field, times = Small(), grids()["each"]
    z0 = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    wanted = [z0, *field.parameters()]
    plain, adjoint = (
        torch.autograd.grad(
            trajectory(field, z0, times, t0=T0, method="dopri5", rtol=1e-8, atol=1e-8, adjoint=flag)
            .square()
            .sum(),
            wanted,
        )
        for flag in (False, True)
    )
    for a, b in zip(plain, adjoint, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_adjoint_of_a_plain_function() -> None:
    z0 = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    path = trajectory(rotate, z0, grids()["shared"], t0=T0, method="dopri5", adjoint=True)
    assert torch.autograd.grad(path.sum(), z0)[0].abs().min() > 0


def test_adjoint_refuses_to_lose_gradients() -> None:
    field = Small()
    with pytest.raises(ValueError, match=r"field: expected an nn\.Module for adjoint=True"):
        trajectory(
            lambda t, z: field(t, z),
            torch.zeros(3, 2).double(),
            grids()["shared"],
            method="dopri5",
            adjoint=True,
        )


def solve(z0: Tensor | None = None, times: Tensor | None = None, **options: object) -> Tensor:
    field = options.pop("field", rotate)
    return trajectory(
        field,  # type: ignore[arg-type]
        torch.zeros(3, 2) if z0 is None else z0,
        torch.tensor([0.0, 1.0]) if times is None else times,
        **options,  # type: ignore[arg-type]
    )


def flat(t: Tensor, z: Tensor) -> Tensor:
    return z[..., 0]


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "method": (
        lambda: solve(method="rk5"),
        r"method: expected one of rk4, heun, dopri5_fixed, .*dopri5, .*got 'rk5'",
    ),
    "fixed adjoint": (lambda: solve(adjoint=True), r"adjoint: expected an adaptive method"),
    "before t0": (lambda: solve(t0=0.5), r"times: expected none before t0 = 0\.5, got 0"),
    "NaN times": (lambda: solve(times=torch.tensor([math.nan])), r"times: expected finite numbers"),
    "step": (lambda: solve(step_size=0.0), r"step_size: expected a number > 0, got 0\.0"),
    "tolerance": (lambda: solve(tolerance=0.0), r"tolerance: expected a number > 0, got 0\.0"),
    "field": (
        lambda: solve(field=flat, step_size=0.1),
        r"field: expected dz/dt of the shape of z, \(3, 2\), got \(3,\)",
    ),
    "adaptive field": (
        lambda: solve(field=flat, method="dopri5"),
        r"field: expected dz/dt of the shape of z, \(3, 2\), got \(3,\)",
    ),
    "sequences": (
        lambda: solve(times=torch.zeros(4, 5)),
        r"times: expected \(N, T\) with N the second last size of z0 \(3, 2\), got \(4, 5\)",
    ),
    "empty times": (lambda: solve(times=torch.zeros(0)), r"with T at least 1, got \(3, 2\) and"),
    "choose adaptive": (
        lambda: choose_step(rotate, torch.zeros(3, 2), torch.ones(2), method="dopri5"),
        r"method: expected a fixed method, one of rk4, .* got 'dopri5'",
    ),
    "controls": (
        lambda: interpolate(torch.zeros(4), torch.zeros(2, 5, 1)),
        r"times, values: expected .* got \(4,\) and \(2, 5, 1\)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case: str) -> None:
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_wrong_types_are_named() -> None:
    with pytest.raises(TypeError, match=r"z0: expected a floating dtype, got torch\.int64"):
        solve(z0=torch.zeros(3, 2).long())
    with pytest.raises(TypeError, match=r"field: expected a torch\.Tensor, got tuple"):
        solve(field=lambda t, z: (z, z), step_size=0.1)


def test_unreachable_tolerance_says_how_far_it_came() -> None:
    with pytest.raises(
        ValueError, match=r"tolerance: expected to reach 1e-12 within 4096 steps, got an error of"
    ):
        solve(z0=torch.ones(3, 2), tolerance=1e-12)


def test_a_path_that_explodes_is_named() -> None:
    with pytest.raises(FloatingPointError, match=r"field: expected a finite path, got NaN or inf"):
        solve(z0=torch.ones(3, 2), field=lambda t, z: z**3)


class TestInterpolate:
    values = torch.tensor(
        [[[1.0, 0.0], [3.0, 1.0], [3.0, 5.0]], [[0.0, 0.0], [2.0, 2.0], [9.0, 9.0]]]
    )

    def test_shared_times(self) -> None:
        control = interpolate(torch.tensor([0.0, 2.0, 4.0]), self.values)
        assert torch.allclose(control(torch.tensor(2.0)), self.values[:, 1])
        assert torch.allclose(control(torch.tensor(3.0)), torch.tensor([[3.0, 3.0], [5.5, 5.5]]))

    def test_constant_outside(self) -> None:
        control = interpolate(torch.tensor([0.0, 2.0, 4.0]), self.values)
        assert torch.allclose(control(torch.tensor(-1.0)), self.values[:, 0])
        assert torch.allclose(control(torch.tensor(7.0)), self.values[:, -1])

    def test_each_its_own_times_and_a_padded_tail(self) -> None:
        control = interpolate(torch.tensor([[0.0, 2.0, 4.0], [1.0, 3.0, 3.0]]), self.values)
        assert torch.allclose(control(torch.tensor(2.0)), torch.tensor([[3.0, 1.0], [1.0, 1.0]]))
        # After its last true time, the value there: not that of the padding.
        assert torch.allclose(control(torch.tensor(5.0))[1], torch.tensor([2.0, 2.0]))

    def test_one_time_is_a_constant(self) -> None:
        control = interpolate(torch.tensor([1.0]), self.values[:, :1])
        assert torch.equal(control(torch.tensor(5.0)), self.values[:, 0])

    def test_drives_a_field(self) -> None:
        # The integral of u(t) = t is t^2 / 2, which a cubic follows exactly.
        control = interpolate(torch.tensor([0.0, 4.0]), torch.tensor([[[0.0], [4.0]]]))
        times = torch.tensor([1.0, 3.0])
        path = trajectory(lambda t, z: control(t), torch.zeros(1, 1), times, t0=0.0, step_size=1.0)
        assert torch.allclose(path[0, :, 0], times**2 / 2, atol=1e-6)
