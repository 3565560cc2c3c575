"""What a tilt refuses, and how it says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from hierarchies import Hierarchy, Quadratic
from pyro_lebm.distribution import EnergyBased
from pyro_lebm.tilting.tilt import Tilt
from untyped import poutine

NORMAL = dist.Normal(0.0, 1.0)


def zero(sites: Any) -> Tensor:
    first: Tensor = next(iter(sites.values()))
    return torch.zeros_like(first)


def two() -> None:
    pyro.sample("a", NORMAL)
    pyro.sample("b", NORMAL)


def discrete() -> None:
    pyro.sample("a", NORMAL)
    pyro.sample("k", dist.Bernoulli(0.5))


def observed() -> None:
    a = pyro.sample("a", NORMAL)
    pyro.sample("x", dist.Normal(a, 1.0), obs=torch.tensor(1.0))


def in_other_plates() -> None:
    pyro.sample("a", NORMAL)
    with pyro.plate("own", 3):
        pyro.sample("b", NORMAL)


def loose() -> None:
    pyro.sample("a", dist.Normal(torch.zeros(3), 1.0))


def depends() -> None:
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    pyro.sample("a", dist.Normal(0.0, scale))


OUTSIDE = nn.Parameter(torch.zeros(()))


def from_outside() -> None:
    pyro.sample("a", dist.Normal(OUTSIDE, 1.0))


def with_energy() -> None:
    pyro.sample("a", EnergyBased(lambda z: 1.5 * z, NORMAL))
    pyro.sample("b", NORMAL)


def tilted_before() -> None:
    Tilt(two, zero, num_chains=4)()


CASES: dict[str, tuple[Callable[..., Any], Any, dict[str, Any], str]] = {
    "discrete": (discrete, zero, {}, "site 'k': expected a continuous latent"),
    "no site": (two, zero, {"sites": ["c"]}, r"sites: .* got \['c'\]"),
    "observed": (observed, zero, {"sites": ["a", "x"]}, r"of which \['x'\] are observed"),
    "plates": (in_other_plates, zero, {}, "one set of plates"),
    "loose": (loose, zero, {}, "every dimension in a plate or in to_event"),
    "depends": (depends, zero, {"sites": ["a"]}, r"depends on \['scale'\]"),
    "outside": (from_outside, zero, {}, "a module that owns all it learns"),
    "coordinates": (two, zero, {"coordinates": "polar"}, "coordinates: .* got 'polar'"),
    "noise": (depends, zero, {"coordinates": "noise"}, "'noise' expects Gaussian sites"),
    "energy asks": (observed, lambda s: s["x"], {}, r"tilted sites, of which .* \['a'\], got 'x'"),
    "energy shape": (two, lambda s: s["a"][..., None], {}, "energy: expected one number"),
    "energy of a site": (with_energy, zero, {}, "normalised, got EnergyBased at 'a'"),
    "tilt of a tilt": (tilted_before, zero, {"name": "outer"}, "normalised, got a tilt at 'a'"),
    "no tensor": (two, lambda s: 0.0, {}, "energy: expected a tensor, .* got float"),
    "chains": (two, zero, {"num_chains": 0}, "num_chains"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_tilts_are_refused(case: str) -> None:
    program, energy, options, message = CASES[case]
    with pytest.raises(ValueError, match=message):
        Tilt(program, energy, **options)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((3, zero), {}, "program: expected a callable, got int"),
        ((two, 3.0), {}, "energy: expected a callable, got float"),
        ((two, zero), {"example": 5}, "example: expected a tuple of arguments, got int"),
    ],
)
def test_arguments_of_another_type_are_named(
    arguments: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        Tilt(*arguments, **options)


def test_sites_with_energies_may_stand_beside_those_that_are_tilted() -> None:
    assert Tilt(with_energy, zero, sites=["b"], num_chains=4).names == ("b",)


def test_values_at_the_edge_of_a_support_are_not_taken_for_arguments() -> None:
    """Half of all draws of this Beta are within 1e-4 of 0 or 1, where a logit loses digits."""

    class Edge(PyroModule):
        def forward(self, unused: float) -> None:
            pyro.sample("a", dist.Beta(0.3, 0.3))

    tilt = Tilt(Edge(), zero, example=(0.0,), num_chains=4)
    for seed in range(5):
        torch.manual_seed(seed)
        at = dist.Beta(0.3, 0.3).sample(torch.Size((500,)))
        with pyro.plate("rows", 500):
            poutine.condition(tilt, {"a": at})(1.0)


def test_a_site_may_depend_on_a_parameter_of_its_own_program_only() -> None:
    class Moved(PyroModule):
        def forward(self, by: Tensor) -> None:
            pyro.sample("a", dist.Normal(by, 1.0))

    tilt = Tilt(Moved(), zero, example=(torch.zeros(()),), num_chains=4)
    by = torch.zeros((), requires_grad=True)
    with pytest.raises(ValueError, match="parameters of the program's and the energy's own"):
        poutine.trace(tilt).get_trace(by).log_prob_sum()


def test_a_tilt_of_what_hangs_on_another_site_is_refused_when_read() -> None:
    from pyro_lebm.programs.program import Program

    class Moved(PyroModule):
        def forward(self, by: Tensor) -> None:
            pyro.sample("a", dist.Normal(by, 1.0))

    tilt = Tilt(Moved(), zero, example=(torch.zeros(()),), num_chains=4)

    def model() -> None:
        tilt(pyro.sample("by", NORMAL))

    with pytest.raises(ValueError, match="another sample site"):
        Program.read(model)


def test_masks_have_to_be_around_all_sites() -> None:
    def masked() -> None:
        pyro.sample("a", NORMAL)
        with poutine.mask(mask=torch.tensor(True)):
            pyro.sample("b", NORMAL)

    with pytest.raises(ValueError, match="one scale and one mask"), pyro.plate("rows", 2):
        Tilt(masked, zero, num_chains=4)()


def test_a_program_without_the_sites_it_had_is_refused() -> None:
    class Sometimes(Hierarchy):
        whole = True

        def forward(self) -> Tensor:
            if self.whole:
                return super().forward()
            pyro.sample("top", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))
            return torch.zeros(1)

    program = Sometimes()
    tilt = Tilt(program, Quadratic(), num_chains=4)
    program.whole = False
    fixed = poutine.condition(tilt, {"top": torch.zeros(1).double()})
    with pytest.raises(ValueError, match=r"a run without \['low'\]"):
        fixed()


def test_a_site_of_one_branch_alone_is_named() -> None:
    def branchy() -> None:
        if bool(pyro.sample("a", NORMAL) > 0):
            pyro.sample("b", NORMAL)

    with pytest.raises(ValueError, match=r"a run without \['b'\]"):
        for seed in range(20):  # the first reading meets both, a later draw does not
            torch.manual_seed(seed)
            Tilt(branchy, zero, num_chains=4)()
