"""What many chains are given: starting values, branches, bad input."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import NUTS
from torch import Tensor

from pyro_lebm.inference import MALA, VectorizedMCMC
from samplers import conjugate, gaussian, ran

SHORT = torch.zeros(2)


def test_starting_values_far_out_are_taken_as_they_are() -> None:
    def model() -> None:
        pyro.sample("share", dist.Beta(2.0, 2.0))

    start = {"share": torch.tensor([30.0, -100.0])}  # 1 and 0 once they are constrained
    mcmc = VectorizedMCMC(MALA(model), 1, 0, num_chains=2, initial_params=start, progress=False)
    mcmc._target = mcmc._read((), {})
    assert torch.equal(mcmc._target.pack(start)[:, 0], start["share"])


def test_a_site_that_a_branch_skips_is_refused() -> None:
    def model() -> None:
        if pyro.sample("a", dist.Normal(0.0, 1.0)) > 0:
            pyro.sample("b", dist.Normal(0.0, 1.0))

    for seed in range(20):  # whichever way the branch is first seen
        pyro.set_rng_seed(seed)
        with pytest.raises(ValueError, match="latent sites"):
            ran(MALA(model), 30, 30, num_chains=4, strategy="loop")


def started(at: Tensor, **options: Any) -> VectorizedMCMC:
    start = {"loc": at}
    return ran(MALA(gaussian), 2, 2, SHORT, num_chains=2, initial_params=start, **options)


def branching(z: dict[str, Tensor]) -> Tensor:
    return (z["x"] ** 2).sum() if z["x"][0] > 0 else (z["x"] ** 4).sum()


def test_a_potential_that_branches_is_looped_or_refused() -> None:
    start = {"x": torch.randn(4, 2)}
    options: dict[str, Any] = {"num_chains": 4, "initial_params": start}
    x = ran(MALA(potential_fn=branching), 5, 5, strategy="auto", **options).get_samples()["x"]
    assert x.shape == (20, 2)
    with pytest.raises(ValueError, match=r"'vmap' has no rule .* Use strategy='loop'"):
        ran(MALA(potential_fn=branching), 5, 5, **options)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: VectorizedMCMC(MALA(conjugate), 2).save("nowhere"),
            RuntimeError,
            "save: expected a run, got none",
        ),
        (
            lambda: ran(
                MALA(gaussian), 2, 2, SHORT, num_chains=2, initial_params={"loc": SHORT.long()}
            ),
            TypeError,
            r"initial_params\['loc'\]: expected floating values, got torch.int64",
        ),
        (
            lambda: started(torch.zeros(2, 3)),
            ValueError,
            r"initial_params\['loc'\]: expected shape \(chains, \*\(\)\), got \(2, 3\)",
        ),
        (
            lambda: VectorizedMCMC(
                MALA(gaussian),
                2,
                num_chains=4,
                superchains=2,
                initial_params={"loc": torch.zeros(4)},
            ),
            ValueError,
            "superchains, initial_params: expected at most one",
        ),
        (
            lambda: ran(MALA(gaussian, transforms={"loc": 1}), 2, 2, SHORT, num_chains=2),
            ValueError,
            "transforms: expected none with a model",
        ),
        (lambda: VectorizedMCMC(NUTS(conjugate), 5), TypeError, "kernel: expected one of pyro"),
        (lambda: VectorizedMCMC(MALA(conjugate), 0), ValueError, "num_samples: expected"),
        (lambda: VectorizedMCMC(MALA(conjugate), 5, -1), ValueError, "warmup_steps: expected"),
        (lambda: VectorizedMCMC(MALA(conjugate), 5, num_chains=0), ValueError, "num_chains: expe"),
        (lambda: VectorizedMCMC(MALA(conjugate), 5, thinning=0), ValueError, "thinning: expected"),
        (lambda: VectorizedMCMC(MALA(conjugate), 5, block_size=0), ValueError, "block_size: expe"),
        (
            lambda: VectorizedMCMC(MALA(conjugate), 5, num_chains=3, initial_params={"x": SHORT}),
            ValueError,
            r"initial_params\['x'\]: expected one value for each of 3 chains, got 2",
        ),
        (
            lambda: ran(MALA(conjugate), 5, 5, num_chains=2, initial_params={"x": SHORT}),
            ValueError,
            r"initial_params: expected the sites \['centre', 'rate', 'share'\], got \['x'\]",
        ),
        (lambda: ran(MALA(potential_fn=torch.sum), 5, 5), ValueError, "initial_params: expected"),
        (lambda: VectorizedMCMC(MALA(conjugate), 5).get_samples(), RuntimeError, "run: expected"),
    ],
)
def test_bad_input_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
