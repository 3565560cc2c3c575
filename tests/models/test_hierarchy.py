"""Hierarchical generators and their joint energy priors, of vectors and of maps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_lebm import (
    ConvolutionalEnergy,
    EnergyPrior,
    JointEnergy,
    LayerwiseEnergy,
    MLPEnergy,
    Series,
)
from pyro_lebm.checkpoint import CheckpointError
from pyro_lebm.inference import BottomUpGuide, LangevinGuide, fit, posterior_predict
from pyro_lebm.models import (
    BernoulliEmission,
    Deconvolution,
    EnergyLayer,
    GaussianEmission,
    GaussianLayer,
    HierarchicalGenerator,
    HierarchicalPrior,
    JointPrior,
)
from untyped import poutine

D = 6
MAPS = ((2, 4, 4), (3, 2, 2), 5)


def data(n: int = 7) -> Series:
    values = torch.rand(n, 1, D, generator=torch.Generator().manual_seed(0))
    return Series(torch.zeros(1), (values > 0.5).float())


def layered(sizes: Any, **options: Any) -> JointPrior:
    energy = LayerwiseEnergy({f"z{i}": MLPEnergy(s, (8,)) for i, s in enumerate(sizes, 1)})
    return JointPrior(sizes, D, energy, hidden=(8,), num_chains=8, **options)


def moved(model: nn.Module, before: dict[str, Tensor]) -> list[str]:
    return [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]


def free(names: Any) -> list[str]:
    """All but the constant that each energy adds, which Z takes off again."""
    return [name for name in names if not (".energ" in name and name.endswith("net.2.bias"))]


@pytest.mark.parametrize("latents", [(3,), (4, 2), (3, 3, 3, 3), MAPS, (4, (2, 3, 3))])
def test_layers_are_sites_from_the_top_down(latents: Any) -> None:
    prior = HierarchicalPrior(latents, hidden=(4,))
    with pyro.plate("rows", 5), poutine.trace() as trace:
        layers = prior()
    names = [name for name in trace.trace.nodes if name.startswith("z")]
    assert names == [f"z{i}" for i in range(len(latents), 0, -1)]
    for i, (layer, shape) in enumerate(zip(layers, latents, strict=True), 1):
        assert layer is trace.trace.nodes[f"z{i}"]["value"]
        assert layer.shape == (5, *((shape,) if isinstance(shape, int) else shape))


def test_a_layer_is_gaussian_given_the_one_above() -> None:
    torch.manual_seed(0)
    layer = GaussianLayer(2, 3, network=nn.Linear(2, 6))
    z = torch.randn(4, 2)
    loc, raw = layer.network(z).chunk(2, -1)
    scale = 0.01 + nn.functional.softplus(raw + 0.54)
    at = torch.randn(4, 3)
    expected = dist.Normal(loc, scale).log_prob(at).sum(-1)
    torch.testing.assert_close(layer(z).log_prob(at), expected)
    assert 0.5 < float(layer(torch.zeros(2)).variance.sqrt().detach().mean()) < 2


@pytest.mark.parametrize("emission", ["gaussian", "bernoulli", "convolutional"])
def test_data_are_made_of_the_lowest_layer(emission: str) -> None:
    torch.manual_seed(0)
    made: dict[str, Any] = {
        "gaussian": lambda: GaussianEmission(4, D),
        "bernoulli": lambda: BernoulliEmission(4, D),
        "convolutional": lambda: BernoulliEmission(4, D, network=Deconvolution(4, (2, 3), (4,))),
    }
    model = HierarchicalGenerator((4, 2), D, emission=made[emission]())
    series = data()
    nodes = poutine.trace(model).get_trace(series)
    nodes.compute_log_prob()
    emitted: Any = model.emission(nodes.nodes["z1"]["value"])
    expected = emitted.log_prob(series.values[:, 0]).sum(-1)
    torch.testing.assert_close(nodes.nodes["x"]["log_prob"], expected)
    assert model.generate(9).shape == (9, D)


def test_hidden_pixels_say_nothing() -> None:
    model, series = HierarchicalGenerator((4, 2), D), data()
    mask = torch.ones_like(series.mask)
    mask[:, :, 2] = False
    torch.manual_seed(0)
    nodes = poutine.trace(model).get_trace(Series(series.times, series.values, mask))
    nodes.compute_log_prob()
    emitted: Any = model.emission(nodes.nodes["z1"]["value"])
    expected = (emitted.log_prob(series.values[:, 0]) * mask[:, 0]).sum(-1)
    torch.testing.assert_close(nodes.nodes["x"]["log_prob"], expected)


@pytest.mark.parametrize("count", [2, 4, 8])
@pytest.mark.parametrize("guide", [LangevinGuide, BottomUpGuide])
def test_a_joint_prior_of_many_layers_trains(count: int, guide: Any) -> None:
    torch.manual_seed(0)
    model, series = layered((3,) * count), data()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    fit(model, inferred := guide(model, series), series, max_steps=4, progress=False, seed=0)
    assert moved(model, before) == free(before)
    draws = inferred.posterior(series, draws=3)
    assert posterior_predict(model, draws, series).shape == (1, 3, 7, 1, D)


def test_maps_have_convolutional_energies() -> None:
    torch.manual_seed(0)
    energy = LayerwiseEnergy(
        {
            "z1": ConvolutionalEnergy(MAPS[0], (4,)),
            "z2": ConvolutionalEnergy(MAPS[1], (4,)),
            "z3": MLPEnergy(5, (8,)),
        }
    )
    emission = GaussianEmission(32, D, network=Deconvolution(MAPS[0], (2, 3), (4,)))
    model = JointPrior(MAPS, D, energy, hidden=(4,), emission=emission, num_chains=4)
    series = data(3)
    guide = BottomUpGuide(model, series, hidden=(8,))
    history = fit(model, guide, series, max_steps=2, progress=False, seed=0)
    assert math.isfinite(history.last["loss"])
    assert model.generate(2).shape == (2, D)
    assert guide.posterior(series, draws=2)["z1"].shape == (1, 2, 3, *MAPS[0])


def test_one_energy_sees_all_layers() -> None:
    energy = JointEnergy(MLPEnergy(6), {"z1": 1, "z2": 1})
    with torch.no_grad():
        nn.init.normal_(energy.energy.net[-1].weight)  # type: ignore[union-attr,index]
    model = JointPrior((4, 2), D, energy, num_chains=8)
    values = {"z1": torch.randn(5, 4), "z2": torch.randn(5, 2)}
    with pyro.plate("rows", 5):
        trace = poutine.trace(poutine.condition(model.prior, values)).get_trace()
    trace.compute_log_prob()
    expected = -energy.energy(torch.cat([values["z1"], values["z2"]], -1))
    torch.testing.assert_close(trace.nodes["tilt"]["log_prob"], expected)


def test_energies_layer_by_layer_train_and_are_told() -> None:
    torch.manual_seed(0)
    conditional = EnergyLayer(GaussianLayer(2, 4, (8,)), MLPEnergy(6, (8,)), steps=3)
    prior = HierarchicalPrior(
        (4, 2), layers=[conditional], top=EnergyPrior(MLPEnergy(2, (8,)), 2, num_chains=8)
    )
    model, series = HierarchicalGenerator((4, 2), D, prior=prior), data()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    history = fit(model, BottomUpGuide(model, series), series, max_steps=4, progress=False, seed=0)
    assert moved(model, before) == free(before)
    assert "prior.layers.0.energy_positive" in history.last
    assert model.generate(3).shape == (3, D)


def test_a_layers_energy_held_fixed_stays() -> None:
    torch.manual_seed(0)
    conditional = EnergyLayer(GaussianLayer(2, 4, (8,)), MLPEnergy(6, (8,)), steps=3)
    model = HierarchicalGenerator((4, 2), D, prior=HierarchicalPrior((4, 2), layers=[conditional]))
    series = data()
    fit(model, BottomUpGuide(model, series), series, max_steps=3, energy_from=1.0, progress=False)
    assert bool((conditional.energy.net[-1].weight == 0).all())


def test_it_saves_and_refuses_another(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = layered((4, 2))
    model.save(tmp_path / "model.pt")
    again = layered((4, 2)).load(tmp_path / "model.pt")
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )
    with pytest.raises(CheckpointError, match="another model"):
        layered((4, 3)).load(tmp_path / "model.pt")


@pytest.mark.parametrize("kind", ["joint", "layerwise"])
def test_the_order_of_sites_is_part_of_what_is_saved(kind: str, tmp_path: Path) -> None:
    def model(*names: str) -> JointPrior:
        energy: Any = JointEnergy(MLPEnergy(6), dict.fromkeys(names, 1))
        if kind == "layerwise":
            energy = LayerwiseEnergy({name: MLPEnergy(3) for name in names})
        return JointPrior((3, 3), D, energy, num_chains=4)

    model("z1", "z2").save(tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"sites \['z2', 'z1'\], got"):
        model("z2", "z1").load(tmp_path / "model.pt")


def zero(sites: Any) -> Tensor:
    return torch.zeros_like(sites["z1"][..., 0])


BAD: dict[str, tuple[Any, str]] = {
    "no layer": (lambda: HierarchicalPrior(()), "latents: expected at least one layer"),
    "size": (lambda: HierarchicalPrior((4, 0)), "latents: z2: expected a size of at least 1"),
    "map": (lambda: HierarchicalPrior((4, (2, 0, 3))), "latents: z2: expected a size"),
    "plane": (lambda: HierarchicalPrior(((4, 4), 2)), r"latents: expected numbers or .* of z1"),
    "top": (
        lambda: HierarchicalPrior((4, 2), top=EnergyPrior(MLPEnergy(3), 3, num_chains=4)),
        r"top: expected event shape \(2,\), got \(3,\)",
    ),
    "layers": (
        lambda: HierarchicalPrior((4, 2), layers=[]),
        "layers: expected 1, got 0",
    ),
    "neither": (lambda: HierarchicalGenerator((4, 2), D)(), "series, n: expected one of the two"),
    "features": (
        lambda: HierarchicalGenerator((4, 2), D + 1)(data()),
        "series: expected 7 features of one time, got 6 of 1",
    ),
    "number": (lambda: HierarchicalGenerator((4, 2), D).generate(0), "n: expected at least 1"),
    "energy of no layer": (
        lambda: JointPrior((4, 2), D, lambda z: zero({"z1": z["z3"]})),
        "got 'z3'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_hierarchies_are_refused(case: str) -> None:
    make, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        make()
