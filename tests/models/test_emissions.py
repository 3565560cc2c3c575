"""Emissions: shapes, densities and means against torch's own, and the scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_lebm.models import (
    DiffusionProcess,
    ImplicitEmission,
    LangevinFlow,
    LatentODE,
    MixedEmission,
    RecurrentGenerator,
    TransformerEmission,
)
from pyro_lebm.models.emissions import (
    BernoulliEmission,
    Emission,
    GaussianEmission,
    PoissonEmission,
)

KINDS: dict[str, Callable[..., Emission]] = {
    "gaussian": GaussianEmission,
    "bernoulli": BernoulliEmission,
    "poisson": PoissonEmission,
}


@pytest.mark.parametrize("hidden", [(), (6,), (6, 5)])
@pytest.mark.parametrize("kind", KINDS)
def test_batch_shape_mean_and_gradients(kind: str, hidden: tuple[int, ...]) -> None:
    emission = KINDS[kind](3, 2, hidden)
    path = torch.randn(4, 5, 7, 3, requires_grad=True)
    x = emission(path)
    assert isinstance(x, TorchDistributionMixin)
    assert x.batch_shape == (4, 5, 7, 2) and x.event_shape == ()
    assert torch.allclose(emission.mean(path), x.mean)
    x.log_prob(x.sample()).sum().backward()
    assert path.grad is not None and path.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_density_is_the_textbook_one(kind: str) -> None:
    emission, path = KINDS[kind](3, 2), torch.randn(5, 7, 3)
    out = emission.network(path)
    x = emission(path).sample()
    textbook: dict[str, Callable[[], Tensor]] = {
        "gaussian": lambda: -0.5 * ((x - out) / 0.5) ** 2 - math.log(0.5 * math.sqrt(2 * math.pi)),
        "bernoulli": lambda: -F.binary_cross_entropy_with_logits(out, x, reduction="none"),
        "poisson": lambda: (
            -F.poisson_nll_loss(out, x, full=False, reduction="none") - torch.lgamma(x + 1)
        ),
    }
    assert torch.allclose(emission(path).log_prob(x), textbook[kind](), atol=1e-5)


@pytest.mark.parametrize("per_feature", [False, True])
def test_learned_scale_starts_where_told(per_feature: bool) -> None:
    emission = GaussianEmission(3, 2, scale=0.2, per_feature=per_feature)
    assert emission.scale.shape == ((2,) if per_feature else ())
    assert torch.allclose(emission.scale, torch.tensor(0.2))
    assert "log_scale" in dict(emission.named_parameters())


def test_scale_has_a_floor_and_can_come_back_from_it() -> None:
    emission = GaussianEmission(3, 2)
    with torch.no_grad():
        emission.log_scale.fill_(-50.0)
    assert emission.scale.item() == pytest.approx(1e-3)
    with torch.no_grad():
        emission.log_scale.fill_(-8.0)
    emission(torch.zeros(4, 3)).log_prob(torch.ones(4, 2)).sum().backward()
    assert emission.log_scale.grad is not None and emission.log_scale.grad > 0


def test_fixed_scale_is_saved_but_never_trained() -> None:
    emission = GaussianEmission(3, 2, scale=0.2, learn_scale=False)
    emission.requires_grad_(True)
    assert "log_scale" in emission.state_dict()
    assert "log_scale" not in dict(emission.named_parameters())
    assert not emission.scale.requires_grad


def test_rates_stay_positive_and_finite() -> None:
    emission = PoissonEmission(1, 1, network=nn.Linear(1, 1))
    with torch.no_grad():
        emission.network.weight.fill_(1e4)
    rate = emission.mean(torch.tensor([[-1.0], [1.0]]))
    assert rate.isfinite().all() and (rate > 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("latent", "observed", "name"), [(0, 1, "latent"), (1, 0, "observed")])
def test_bad_sizes_are_named(kind: str, latent: int, observed: int, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected a size of at least 1, got 0"):
        KINDS[kind](latent, observed)


@pytest.mark.parametrize("scale", [0.0, 1e-3, -1.0, math.inf, math.nan])
def test_bad_scale_is_named(scale: float) -> None:
    with pytest.raises(ValueError, match=r"scale: expected a finite number above 0\.001, got"):
        GaussianEmission(1, 1, scale=scale)


def test_what_is_no_number_is_refused() -> None:
    wrong: Any = "a"
    with pytest.raises(TypeError, match="scale: expected a number, got 'a'"):
        GaussianEmission(1, 1, scale=wrong)


MEMBERS: dict[str, Callable[[nn.Module], object]] = {
    "diffusion": lambda emission: DiffusionProcess(4, 2, emission=emission),
    "flow": lambda emission: LangevinFlow(2, 2, emission=emission),
    "recurrent": lambda emission: RecurrentGenerator(4, 2, emission=emission),
    "ode": lambda emission: LatentODE(3, 2, static=1, emission=emission),
}
OTHERS: dict[str, Callable[[int], nn.Module]] = {
    "gaussian": lambda size: GaussianEmission(size, 2),
    "implicit": lambda size: ImplicitEmission(size, 2),
    "attentive": lambda size: TransformerEmission(PoissonEmission(size, 2), size, width=16),
    "mixed": lambda size: MixedEmission([PoissonEmission(size, 1), GaussianEmission(size, 1)]),
}


@pytest.mark.parametrize("emission", OTHERS)
@pytest.mark.parametrize("member", MEMBERS)
def test_a_model_refuses_an_emission_of_other_states(member: str, emission: str) -> None:
    MEMBERS[member](OTHERS[emission](4))
    with pytest.raises(ValueError, match="emission: expected one of states of size 4, got one of"):
        MEMBERS[member](OTHERS[emission](3))
    MEMBERS[member](nn.Linear(3, 2))  # which does not say
