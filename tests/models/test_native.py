"""The native code's own: its precision over many entries, its memory, machines without it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor

from fused_engines import FUSED, needs_native
from pyro_lebm import Series, engine, native
from pyro_lebm.engines import Engine
from pyro_lebm.models import GaussianEmission, LatentODE

EPS = torch.finfo(torch.float32).eps


def model(observed: int) -> LatentODE:
    """Sees every feature at 0, whatever the state: only the sum over entries can lose digits."""
    torch.manual_seed(0)
    made = LatentODE(2, observed, emission=GaussianEmission(2, observed, ()))
    with torch.no_grad():
        for parameter in made.emission.network.parameters():
            parameter.zero_()
    made.load_state_dict({**made.state_dict(), "step_size": torch.tensor(0.1)})
    return made


def scored(made: LatentODE, series: Series, way: Engine) -> tuple[Any, Tensor]:
    """The distribution and the log likelihoods of states at 0."""
    z0 = torch.zeros(len(series), 2, dtype=series.values.dtype)
    with engine(way):
        trace = pyro.poutine.trace(pyro.poutine.condition(made, {"z0": z0})).get_trace(series)
    node: Any = trace.nodes["x"]
    return node["fn"], node["fn"].log_prob(node["value"])


@pytest.mark.parametrize("way", FUSED)
def test_sums_over_many_entries_keep_their_digits(way: Engine) -> None:
    torch.manual_seed(0)
    made = model(1)
    series = Series(torch.linspace(0.1, 1, 200_000), torch.randn(2, 200_000, 1))
    (_, found), scale = scored(made, series, way), made.emission.log_scale
    (gradient,) = torch.autograd.grad(found.sum(), scale)
    double = series.to(dtype=torch.float64)
    _, exact = scored(made.double(), double, "eager")
    (exact_gradient,) = torch.autograd.grad(exact.sum(), made.emission.log_scale)
    # each term's rounding, which may lean to one side, and some of the sum's own; added up one
    # after the other, these sums were out by tens of units in the last place
    for ours, theirs in ((found, exact), (gradient, exact_gradient)):
        assert (ours - theirs).detach().abs().max() < 8 * EPS * theirs.detach().abs().max()


@needs_native
@pytest.mark.parametrize("threads", [1, 3])
def test_too_little_memory_is_an_error_of_python(threads: int) -> None:
    made, series = model(1), Series(torch.linspace(0.1, 1, 5), torch.zeros(300, 5, 1))
    fn, _ = scored(made, series, "native")
    problem = fn._problem.holding([*fn._problem.field.parameters, *fn._problem.emission.parameters])
    endless = replace(problem, readout=replace(problem.readout, steps=10**13))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with pytest.raises(MemoryError, match="not enough memory for 10000000000000 steps"):
            native.solve(endless, torch.zeros(300, 2), torch.ones(1))
    finally:
        torch.set_num_threads(before)


WITHOUT = """
import warnings
import torch
from pyro_lebm import Series, engine, potential
from pyro_lebm.engines import Engine
from pyro_lebm.models import LatentODE
from pyro_lebm.programs.program import Program

model = LatentODE(2, 1)
series = Series(torch.linspace(0.1, 1, 5), torch.zeros(3, 5, 1))
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    program = Program.read(model, series)
    for _ in range(3):
        program.log_density(torch.zeros(3, 2))
told = [str(w.message) for w in told if "engine" in str(w.message)]
assert len(told) == 1 and "'vjp', slower than 'native'" in told[0] and REASON in told[0], told
assert potential(model, series).picked == potential(model, series, engine="vjp").picked == "vjp"
with engine("native"):
    try:
        program.log_density(torch.zeros(3, 2))
    except ValueError as error:
        assert REASON in str(error), error
    else:
        raise AssertionError("not refused")
"""


@pytest.mark.parametrize("trouble", ["no compiler", "a compiler that fails", "no room"])
def test_without_native_code_it_goes_on_and_warns_once(trouble: str, tmp_path: Path) -> None:
    cache, path = tmp_path / "cache", tmp_path / "bin"
    path.mkdir()
    reason = "no C++ compiler found"
    if trouble != "no compiler":
        broken = path / "c++"
        broken.write_text("#!/bin/sh\necho 'out of order' >&2\nexit 1\n")
        broken.chmod(0o755)
        reason = "out of order"
    if trouble == "no room":
        broken.write_text("#!/bin/sh\nexit 0\n")
        cache.write_text("a file, where a folder should be")
        reason = "cannot be written"
    environment = {"PATH": f"{path}:/bin" if trouble != "no compiler" else str(path)}
    environment |= {"PYRO_LEBM_CACHE": str(cache), "HOME": str(tmp_path)}
    script = WITHOUT.replace("REASON", repr(reason))
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
