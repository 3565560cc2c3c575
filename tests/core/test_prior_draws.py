"""Draws of a program's latent sites from its own prior."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from programs import ROWS, sequences
from pyro_lebm.distribution import EnergyBased
from pyro_lebm.programs.program import Program


def spread(values: Tensor, mean: float, sd: float) -> bool:
    """Within five standard errors of mean and of standard deviation (Gaussian)."""
    n = values.numel()
    off = abs(float(values.mean()) - mean) < 5 * sd / math.sqrt(n)
    return off and abs(float(values.std()) / sd - 1) < 5 / math.sqrt(2 * n)


def test_prior_draws_have_the_programs_distribution() -> None:
    program = Program.read(sequences, ROWS)
    z = program.prior_draws(1000)
    assert z.shape == (1000, 4, 3)
    assert spread(z, 0.0, 1.0)  # all three coordinates are standard normal, unconstrained
    assert program.prior_draws(1).shape == (1, 4, 3)
    flat = z.reshape(1000, -1)
    # no draw and no element is a copy of another: correlations of 1000 draws, five sigma
    assert (torch.corrcoef(flat.T) - torch.eye(12)).abs().max() < 5 / math.sqrt(1000)


def chained(kind: str) -> Any:
    """b ~ N(3 a_0, .1), written so that a further plate breaks it, loudly or not."""

    def program() -> None:
        a = pyro.sample("a", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        first = {
            "good": lambda: a[..., 0],
            "index": lambda: a[0],
            "sum": lambda: (a * torch.tensor([1.0, 0.0, 0.0])).sum(),
            "flat": lambda: a.reshape(-1)[0],
        }[kind]()
        pyro.sample("b", dist.Normal(3 * first, 0.1))

    return program


@pytest.mark.parametrize("n", [3, 200])
@pytest.mark.parametrize("kind", ["good", "index", "sum", "flat"])
def test_programs_that_do_not_broadcast_are_drawn_from_rightly(kind: str, n: int) -> None:
    program = Program.read(chained(kind))
    z = torch.cat([program.prior_draws(n) for _ in range(max(1, 60 // n))])
    assert spread(z[..., :3], 0.0, 1.0)
    assert spread(z[..., 3] - 3 * z[..., 0], 0.0, 0.1)
    assert abs(float((z[1:, 3] * z[:-1, 0]).mean())) < 5 * 3 / math.sqrt(len(z) - 1)


def test_draws_at_once_run_the_program_only_twice() -> None:
    runs = []

    def program() -> None:
        runs.append(1)
        sequences(ROWS)

    read = Program.read(program)
    runs.clear()
    read.prior_draws(50)
    assert len(runs) <= 2


def test_prior_draws_of_a_program_with_a_loop_over_a_plate() -> None:
    def program() -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        for i in pyro.plate("steps", 3):
            pyro.sample(f"z{i}", dist.Normal(a, 0.5))

    read = Program.read(program)
    read.rebind()
    z = read.prior_draws(400)
    assert spread(z[:, 0], 0.0, 1.0) and spread(z[:, 1:] - z[:, :1], 0.0, 0.5)
    with pyro.plate("after", 2):  # nothing is left behind on Pyro's stack
        assert pyro.sample("w", dist.Normal(0.0, 1.0)).shape == (2,)


def test_prior_draws_stay_with_the_minibatch_they_belong_to() -> None:
    where = torch.arange(24.0)

    def program() -> None:
        with pyro.plate("n", 24, subsample_size=5) as index:
            pyro.sample("z", dist.Normal(where[index], 0.01))

    read = Program.read(program)
    z = read.prior_draws(20)[..., 0]
    assert (z - where[read.index[0]]).abs().max() < 0.1
    assert (read.prior_draws(1)[0, :, 0] - where[read.index[0]]).abs().max() < 0.1


def test_an_energy_prior_is_annealed_for_draws_and_not_for_reading() -> None:
    asked: list[int] = []

    def sampler(fn: EnergyBased, n: int) -> Tensor:
        asked.append(n)
        return torch.full((n, 2), 5.0)

    def program() -> None:
        fn = EnergyBased(
            lambda z: z.sum(-1), dist.Normal(torch.zeros(2), 1.0).to_event(1), sampler=sampler
        )
        with pyro.plate("n", 3):
            pyro.sample("z", fn)

    read = Program.read(program)
    read.rebind()
    assert asked == []
    assert read.draw.abs().max() < 5
    assert read.prior_draws(4).eq(5).all()
    assert asked == [12]  # one population for all
