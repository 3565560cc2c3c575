"""Parameters that Pyro would lose or mix up are refused."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_lebm.distribution import EnergyBased
from pyro_lebm.inference.training.fit import fit
from pyro_lebm.series import Series
from small_programs import QUIET, Encoder, Linear, changed, data, weights


def test_equal_names_in_model_and_guide_are_refused() -> None:
    class Clash(Encoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(2, 1)

    with pytest.raises(ValueError, match=r"different names .* got net\.weight, net\.bias in both"):
        fit(Linear(), Clash(), data(), max_steps=1, **QUIET)
    fit(Linear(name="model"), Encoder(), data(), max_steps=1, **QUIET)


def test_a_shared_parameter_is_no_clash() -> None:
    class Sharing(Encoder):
        def __init__(self, model: Linear) -> None:
            super().__init__()
            self.net = model.net

    model = Linear()
    fit(model, Sharing(model), data(), max_steps=1, **QUIET)


def test_an_energy_that_no_trace_registers_is_refused() -> None:
    class Hidden(Linear):
        def __init__(self) -> None:
            super().__init__()
            self.energies = [nn.Linear(1, 1)]
            self.extra = nn.Module()
            object.__setattr__(self, "plain", self.extra)  # reached past Pyro
            self.extra.energy = nn.Linear(1, 1)

        def forward(self, series: Series) -> None:
            pyro.factor("energy", self.__dict__["plain"].energy(torch.ones(1)).sum())
            super().forward(series)

    with pytest.raises(
        ValueError, match=r"extra\.energy\.weight, .*extra\.energy\.bias are never registered"
    ):
        fit(Hidden(), Encoder(), data(), max_steps=1, **QUIET)


def test_a_parameter_of_no_module_is_refused() -> None:
    class Loose(Linear):
        def forward(self, series: Series) -> None:
            pyro.param("loose", torch.zeros(2))
            super().forward(series)

    with pytest.raises(ValueError, match="loose belong to neither module"):
        fit(Loose(), Encoder(), data(), max_steps=1, **QUIET)


def test_frozen_parameters_stay() -> None:
    class Part(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))
            self.other = nn.Parameter(torch.ones(()))

        def forward(self) -> Tensor:
            return self.weight + self.other

    class Frozen(Linear):
        def __init__(self) -> None:
            super().__init__()
            self.part = Part()
            self.part.weight.requires_grad_(False)

        def forward(self, series: Series) -> None:
            pyro.factor("part", self.part())
            super().forward(series)

    model = Frozen()
    before = weights(model)
    fit(model, Encoder(), data(), max_steps=2, **QUIET)
    assert changed(model, before) == {"part.other", "net.weight", "net.bias"}
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["part.weight"]


def test_nothing_to_train_is_refused() -> None:
    model, guide = Linear(), Encoder()
    model.requires_grad_(False)
    guide.requires_grad_(False)
    with pytest.raises(ValueError, match="expected parameters to train, got none"):
        fit(model, guide, data(), max_steps=1, **QUIET)


def test_an_unnormalised_site_in_a_guide_is_refused() -> None:
    class Energetic(Encoder):
        def forward(self, series: Series) -> None:
            energy = EnergyBased(
                lambda z: z.square().sum(-1), dist.Normal(torch.zeros(2), 1.0).to_event(1)
            )
            with pyro.plate("sequences", series.total, subsample=series.index):
                pyro.sample("z", energy.mask(True))  # type: ignore[no-untyped-call]

    with pytest.raises(ValueError, match=r"guide: expected normalised densities, .* site 'z'"):
        fit(Linear(), Energetic(), data(), max_steps=1, **QUIET)
