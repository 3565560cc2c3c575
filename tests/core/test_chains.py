"""Persistent chains: what they keep, what they hand out, what they refuse."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from pyro_lebm.dynamics.chains import Chains
from pyro_lebm.dynamics.langevin import evaluate, hot_step_size, ula_step
from scenarios import STANDARD

target = STANDARD.log_density


def test_chains_go_on_where_they_stopped() -> None:
    start = torch.full((2000, 1), 5.0)
    chains = Chains(start, step_size=0.5)
    for _ in range(40):
        z = chains.run(target, 5)
        assert torch.equal(z, chains.position)
    # five standard errors of 2000 independent chains; a false alarm in 1.7 million
    assert abs(float(z.mean())) < 5 / math.sqrt(2000)
    assert abs(float(z.var()) - 1) < 5 * math.sqrt(2 / 2000)
    # the step adapts at each step: the average stays within a hundredth or two of the target
    assert abs(float(chains.acceptance) - 0.574) < 0.03
    assert start.eq(5.0).all()


def test_only_the_chosen_chains_move() -> None:
    chains = Chains(torch.randn(4, 3, 2), step_size=0.3)
    before = chains.position.clone()
    index = (torch.tensor([1, 3])[:, None], torch.tensor([0, 2])[None, :])
    z = chains.run(target, 3, index=index)
    assert z.shape == (2, 2, 2)
    assert torch.equal(chains.position[index], z)
    moved = torch.zeros(4, 3, dtype=torch.bool)
    moved[index] = True
    assert torch.equal((chains.position != before).any(-1) | moved, moved)
    assert torch.equal(chains.visited, moved)
    assert torch.equal(chains.step_size != chains.step_size[0, 0], moved)


@pytest.mark.parametrize("index", [None, (torch.tensor([0, 2]),)])
def test_nothing_is_written_without_keep(index: tuple[Tensor, ...] | None) -> None:
    chains = Chains(torch.randn(3, 2))
    before = chains.training_state()
    z = chains.run(target, 2, index=index, keep=False)
    after = chains.training_state()
    assert all(torch.equal(before[n], after[n]) for n in before if n != "acceptance")
    assert after["acceptance"].isnan()
    assert not torch.equal(z, before["position"] if index is None else before["position"][index])


def test_hot_and_unadjusted_runs_are_plain_langevin() -> None:
    start = torch.randn(5, 2)
    for hot in (0.25, None):
        chains = Chains(start, step_size=0.3)
        torch.manual_seed(2)
        found = chains.run(target, 3, hot=hot, adjusted=False)
        torch.manual_seed(2)
        state = evaluate(target, start)
        for _ in range(3):
            step = 0.3 if hot is None else hot_step_size(state.gradient, hot)
            state = ula_step(target, state, step)
        assert torch.equal(found, state.position)
        assert chains.acceptance.isnan()
        assert chains.step_size.eq(0.3).all()


def test_another_start_takes_the_place_of_the_stored_one() -> None:
    chains = Chains(torch.zeros(3, 1), step_size=1e-5)
    z = chains.run(target, 1, start=torch.full((3, 1), 7.0))
    assert (z - 7).abs().max() < 1e-2
    assert torch.equal(chains.position, z)


@pytest.mark.parametrize("hot", [None, 50.0])
def test_a_chain_that_blows_up_stays_where_it_was(hot: float | None) -> None:
    def quartic(z: Tensor) -> Tensor:  # unadjusted steps of size 1 diverge from far out
        return -(z**4).sum(-1)

    chains = Chains(torch.tensor([[0.0], [1e8]]), step_size=1.0)
    z = chains.run(quartic, 20, adjusted=False, hot=hot)
    assert chains.position[1] == 1e8
    assert chains.position.abs().max() <= 1e8
    assert torch.equal(z, chains.position)


def test_chains_are_no_weights_but_travel_with_the_training() -> None:
    chains = Chains(torch.randn(4, 2))
    assert not chains.state_dict()
    chains.run(target, 3)
    saved = chains.training_state()
    assert set(saved) == {"position", "step_size", "visited", "adapted", "acceptance"}
    other = Chains(torch.zeros(4, 2))
    other.load_training_state(saved)
    torch.manual_seed(5)
    expected = chains.run(target, 3)
    torch.manual_seed(5)
    assert torch.equal(other.run(target, 3), expected)
    assert not torch.equal(saved["position"], chains.position)  # a copy, not a view
    assert torch.equal(copy.deepcopy(chains).position, chains.position)


def test_foreign_training_state_is_refused_and_nothing_changed() -> None:
    chains = Chains(torch.zeros(4, 2))
    before = chains.training_state()
    with pytest.raises(ValueError, match=r"position: expected shape \(4, 2\), got shape \(3, 2\)"):
        chains.load_training_state(Chains(torch.ones(3, 2)).training_state())
    with pytest.raises(ValueError, match=r"chains' visited: expected shape \(4,\), got nothing"):
        chains.load_training_state({n: t for n, t in before.items() if n != "visited"})
    assert torch.equal(chains.position, before["position"])


def test_chains_advance_under_no_grad_and_inference_mode() -> None:
    chains = Chains(torch.zeros(3, 1), step_size=0.5)
    for mode in (torch.no_grad, torch.inference_mode):
        before = chains.position.clone()
        with mode():
            chains.run(target, 2)
        assert not torch.equal(chains.position, before)
    chains.run(target, 2)
    assert not chains.position.requires_grad


def test_dtype_follows_the_module() -> None:
    chains = Chains(torch.zeros(3, 1)).double()
    assert chains.run(target, 2).dtype == torch.float64
    assert chains.visited.dtype == torch.bool


def test_a_target_of_another_shape_is_refused_before_anything_moves() -> None:
    chains = Chains(torch.zeros(3, 1))
    with pytest.raises(ValueError, match="log_density: expected one number per chain"):
        chains.run(lambda z: z.sum(), 2)
    assert not chains.visited.any()


@pytest.mark.parametrize("shape", [(3,), (0, 2)])
def test_no_chains_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"position: expected shape .*at least one chain"):
        Chains(torch.zeros(shape))


@pytest.mark.parametrize("step", [0.0, -0.1, math.nan])
def test_a_step_size_that_is_not_positive_is_refused(step: float) -> None:
    with pytest.raises(ValueError, match="step_size: expected a positive number"):
        Chains(torch.zeros(3, 2), step_size=step)
