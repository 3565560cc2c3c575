"""A program read as a density: its elements, packing, parts, minibatches, prior draws."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor

from programs import ROWS, sequences
from pyro_lebm.annealing.ratio import LogRatio
from pyro_lebm.distribution import EnergyBased
from pyro_lebm.programs.program import Program
from pyro_lebm.programs.reading import Plate
from pyro_lebm.tilting.energies import energies, estimated, log_constants
from untyped import optim, poutine


def grid(x: Tensor = ROWS) -> None:
    """Two plates common to all, a third inside, sites that sit in their dimensions differently."""
    a, b = pyro.plate("a", 4, dim=-3), pyro.plate("b", 6, dim=-1)
    with a, b:
        u = pyro.sample("u", dist.Gamma(torch.full((2,), 2.0), 1.0).to_event(1))
        w = pyro.sample("w", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("inner", 5, dim=-2):
            v = pyro.sample("v", dist.Normal(u.sum(-1), 1.0))
            loc = v + w[..., 0]
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x.unsqueeze(1).expand(4, 5, 6))


# Elements


def test_elements_are_the_plates_that_all_sites_share() -> None:
    program = Program.read(grid)
    assert program.common == ("a", "b")
    assert program.elements == program.full == (4, 6)
    assert program.dim == 2 + 2 + 5
    assert program.draw.shape == (4, 6, 9)
    assert [site.name for site in program.sites] == ["u", "w", "v"]
    assert [site.plates for site in program.sites] == [
        ("a", "b"),
        ("a", "b"),
        ("a", "b", "inner"),
    ] or all(set(s.plates) >= {"a", "b"} for s in program.sites)
    (i, j) = program.index
    assert torch.equal(ROWS[i, j], ROWS)


def test_a_site_outside_leaves_one_element() -> None:
    def program() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("n", 5):
            pyro.sample("z", dist.Normal(mu, 1.0))

    read = Program.read(program)
    assert (read.common, read.elements, read.dim) == ((), (), 6)
    z = torch.randn(3, 6)
    assert read.log_density(z).shape == (3,)
    assert read.unpack(z)["z"].shape == (3, 5)


def test_a_deterministic_outside_does_not() -> None:
    def program() -> None:
        pyro.deterministic("two", torch.tensor(2.0))
        with pyro.plate("n", 5):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.deterministic("twice", 2 * z)

    assert Program.read(program).elements == (5,)


@pytest.mark.parametrize("fn", [grid, lambda: sequences(ROWS)])
def test_packing_and_unpacking_are_inverse(fn: Any) -> None:
    program = Program.read(fn)
    trace = poutine.trace(fn).get_trace()
    values = {site.name: trace.nodes[site.name]["value"] for site in program.sites}
    z = program.pack(values)
    assert z.shape == (*program.elements, program.dim)
    back = program.unpack(z)
    assert all(torch.allclose(back[n], values[n], atol=1e-5) for n in values)
    many = torch.randn(2, 3, *program.elements, program.dim)
    back = program.unpack(many)
    assert all(back[n].shape == (2, 3, *values[n].shape) for n in values)
    assert torch.allclose(program.pack(back), many, atol=2e-4)
    assert all(site.moves == (site.name not in ("z", "v")) for site in program.sites)


def test_the_density_of_an_element_hangs_on_that_element_alone() -> None:
    program = Program.read(grid)
    z = torch.randn(4, 6, 9, requires_grad=True)
    log_p = program.log_density(z)
    assert log_p.shape == (4, 6)
    (slope,) = torch.autograd.grad(log_p[1, 2], z)
    touched = slope.ne(0).any(-1)
    assert touched.sum() == 1 and touched[1, 2]


def test_parts_are_prior_and_likelihood() -> None:
    program = Program.read(sequences, ROWS)
    z = torch.randn(7, 4, 3)
    prior, likelihood = program.log_parts(z)
    assert prior.shape == likelihood.shape == (7, 4)
    u, s = z[..., :2], z[..., 2].exp()
    # LogNormal and Jacobian together: a standard normal in log s
    expected = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    assert torch.allclose(prior, expected, atol=1e-5)
    seen = dist.Normal(u.sum(-1, keepdim=True), s.unsqueeze(-1)).log_prob(ROWS).sum(-1)
    assert torch.allclose(likelihood, seen, rtol=1e-4, atol=1e-4)
    assert torch.equal(program.log_density(z), prior + likelihood)


# Minibatches


def test_rebinding_takes_a_minibatch_and_leaves_its_scale_out() -> None:
    whole = Program.read(sequences, ROWS)
    index = torch.tensor([3, 1])
    part = whole.rebind(ROWS[index], index, total=4)
    assert part.elements == (2,) and part.full == (4,)
    assert torch.equal(part.index[0], index)
    assert part.plates["rows"] == Plate("rows", -1, 2, 4, part.plates["rows"].index)
    z = torch.randn(5, 4, 3)
    for a, b in zip(whole.log_parts(z), part.log_parts(z[:, index]), strict=True):
        assert torch.allclose(a[:, index], b, atol=1e-5)
    assert whole.elements == (4,)  # the one it came from is untouched
    again = part.rebind(ROWS)
    assert torch.allclose(again.log_density(z), whole.log_density(z))


def test_the_programs_own_scale_counts_in_a_minibatch_too() -> None:
    def scaled(x: Tensor, index: Tensor | None = None) -> None:
        with poutine.scale(scale=0.25):
            sequences(x, index, 4)

    plain, program = Program.read(sequences, ROWS), Program.read(scaled, ROWS)
    index, z = torch.tensor([0, 2]), torch.randn(4, 3)
    part = program.rebind(ROWS[index], index)
    jacobian = z[..., 2]  # Pyro's scale leaves the Jacobian alone
    expected = 0.25 * (plain.log_density(z) - jacobian) + jacobian
    assert torch.allclose(program.log_density(z), expected, rtol=1e-4, atol=1e-4)
    assert torch.allclose(part.log_density(z[index]), expected[index], rtol=1e-4, atol=1e-4)


def test_a_random_minibatch_is_read_once_and_kept() -> None:
    def program() -> None:
        with pyro.plate("n", 24, subsample_size=5) as index:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=ROWS.flatten()[index])

    read = Program.read(program)
    z = torch.randn(2, 5)[..., None]
    x = ROWS.flatten()[read.index[0]]
    expected = dist.Normal(0.0, 1.0).log_prob(z[..., 0]) + dist.Normal(z[..., 0], 1.0).log_prob(x)
    for _ in range(2):
        assert torch.allclose(read.log_density(z), expected, atol=1e-5)
    assert read.minibatches == {"n": (5, 24)}


def test_rebinding_sees_plates_after_the_last_latent_site() -> None:
    def program(x: Tensor) -> None:
        with pyro.plate("rows", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("columns", x.shape[1], subsample_size=2, dim=-1) as index:
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, index])

    read = Program.read(program, ROWS)
    seen = set()
    for _ in range(8):
        part = read.rebind(ROWS)
        seen.add(tuple(part.plates["columns"].index.tolist()))
    assert len(seen) > 1
    wide = read.rebind(torch.zeros(4, 30))
    assert wide.plates["columns"].full_size == 30
    assert wide.log_density(torch.zeros(4, 1)).shape == (4,)


def test_rebinding_stops_at_the_last_latent_site_and_refuses_others() -> None:
    runs = []

    def program(names: str) -> None:
        for name in names:
            pyro.sample(name, dist.Normal(0.0, 1.0))
        runs.append(names)

    read = Program.read(program, "ab")
    read.rebind("ab")
    assert runs == ["ab"]
    with pytest.raises(ValueError, match=r"latent sites \['a', 'b'\] again, got \['a', 'c'\]"):
        read.rebind("ac")


# As a guide


def test_saying_puts_every_site_at_its_value_inside_its_plates() -> None:
    program = Program.read(grid)
    z = program.prior_draws(1)[0]
    trace = poutine.trace(lambda: program.say(z)).get_trace()
    values = program.unpack(z)
    for site in program.sites:
        node = trace.nodes[site.name]
        assert torch.equal(node["value"], values[site.name])
        assert {f.name for f in node["cond_indep_stack"]} == set(site.plates)
    joint = poutine.trace(poutine.replay(grid, trace=trace)).get_trace()
    expected = joint.log_prob_sum()
    _, jacobian = _transformed(program, z)
    assert torch.allclose(program.log_density(z).sum(), expected + jacobian, rtol=1e-4)


def _transformed(program: Program, z: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    values, total = program.unpack(z), torch.zeros(())
    for site in program.sites:
        u = site.transform.inv(values[site.name])
        total = total + site.transform.log_abs_det_jacobian(u, values[site.name]).sum()
    return values, total


def test_a_minibatch_said_as_a_guide_weighs_as_in_pyro() -> None:
    index = torch.tensor([0, 3])
    part = Program.read(sequences, ROWS[index], index, 4)
    z = torch.randn(2, 3)

    def guide(*args: Any) -> None:
        part.say(z)

    said = poutine.trace(guide).get_trace()
    assert torch.equal(said.nodes["rows"]["value"], index)
    loss = Trace_ELBO().loss(sequences, guide, ROWS[index], index, 4)
    log_density = part.log_density(z) - z[..., 2]  # in constrained terms, without the Jacobian
    assert math.isclose(loss, -2.0 * float(log_density.sum()), rel_tol=1e-4)


def test_a_step_of_svi_with_draws_moves_the_model() -> None:
    """Maximum likelihood by draws: program inside a guide, the model's parameters alive outside."""

    def model(x: Tensor) -> None:
        shift = pyro.param("shift", torch.tensor(0.0))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + shift, 1.0), obs=x)

    x = torch.full((5,), 4.0)
    program = Program.read(model, x)

    def guide(x: Tensor) -> None:
        z = torch.zeros(5, 1)
        program.log_density(z)
        program.say(z)

    SVI(model, guide, optim.Adam({"lr": 0.1}), Trace_ELBO()).step(x)
    assert math.isclose(float(pyro.param("shift").detach()), 0.1, rel_tol=1e-3)


# The constant


def test_log_z_counts_each_energy_as_often_as_it_stands_in_an_element() -> None:
    tilted = EnergyBased(lambda z: -2.0 * z, dist.Normal(0.0, 1.0))  # log Z = 2
    known = EnergyBased(lambda z: -2.0 * z, dist.Normal(0.0, 1.0), log_z=2.0)

    def program() -> None:
        with pyro.plate("n", 4):
            pyro.sample("a", tilted)
            pyro.sample("b", tilted.expand([3]).to_event(1))  # type: ignore[no-untyped-call]
            pyro.sample("c", dist.Normal(0.0, 1.0))
            pyro.sample("d", known)

    # An estimate scatters by .015 over 10 seeds; one of the two stands for three copies.
    assert abs(float(log_constants(Program.read(program))) - 4 * 2.0) < 5 * 0.015 * 10**0.5
    assert log_constants(Program.read(grid)) == 0


@pytest.mark.parametrize("copies", [3, 4])
def test_energies_of_an_event_are_summed_and_those_of_elements_are_not(copies: int) -> None:
    tilted = EnergyBased(lambda z: -2.0 * z, dist.Normal(0.0, 1.0))

    def program() -> None:
        with pyro.plate("n", 4):
            event = tilted.expand([copies]).to_event(1)  # type: ignore[no-untyped-call]
            pyro.sample("a", event)
            exp = dist.TransformedDistribution(event, [dist.transforms.ExpTransform()])
            pyro.sample("b", exp)

    z = torch.randn(5, 4, 2 * copies)  # in unconstrained space
    found = energies(Program.read(program), z)
    assert found is not None and torch.allclose(found, -2 * z.sum(-1), atol=1e-4)


def test_an_estimated_log_z_is_found_once_with_how_often_it_stands_in_an_element() -> None:
    one, other = (LogRatio(torch.zeros(2, 3), torch.zeros(2, 3), exact=True) for _ in range(2))

    def of(known: LogRatio | float) -> EnergyBased:
        return EnergyBased(lambda z: -2.0 * z, dist.Normal(0.0, 1.0), log_z=known)

    def program() -> None:
        with pyro.plate("n", 4):
            pyro.sample("a", of(one))
            pyro.sample("b", of(one).expand([3]).to_event(1))  # type: ignore[no-untyped-call]
            pyro.sample("c", of(other))
            pyro.sample("d", of(2.0))

    found = estimated(Program.read(program))
    assert [(n, ratio is one) for n, ratio in found] == [(4, True), (1, False)]
    assert estimated(Program.read(grid)) == ()
