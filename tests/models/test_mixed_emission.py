"""MixedEmission and Beside: each kind scores its own features and never another's."""

from __future__ import annotations

import re
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_lebm.models import (
    BernoulliEmission,
    GaussianEmission,
    ImplicitEmission,
    MixedEmission,
    PoissonEmission,
    TransformerEmission,
)
from pyro_lebm.models.mixed_emission import Beside
from pyro_lebm.programs.reading import drawn_density


def parts() -> tuple[Any, Any]:
    return dist.Poisson(torch.rand(5, 4, 3) + 0.5), dist.Normal(torch.randn(5, 4, 2), 0.3)


def both(counts: Tensor, positions: Tensor) -> Tensor:
    return torch.cat([counts, positions], -1)


def test_each_scores_its_own_features() -> None:
    counts, positions = parts()
    beside = Beside([counts, positions])
    assert beside.batch_shape == (5, 4, 5) and beside.event_shape == ()
    # negative positions would be refused as counts, and halves too
    x, y = counts.sample(), -positions.sample().abs() - 0.5
    exact = both(counts.log_prob(x), positions.log_prob(y))
    assert torch.equal(beside.log_prob(both(x, y)), exact)
    many = beside.log_prob(both(x, y).expand(6, 5, 4, 5))
    assert torch.equal(many, exact.expand(6, 5, 4, 5))
    assert torch.equal(beside.mean, both(counts.mean, positions.mean))
    assert torch.equal(beside.variance, both(counts.variance, positions.variance))


def test_draws_are_those_of_its_parts() -> None:
    counts, positions = parts()
    beside = Beside([counts, positions])
    x = beside.sample((4000,))
    assert x.shape == (4000, 5, 4, 5) and beside.sample().shape == (5, 4, 5)
    assert bool((x[..., :3] == x[..., :3].round()).all() and (x[..., :3] >= 0).all())
    # 100 means of 4000 draws, five standard errors each: a false alarm in 1.7e4
    error = (x.mean(0) - beside.mean) / (beside.variance / 4000).sqrt()
    assert bool((error.abs() < 5).all())
    assert not beside.has_rsample
    with pytest.raises(NotImplementedError):
        beside.rsample()
    normal = dist.Normal(torch.zeros(2, requires_grad=True), 1.0)
    moved = Beside([normal, normal])
    assert moved.has_rsample and moved.rsample((3,)).requires_grad


def test_masked_and_as_one_event() -> None:
    counts, positions = parts()
    beside = Beside([counts, positions])
    mask = torch.rand(5, 4, 5) > 0.4
    value = torch.where(mask, both(counts.sample(), positions.sample()), 0.0)
    event = beside.mask(mask).to_event(2)
    assert event.batch_shape == (5,) and event.event_shape == (4, 5)
    exact = torch.where(mask, beside.log_prob(value), 0.0).sum((-1, -2))
    assert torch.allclose(event.log_prob(value), exact)
    wide = event.expand((7, 5))
    assert wide.sample().shape == (7, 5, 4, 5)
    assert torch.allclose(wide.log_prob(value), exact.expand(7, 5))


def test_its_support_is_each_parts_own() -> None:
    counts, positions = parts()
    beside = Beside([counts, positions])
    good = both(torch.ones(5, 4, 3), torch.full((5, 4, 2), -1.5))
    assert bool(beside.support.check(good).all())
    bad = both(torch.full((5, 4, 3), -1.0), torch.zeros(5, 4, 2))
    assert beside.support.check(bad)[0, 0].tolist() == [False] * 3 + [True] * 2
    assert beside.to_event(2).support.event_dim == 2
    with pytest.raises(ValueError, match="Expected value argument"):
        Beside([counts, positions]).log_prob(bad)


def test_expanded_to_the_left_alone() -> None:
    counts, positions = parts()
    beside = Beside([counts, positions])
    wide = beside.expand((7, 5, 4, 5))
    assert wide.batch_shape == (7, 5, 4, 5) and wide.mean.shape == (7, 5, 4, 5)
    assert wide.log_prob(beside.sample()).shape == (7, 5, 4, 5)
    with pytest.raises(ValueError, match=re.escape("expected 5 features last, got (5, 4, 1)")):
        beside.expand((5, 4, 1))


@pytest.mark.parametrize("named", [True, False])
def test_a_path_read_in_several_ways(named: bool) -> None:
    spikes, position = PoissonEmission(3, 4), GaussianEmission(3, 2)
    mixed = MixedEmission({"spikes": spikes, "position": position} if named else [spikes, position])
    path = torch.randn(6, 5, 7, 3)
    assert torch.equal(mixed.mean(path), both(spikes.mean(path), position.mean(path)))
    x = mixed(path)
    assert x.batch_shape == (6, 5, 7, 6)
    value = x.sample()
    exact = both(spikes(path).log_prob(value[..., :4]), position(path).log_prob(value[..., 4:]))
    assert torch.equal(x.log_prob(value), exact)
    mapped = torch.func.vmap(lambda z, y: mixed(z).log_prob(y))(path, value)
    assert torch.allclose(mapped, exact, rtol=1e-5)
    names = {name.split(".")[1] for name, _ in mixed.named_parameters()}
    assert names == ({"spikes", "position"} if named else {"0", "1"})


class Told(GaussianEmission):  # type: ignore[misc]
    """Told which features are observed."""

    def seen(self, path: Tensor, mask: Tensor) -> dist.TorchDistribution:
        return dist.Normal(self.read(path) * mask, self.scale)


def test_each_is_told_what_of_its_own_is_observed() -> None:
    first, told, last = PoissonEmission(3, 4), Told(3, 2), BernoulliEmission(3, 1)
    mixed = MixedEmission([first, told, last])
    path, mask = torch.randn(5, 7, 3), torch.rand(5, 7, 7) > 0.5
    found = mixed.seen(path, mask).mean
    assert torch.equal(found[..., :4], first.mean(path))
    assert torch.equal(found[..., 4:6], told.mean(path) * mask[..., 4:6])
    assert torch.equal(found[..., 6:], last.mean(path))


def test_emissions_that_hold_others_tell_their_width() -> None:
    spikes, position = PoissonEmission(3, 4), Told(3, 2)
    del position.observed  # what it shows is all that is known of it
    inner = MixedEmission([TransformerEmission(spikes, 3, width=8), BernoulliEmission(3, 1)])
    mixed = MixedEmission([inner, position])
    path, mask = torch.randn(5, 7, 3), torch.rand(5, 7, 7) > 0.5
    found = mixed.seen(path, mask).mean
    assert torch.equal(found[..., :5], inner.mean(path))
    assert torch.equal(found[..., 5:], position.mean(path) * mask[..., 5:])


def test_a_part_whose_density_is_drawn_makes_all_of_it_so() -> None:
    spikes, path = PoissonEmission(3, 4), torch.randn(5, 7, 3)
    drawn = MixedEmission([spikes, ImplicitEmission(3, 2)])(path)
    for x in (drawn, drawn.expand((2, 5, 7, 6)), drawn.mask(False).to_event(2)):
        assert drawn_density(x)
    assert not drawn_density(MixedEmission([spikes, GaussianEmission(3, 2)])(path))


@pytest.mark.parametrize(
    ("name", "why"),
    [("keys", "already exists"), ("a.b", 'can\'t contain "."'), ("", "can't be empty")],
)
def test_names_that_no_module_takes_are_refused(name: str, why: str) -> None:
    parts = {name: PoissonEmission(2, 1), "other": PoissonEmission(2, 1)}
    message = f"emissions: expected names that a ModuleDict takes, got ['{name}', 'other']: "
    with pytest.raises(ValueError, match=re.escape(message) + ".*" + re.escape(why)):
        MixedEmission(parts)


def test_parts_of_other_states_are_refused() -> None:
    assert MixedEmission([PoissonEmission(3, 2), nn.Linear(3, 2)]).latent == 3
    assert MixedEmission([nn.Linear(3, 2), nn.Linear(3, 2)]).latent is None
    with pytest.raises(ValueError, match=r"emissions: expected all .* of one size, got \[3, 2\]"):
        MixedEmission([PoissonEmission(3, 2), GaussianEmission(2, 1)])


def test_bad_parts_are_refused() -> None:
    counts, positions = parts()
    with pytest.raises(ValueError, match="parts: expected at least 2, got 1"):
        Beside([counts])
    with pytest.raises(ValueError, match="emissions: expected at least 2, got 1"):
        MixedEmission([GaussianEmission(2, 1)])
    for other in (positions.to_event(1), dist.Normal(0.0, 1.0)):
        with pytest.raises(ValueError, match="parts: expected batch shapes of a dimension or more"):
            Beside([counts, other])
    with pytest.raises(ValueError, match="batch shapes alike but for the last"):
        Beside([counts, dist.Normal(torch.zeros(3, 4, 2), 1.0)])
    with pytest.raises(ValueError, match="value: expected 5 features, got 3"):
        Beside([counts, positions]).log_prob(counts.sample())
