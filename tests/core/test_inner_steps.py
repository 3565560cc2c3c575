"""The number of steps of a visit: more for chains that climb, fewer for settled ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyro_lebm.dynamics.chains import Chains
from pyro_lebm.dynamics.inner_steps import InnerSteps
from pyro_lebm.dynamics.langevin import State, evaluate
from scenarios import gaussian

NARROW = gaussian(torch.zeros(3), 0.1**2 * torch.eye(3))
AWAY = gaussian(torch.tensor([3.0, 0.0, 0.0]), 0.1**2 * torch.eye(3))


def visits(chains: Chains, steps: InnerSteps, known: object, n: int) -> list[int]:
    taken = []
    for _ in range(n):
        taken.append(int(steps))
        chains.run(known.log_density, steps)  # type: ignore[attr-defined]
    return taken


def test_far_starts_take_many_steps_settled_chains_few_and_a_moved_density_many_again() -> None:
    torch.manual_seed(0)
    chains = Chains(5 + torch.randn(100, 3), step_size=0.02)
    steps = InnerSteps(3, 40)
    first = visits(chains, steps, NARROW, 12)
    assert first[0] == 3 and max(first) > 20
    settled = visits(chains, steps, NARROW, 60)
    assert sum(settled[-20:]) / 20 < 6
    moved = visits(chains, steps, AWAY, 12)
    assert max(moved) > 2 * sum(settled[-20:]) / 20
    settled = visits(chains, steps, AWAY, 60)
    assert sum(settled[-20:]) / 20 < 6


def test_stationary_chains_go_to_the_least_where_only_the_climb_counts() -> None:
    torch.manual_seed(1)
    chains = Chains(0.1 * torch.randn(500, 3), step_size=0.1)
    steps = InnerSteps(2, 40, renewal=0.0)
    steps.count.fill_(40)
    taken = visits(chains, steps, NARROW, 80)
    # a climb is seen at two standard errors where there is none, in one visit of forty
    assert sum(t == 2 for t in taken[30:]) > 35 and max(taken[30:]) <= 4


def test_chains_that_do_not_renew_get_more_steps() -> None:
    torch.manual_seed(2)
    wide = gaussian(torch.zeros(3), torch.eye(3))
    for step_size, expected in ((0.05, 30), (1.2, 3)):  # settled both; the first hardly move
        chains = Chains(torch.randn(200, 3), step_size=step_size)
        steps = InnerSteps(3, 30)
        for _ in range(25):
            chains.run(wide.log_density, steps, adapt=False)
        assert int(steps) == expected


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_the_renewal_of_a_gaussian_is_one_minus_the_autocorrelation(share: float) -> None:
    torch.manual_seed(3)
    z = 0.1 * torch.randn(20_000, 3)
    other = (1 - share) * z + (1 - (1 - share) ** 2) ** 0.5 * 0.1 * torch.randn_like(z)
    steps = InnerSteps(3, 40)
    steps.learn(evaluate(NARROW.log_density, z), evaluate(NARROW.log_density, other))
    found = float(steps.renewed) / 0.2  # the newest counts a fifth
    # its standard deviation is that of share * chi2_3 / 3
    assert found == pytest.approx(share, abs=0.03 * share + 5 * share / 20_000**0.5)


def rough(z: Tensor) -> Tensor:
    """A density with many dents, between which the log density bends to both sides."""
    return (-0.5 * z**2 + 0.9 * torch.cos(20 * z)).sum(-1)


def test_the_renewal_of_independent_draws_is_one_where_the_density_is_not_concave() -> None:
    torch.manual_seed(4)
    grid = torch.linspace(-6.0, 6.0, 100_001, dtype=torch.float64)
    weights = rough(grid[:, None]).exp()
    drawn = grid[torch.multinomial(weights, 80_000, replacement=True)].reshape(2, -1, 1)
    steps = InnerSteps(3, 40)
    steps.learn(evaluate(rough, drawn[0]), evaluate(rough, drawn[1]))
    # of one: sd(z' - z) sd(slope - slope') / 2 <= 1.5 * 18 / 2, slopes being below 18 + |z|
    assert float(steps.renewed) / 0.2 == pytest.approx(1.0, abs=5 * 14 / 40_000**0.5)


def test_one_chain_far_out_does_not_decide_on_the_renewal() -> None:
    low = State(torch.zeros(64, 1), torch.zeros(64), torch.zeros(64, 1))
    out = low._replace(position=low.position.clone(), gradient=low.gradient.clone())
    out.position[0], out.gradient[0] = 1e3, -1e6
    steps = InnerSteps(3, 40)
    steps.learn(low, out)
    assert float(steps.renewed) / 0.2 <= 0.125


def test_few_chains_add_up_over_visits() -> None:
    steps = InnerSteps(2, 40, renewal=0.0)
    low = State(torch.zeros(1, 1), torch.zeros(1), torch.zeros(1, 1))
    counts = []
    for _ in range(7):
        steps.learn(low, low._replace(log_density=torch.ones(1)))
        counts.append(steps.exact)
    # after i rises: (1 - .8^i) / .2 > 2 sqrt((1 - .64^i) / .36) from the fifth on
    rises = torch.tensor(counts).diff() > 0
    assert rises.tolist() == [False, False, False, True, True, True], counts


def test_what_is_not_finite_says_nothing_and_a_way_in_counts_as_a_rise() -> None:
    steps = InnerSteps(2, 40)
    lost = State(torch.zeros(4, 2), torch.full((4,), -torch.inf), torch.zeros(4, 2))
    steps.learn(lost, lost)
    assert float(steps.rise) == 0 and float(steps.renewed) == 0
    steps.learn(lost, lost._replace(log_density=torch.zeros(4)))
    assert float(steps.rise) == 4


def test_only_visits_that_are_kept_are_learned_from() -> None:
    chains, steps = Chains(torch.ones(8, 3)), InnerSteps(3, 40)
    chains.run(NARROW.log_density, steps, keep=False)
    assert steps.exact == 3 and float(steps.spread) == 0
    chains.run(NARROW.log_density, steps)
    assert steps.exact > 3 and not steps.state_dict()


@pytest.mark.parametrize("bounds", [(0, 5), (6, 5), (1.5, 4)])
def test_bad_bounds_are_refused(bounds: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"steps: expected whole numbers 1 <= least <= most, got"):
        InnerSteps(*bounds)
    with pytest.raises(ValueError, match=r"renewal: expected a number in \[0, 1\), got 1"):
        InnerSteps(renewal=1.0)
