"""Latents that stand still: they do, the others move as without them, and gradients reach both."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor, nn

from pyro_lebm import EnergyPrior, MLPEnergy, Series, engine, trajectory
from pyro_lebm.checkpoint import CheckpointError
from pyro_lebm.inference import EncoderGuide, LangevinGuide, RefinedGuide, fit
from pyro_lebm.models import GaussianEmission, LatentODE, MLPField
from pyro_lebm.programs.program import Program

S, L, N = 2, 3, 5
TIMES = torch.tensor([0.0, 0.3, 0.4, 1.0])


def network(seed: int, module: nn.Module) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return module


def model(driving: bool = False, covariates: int = 0, **options: Any) -> LatentODE:
    inputs = covariates + (S if driving else 0)
    made = LatentODE(
        L,
        2,
        static=S,
        static_in_field=driving,
        covariates=covariates,
        field=network(1, MLPField(L, (16,), covariates=inputs)),
        emission=network(2, GaussianEmission(S + L, 2, (16,))),
        **options,
    )
    return made.double()


def state(seed: int = 0) -> Tensor:
    return torch.randn(N, S + L, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def series(covariates: int = 0) -> Series:
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(N, len(TIMES), 2, generator=generator)
    known = torch.randn(N, len(TIMES), covariates, generator=generator) if covariates else None
    return Series(TIMES, values, covariates=known).to(dtype=torch.float64)


def test_what_is_static_stays_and_what_moves_is_as_alone() -> None:
    made, z0, times = model(), state(), TIMES.double()
    path = made.path(z0, times)
    assert path.shape == (N, len(times), S + L)
    assert torch.equal(path[..., :S], z0[:, None, :S].expand(N, len(times), S))
    alone = LatentODE(L, 2, field=made.field).double()
    alone.load_state_dict({**alone.state_dict(), "step_size": made.step_size})
    assert torch.equal(path[..., S:], alone.path(z0[:, S:], times))
    # what the static ones are does not matter to the others
    other = torch.cat([z0[:, :S] + 1, z0[:, S:]], -1)
    assert torch.equal(made.path(other, times)[..., S:], path[..., S:])


def test_what_is_static_drives_the_field_beside_covariates() -> None:
    made, z0, given = model(driving=True, covariates=1), state(), series(covariates=1)
    path = made.path(z0, given.times, given.covariates)
    assert torch.allclose(path[..., :S], z0[:, None, :S].expand_as(path[..., :S]))
    known = given.covariates
    assert known is not None

    def field(t: Tensor, z: Tensor) -> Tensor:
        at = (given.times <= t).sum().clamp(1, len(TIMES) - 1)
        share = (t - given.times[at - 1]) / (given.times[at] - given.times[at - 1])
        u = torch.lerp(known[:, at - 1], known[:, at], share)
        found: Tensor = made.field(t, z, torch.cat([u, z0[:, :S]], -1))
        return found

    expected = trajectory(field, z0[:, S:], given.times, t0=0.0, step_size=0.01)
    assert torch.allclose(path[..., S:], expected, atol=2e-3)
    other = torch.cat([z0[:, :S] + 1, z0[:, S:]], -1)
    assert (made.path(other, given.times, known)[..., S:] - path[..., S:]).abs().max() > 0.01


@pytest.mark.parametrize("driving", [False, True])
@pytest.mark.parametrize("options", [{"recompute": True}, {"method": "dopri5", "adjoint": True}])
def test_gradients_reach_all_latents_by_every_solver(
    driving: bool, options: dict[str, Any]
) -> None:
    z0, found = state(), []
    for settings in ({"tolerance": 1e-6}, {"tolerance": 1e-6, **options}):
        made, z = model(driving, **settings), z0.clone().requires_grad_(True)
        fixed = pyro.poutine.condition(made, data={"z0": z})
        with engine("eager"):
            total = torch.as_tensor(pyro.poutine.trace(fixed).get_trace(series()).log_prob_sum())
        parameters = [*made.field.parameters(), *made.emission.parameters()]
        found.append(torch.autograd.grad(total, [z, *parameters]))
    for ours, theirs in zip(*found, strict=True):
        # dopri5's tolerance is 1e-3 a step
        assert torch.allclose(ours, theirs, atol=0.02 * float(theirs.abs().max()))


@pytest.mark.parametrize("driving", [False, True])
def test_all_guides_learn_and_infer_both(driving: bool) -> None:
    pyro.set_rng_seed(0)
    given = series().to(dtype=torch.float32)
    for kind in (LangevinGuide, EncoderGuide, RefinedGuide):
        prior = EnergyPrior(MLPEnergy(S + L, (8,)), base=S + L, num_chains=16)
        made = model(driving, prior=prior).float()
        guide = kind(EncoderGuide(made, given)) if kind is RefinedGuide else kind(made, given)
        before = [p.clone() for p in prior.energy.parameters()]
        fit(made, guide, given, max_steps=4, progress=False)
        assert any(
            not torch.equal(a, b) for a, b in zip(prior.energy.parameters(), before, strict=True)
        )
        draws = guide.posterior(given, draws=4)
        assert draws["z0"].shape[1:] == (4, N, S + L)
        assert made.generate(3, given.times).shape == (3, len(TIMES), 2)


def test_a_step_is_chosen_for_what_moves() -> None:
    for driving in (False, True):
        made, plain = model(driving), series()
        made.refresh(plain)
        assert 0 < float(made.step_size) <= 1
        with engine("vjp"):  # refuses by name what it cannot do
            Program.read(made, plain).log_density(state())


def test_a_saved_model_says_what_is_static(tmp_path: Path) -> None:
    made = LatentODE(4, 1, static=1)
    made.save(tmp_path / "model.pt")
    assert LatentODE(4, 1, static=1).load(tmp_path / "model.pt").static == 1
    driving = LatentODE(4, 1, static=1, static_in_field=True, field=MLPField(4))
    with pytest.raises(CheckpointError, match="static: expected 1, in the field: True, got 1, in"):
        driving.load(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"static": -1}, "expected sizes of at least 1, 1, 0 and 0, got 2, 1, 0 and -1"),
        ({"static_in_field": True}, "static_in_field: expected static latents, got static=0"),
        (
            {"static": 1, "prior": EnergyPrior(MLPEnergy(2), base=2, num_chains=4)},
            "prior: expected event shape (3,), got (2,)",
        ),
    ],
)
def test_bad_sizes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        LatentODE(2, 1, **options)
