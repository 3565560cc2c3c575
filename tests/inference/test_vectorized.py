"""Many chains at once: right, reproducible, resumable, and refused where they cannot be."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn

from pyro_lebm.inference import (
    MALA,
    MALT,
    MCLMC,
    ULA,
    NumPyroMCMC,
    Tempered,
    Underdamped,
    VectorizedMCMC,
)
from samplers import ADJUSTED, CONJUGATE, KERNELS, conjugate, gaussian, might_be_singular, ran
from scenarios import Mixture

SHORT = torch.zeros(2)


@pytest.mark.parametrize("name", KERNELS)
def test_shapes_statistics_and_diagnostics(name: str) -> None:
    pyro.set_rng_seed(0)
    mcmc = ran(KERNELS[name](conjugate), 20, 20, num_chains=6)
    samples = mcmc.get_samples(group_by_chain=True)
    assert {site: v.shape for site, v in samples.items()} == {
        "rate": (6, 20),
        "share": (6, 20),
        "centre": (6, 20, 2),
    }
    assert mcmc.get_samples()["centre"].shape == (120, 2)
    assert mcmc.get_samples(num_samples=7)["rate"].shape == (7,)
    stats = mcmc.statistics
    assert all(value.shape == (6, 20) for value in stats.values())
    assert ("energy" in stats) == (name in ("MALT", "HMC", "Underdamped"))
    assert set(mcmc.diagnostics()) == {*CONJUGATE, "divergences", "acceptance rate"}
    mcmc.summary()


# one kernel of each kind says that the loop, the slow one, is right
TOGETHER = [(name, strategy) for name in ADJUSTED for strategy in ("vmap", "plate")]


@pytest.mark.parametrize(("name", "strategy"), [*TOGETHER, ("MALA", "loop"), ("Tempered", "loop")])
def test_known_posteriors(name: str, strategy: Any) -> None:
    pyro.set_rng_seed(1)
    chains, draws = (48, 200) if strategy != "loop" else (4, 250)
    mcmc = ran(ADJUSTED[name](conjugate), draws, 150, num_chains=chains, strategy=strategy)
    table = mcmc.diagnostics()
    for site, exact in CONJUGATE.items():
        x, ess = mcmc.get_samples()[site], table[site]["n_eff"]
        assert float(ess.min()) > (300 if strategy != "loop" else 40)
        error = exact.stddev / ess.sqrt()
        # Four means a run, thirteen runs: beyond 4.5 standard errors once in 3000 of them all.
        assert bool(((x.mean(0) - exact.mean).abs() < 4.5 * error).all()), site


def test_lp_is_the_log_joint() -> None:
    pyro.set_rng_seed(2)

    def model() -> None:
        pyro.sample("x", dist.LogNormal(0.0, 1.0))

    mcmc = ran(MALA(model), 5, 5, num_chains=3)
    u = mcmc.get_samples(group_by_chain=True)["x"].log()  # a standard normal
    assert torch.allclose(mcmc.statistics["lp"], dist.Normal(0.0, 1.0).log_prob(u), atol=1e-5)


def test_modes_get_their_weights_from_tempering_alone() -> None:
    mixture = Mixture(weight=0.8, left=-4.0, right=4.0)

    def potential_fn(z: dict[str, Tensor]) -> Tensor:
        return -mixture.log_density(z["z"])

    pyro.set_rng_seed(3)
    shares = {}
    for name, kernel in {"Tempered": Tempered, "MALA": MALA}.items():
        options: dict[str, Any] = {"hottest": 30.0} if name == "Tempered" else {}
        start = {"z": mixture.sample(64, 2)[torch.randperm(64)]}
        start["z"][:, 0] = torch.where(torch.arange(64) % 2 == 0, -4.0, 4.0)
        mcmc = ran(
            kernel(potential_fn=potential_fn, metric="none", **options),
            400,
            200,
            num_chains=64,
            initial_params=start,
        )
        shares[name] = mcmc.get_samples(group_by_chain=True)["z"][..., 0] < 0
    by_chain = shares["Tempered"].double().mean(1)
    error = float(by_chain.std() / 8)
    assert error < 0.05
    assert abs(float(by_chain.mean()) - 0.8) < 4.5 * error  # once in 10^5
    # A kernel without it stays where it starts: half and half.
    assert float(shares["MALA"].double().mean()) == pytest.approx(0.5, abs=1e-6)


class Branching(nn.Module):
    """Counts as a model whose likelihood hangs on a recurrent net."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.GRU(1, 2, batch_first=True)

    def forward(self) -> None:
        x = pyro.sample("x", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("between", dist.Normal(0.0, 1.0))
        if float(x[0].detach()) > 100:
            x = x * 2
        pyro.sample("y", dist.Normal(self.net(x[None, :, None])[0].sum(), 1.0), obs=torch.ones(()))


def test_what_vmap_cannot_do_says_where_and_what_else_to_do() -> None:
    with pytest.raises(ValueError, match=r"'vmap' has no rule .* after site 'between'.*loop"):
        ran(MALA(Branching()), 2, 2, num_chains=3)
    assert ran(MALA(Branching()), 2, 2, num_chains=3, strategy="loop").get_samples()


def test_a_plate_around_a_model_that_does_not_broadcast_is_refused() -> None:
    def model() -> None:
        x = pyro.sample("x", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(x.sum(), 1.0), obs=torch.ones(()))  # over chains as well

    with pytest.raises(ValueError, match="strategy: 'plate' expects"):
        ran(MALA(model), 2, 2, num_chains=3, strategy="plate")


@pytest.mark.parametrize("strategy", ["vmap", "plate", "loop"])
def test_a_singular_matrix_stops_its_own_chain_alone(strategy: Any) -> None:
    pyro.set_rng_seed(5)
    kernel = MALA(might_be_singular, step_size=0.3, adapt_step_size=False, metric="none")
    start = {"scale": torch.linspace(0.3, 0.9, 16), "beside": torch.zeros(16)}
    mcmc = ran(kernel, 50, 0, num_chains=16, strategy=strategy, initial_params=start)
    scale = mcmc.get_samples(group_by_chain=True)["scale"]
    assert bool((scale > 0).all()) and bool((scale.std(1) > 0).all())
    assert bool(mcmc.statistics["diverging"].any())  # some tried


def test_starting_points() -> None:
    pyro.set_rng_seed(4)
    start = {"rate": torch.linspace(-1, 1, 5), "share": torch.zeros(5), "centre": torch.ones(5, 2)}
    kernel = MALA(conjugate, step_size=1e-6, adapt_step_size=False, metric="none")
    x = ran(kernel, 1, 0, num_chains=5, initial_params=start).get_samples(group_by_chain=True)
    assert torch.allclose(x["rate"][:, 0], start["rate"].exp(), atol=1e-4)
    assert torch.allclose(x["centre"][:, 0], start["centre"], atol=1e-4)


def test_thinning_keeps_every_other_move() -> None:
    runs = []
    for thinning, draws in ((1, 20), (2, 10)):
        pyro.set_rng_seed(5)
        mcmc = ran(MALA(conjugate), draws, 10, num_chains=3, thinning=thinning)
        runs.append(mcmc.get_samples(group_by_chain=True)["rate"])
    assert torch.equal(runs[0][:, 1::2], runs[1])


def test_blocks_hold_all_chains() -> None:
    pyro.set_rng_seed(6)
    seen = []

    def potential_fn(z: dict[str, Tensor]) -> Tensor:
        value: Tensor = 0.5 * z["x"].square().sum()
        return value

    mcmc = VectorizedMCMC(
        MALA(potential_fn=potential_fn),
        300,
        100,
        num_chains=10,
        block_size=4,
        initial_params={"x": torch.randn(10, 2)},
        progress=False,
    )
    mcmc.run()
    seen = [len(sampler.position) for sampler in mcmc._samplers]
    assert seen == [4, 4, 2]
    x = mcmc.get_samples(group_by_chain=True)["x"]
    assert x.shape == (10, 300, 2)
    ess = mcmc.diagnostics()["x"]["n_eff"]
    assert bool((x.mean((0, 1)).abs() < 4.5 / ess.sqrt()).all())


def test_it_stops_early_on_its_target() -> None:
    pyro.set_rng_seed(7)
    mcmc = ran(MALT(conjugate), 5000, 100, num_chains=16, r_hat=1.05, ess=400, check_every=25)
    draws = mcmc.get_samples(group_by_chain=True)["rate"].shape[1]
    assert draws < 1000 and draws % 25 == 0
    table = mcmc.diagnostics()
    assert all(float(table[site]["n_eff"].min()) > 400 for site in CONJUGATE)


@pytest.mark.filterwarnings("ignore:.*not been registered")
def test_random_weights_whose_prior_was_built_elsewhere() -> None:
    class Regression(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = PyroSample(dist.Normal(0.0, 1.0).expand([3]).to_event(1))

        def forward(self, x: Tensor, y: Tensor) -> None:
            weight: Any = self.weight
            pyro.sample("y", dist.Normal(x @ weight, 1.0).to_event(1), obs=y)

    pyro.set_rng_seed(0)
    x = torch.randn(40, 3)
    y = x @ torch.tensor([1.0, -1.0, 0.5])
    exact = torch.linalg.inv(x.T @ x + torch.eye(3)) @ x.T @ y
    runs = [VectorizedMCMC(MALA(Regression()), 200, 300, num_chains=16, progress=False)]
    runs += [NumPyroMCMC(Regression(), "nuts", 500, 300, num_chains=2)]
    for run in runs:
        run.run(x, y)
        assert bool(((run.get_samples()["weight"].mean(0) - exact).abs() < 0.05).all())


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_the_bias_of_unadjusted_kernels_is_the_one_known(factor: float) -> None:
    """On a standard normal: ULA's variance is 1 / (1 - s^2 / 4); BAOAB's is 1 whatever the step."""

    def potential_fn(z: dict[str, Tensor]) -> Tensor:
        value: Tensor = 0.5 * z["x"].square().sum()
        return value

    fixed: dict[str, Any] = {"adapt_step_size": False, "metric": "none"}
    start = {"x": torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))}
    expected = {
        "ULA": (ULA(potential_fn=potential_fn, step_size=factor, **fixed), 1 / (1 - factor**2 / 4)),
        "Underdamped": (Underdamped(potential_fn=potential_fn, step_size=factor, **fixed), 1.0),
    }
    for name, (kernel, variance) in expected.items():
        pyro.set_rng_seed(9)
        mcmc = ran(kernel, 1, 0, num_chains=2000, thinning=60, initial_params=start)
        x = mcmc.get_samples()["x"].double()
        error = variance * (2 / x.numel()) ** 0.5
        assert abs(float(x.square().mean()) - variance) < 4.5 * error, name  # once in 10^5


def test_mclmc_tunes_its_energy_error() -> None:
    pyro.set_rng_seed(10)
    sd = torch.logspace(-1, 1, 10)

    def model() -> None:
        pyro.sample("x", dist.Normal(torch.zeros(10), sd).to_event(1))

    mcmc = ran(MCLMC(model, steps=2), 300, 500, num_chains=64)
    x = mcmc.get_samples(group_by_chain=True)["x"]
    ess = mcmc.diagnostics()["x"]["n_eff"]
    ratio = x.flatten(0, 1).var(0) / sd**2
    # bias of some per cent is allowed for; a wrong step gives far more
    assert bool(((ratio - 1).abs() < 0.05 + 4.5 * (2 / ess).sqrt()).all())
    assert float(ess.min()) > 1000


def test_chains_wait_for_no_number_that_nobody_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    def numbers(draws: int) -> int:
        with monkeypatch.context() as patch:
            seen, convert = [], Tensor.__float__

            def counted(tensor: Tensor) -> float:
                seen.append(tensor)
                return convert(tensor)

            patch.setattr(Tensor, "__float__", counted)
            ran(MALA(gaussian), draws, 5, torch.zeros(5), num_chains=3)
        return len(seen)

    pyro.set_rng_seed(0)
    few = numbers(2)
    pyro.set_rng_seed(0)  # the warm-up looks for a step size
    assert numbers(12) == few
