"""The floors of the house: who may import whom, how long a file may be, what importing may do."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from house import ROOMS, ROOT, imports, modules, room

MODULES = modules()
LONGEST = 350
MAY_IMPORT = {
    "pyro_lebm": {"pyro_lebm"},
    "models": {"models", "pyro_lebm"},
    "inference": {"inference", "pyro_lebm"},
}
OUTSIDE = {"models", "inference", "tests", "tutorials", "benchmarks", "house", "conftest"}
# What an extra installs: a module that imports these is imported inside functions only.
OPTIONAL = {
    "numpyro",
    "jax",
    "jaxlib",
    "dm_control",
    "mujoco",
    "pynwb",
    "hdmf",
    "statsmodels",
    "zuko",
}
FOLDERS = [*ROOMS, "tests", "benchmarks", "tutorials"]
FILES = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))


def test_all_rooms_have_modules() -> None:
    assert {room(module) for module in MODULES} == set(ROOMS)


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_only_what_its_floor_allows(module: str) -> None:
    wrong = {name for name in imports(module, MODULES[module]) if forbidden(name, room(module))}
    assert not wrong, f"{module} must not import {sorted(wrong)}"


def forbidden(name: str, importer: str) -> bool:
    top = name.partition(".")[0]
    if top == "pyro_lebm":
        return room(name) not in MAY_IMPORT[importer]
    # `import models` finds a folder when Python starts at the root, and nothing once installed.
    return top in OUTSIDE


def test_no_import_runs_in_a_circle() -> None:
    graph = {
        module: {name for name in imports(module, file) if name in MODULES and name != module}
        for module, file in MODULES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"these modules import each other: {' <- '.join(error.args[1])}")


@cache  # many ways lead to the same module
def _needs_optional(module: str) -> bool:
    """Whether importing the module imports an optional package, by way of others or not."""
    at_once = set(imports(module, MODULES[module], nested=False)) - {module}
    ours = {name for name in at_once if name in MODULES}
    return any(n.partition(".")[0] in OPTIONAL for n in at_once - ours) or any(
        _needs_optional(name) for name in ours
    )


@pytest.mark.parametrize("package", ROOMS.values())
def test_no_optional_package_is_needed_before_it_is_asked_for(package: str) -> None:
    assert not _needs_optional(package), "import what an extra installs inside a function"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_is_not_too_long(file: Path) -> None:
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST, f"{lines} lines; a file is one noun, at most {LONGEST} lines"


# Third parties come first: what importing them does is theirs. Then our modules one by one, with
# the state of the process written down after each.
PROBE = """
import contextlib, importlib, json, logging, os, random, sys, warnings
third_parties, ours = json.load(sys.stdin)
for name in third_parties:
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
import numpy, pyro, torch

def state():
    jax, plt = sys.modules.get("jax"), sys.modules.get("matplotlib")
    return {key: str(value) for key, value in {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradient mode": torch.is_grad_enabled(),
        "anomaly mode": torch.is_anomaly_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "torch's generator": hash(torch.get_rng_state().numpy().tobytes()),
        "numpy's generator": hash(str(numpy.random.get_state())),
        "Python's generator": hash(random.getstate()),
        "pyro settings": pyro.settings.get(),
        "pyro parameters": list(pyro.get_param_store().keys()),
        "pyro effect stack": pyro.poutine.runtime._PYRO_STACK,
        "distribution validation": torch.distributions.Distribution._validate_args,
        "numpy error handling": numpy.geterr(),
        "warning filters": warnings.filters,
        "environment": dict(os.environ),
        "module search path": sys.path,
        "root logger": (logging.root.level, logging.root.handlers),
        "jax configuration": jax and jax.config.values,
        "matplotlib settings": plt and dict(plt.rcParams),
    }.items()}

changed, before = {}, state()
for name in ours:
    importlib.import_module(name)
    after = state()
    keys = [key for key in after if after[key] != before[key]]
    if keys:
        changed[name] = keys
    before = after
print(json.dumps(changed))
"""


def test_importing_changes_nothing_else() -> None:
    names = {n for module, file in MODULES.items() for n in imports(module, file)}
    third_parties = sorted(n for n in names if n.partition(".")[0] not in {"pyro_lebm", *ROOMS})
    result = subprocess.run(
        [sys.executable, "-c", PROBE],
        input=json.dumps([third_parties, list(MODULES)]),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {}, "module -> what importing it changed"


def test_the_rooms_open_without_optional_packages() -> None:
    blocked = "".join(f"sys.modules[{name!r}] = None; " for name in sorted(OPTIONAL))
    packages = ", ".join(ROOMS.values())
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; {blocked}import {packages}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
