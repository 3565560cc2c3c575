"""NumPyro's chains on several JAX devices, which have to be asked for before JAX starts."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import pyro, torch
import pyro.distributions as dist
from pyro_lebm.inference import NumPyroMCMC

def model():
    with pyro.plate("d", 2):
        pyro.sample("z", dist.Normal(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0])))

pyro.set_rng_seed(0)
options = {"num_samples": 400, "warmup_steps": 200, "chain_method": "parallel"}
mcmc = NumPyroMCMC(model, num_chains=2, **options)
mcmc.run()
z = mcmc.get_samples(group_by_chain=True)["z"]
assert z.shape == (2, 400, 2) and not torch.equal(z[0], z[1])
effective = mcmc.diagnostics()["z"]["n_eff"]
for chains, expected, error in (
    (z.mean((0, 1)), torch.tensor([1.0, -2.0]), z.std((0, 1)) / effective.sqrt()),
    (z.std((0, 1)), torch.tensor([0.5, 2.0]), z.std((0, 1)) / (2 * effective).sqrt()),
):
    assert bool(((chains - expected).abs() < 4 * error).all()), (chains, error)
try:
    NumPyroMCMC(model, num_chains=3, **options)
except ValueError as error:
    print(error)
"""


def test_parallel_chains_run_on_a_device_each_or_are_refused() -> None:
    flags = "--xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", SCRIPT],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith(
        "chain_method: expected a JAX device for each of 3 parallel chains, got 2; on CPUs, set "
        "XLA_FLAGS=--xla_force_host_platform_device_count=3 before JAX starts"
    )
