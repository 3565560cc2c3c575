"""sdist and wheel are built without network, and the installed wheel holds every module."""

from __future__ import annotations

import email
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from house import ROOMS, ROOT, imports, modules

pytestmark = pytest.mark.xdist_group("wheel")  # built once

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Neither old builds nor their file lists may lend the new build a file that it forgot.
LEFT_BEHIND = shutil.ignore_patterns(
    ".*", "__pycache__", "build", "dist", "runs", "*.egg-info", "*.ipynb"
)
IMPORT_ALL = """
import importlib, json, sys
target, names = json.load(sys.stdin)
sys.path.insert(0, target)
files = {}
for name in names:
    try:
        files[name] = importlib.import_module(name).__file__
    except ImportError as error:
        files[name] = f"{type(error).__name__}: {error}"
print(json.dumps(files))
"""


def call(*command: str, cwd: Path, stdin: str = "") -> str:
    result = subprocess.run(
        command, cwd=cwd, input=stdin, capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist, and the wheel built from that sdist."""
    folder = tmp_path_factory.mktemp("build")
    shutil.copytree(ROOT, folder / "source", ignore=LEFT_BEHIND)
    build = (sys.executable, "-m", "build", "--no-isolation")
    call(*build, "--outdir", str(folder / "dist"), str(folder / "source"), cwd=folder)
    return folder / "dist"


def test_every_module_imports_from_the_installed_wheel(built: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    wheel = str(next(built.glob("*.whl")))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    call(*pip, "--no-index", "--no-deps", "--target", str(target), wheel, cwd=elsewhere)
    question = json.dumps([str(target), list(modules())])
    found = json.loads(call(sys.executable, "-c", IMPORT_ALL, cwd=elsewhere, stdin=question))
    # An editable install in the same environment answers for what the wheel lacks, hence the paths.
    missing = {name: file for name, file in found.items() if not file.startswith(str(target))}
    assert not missing, "not in the wheel, or broken there (what was found instead)"


def test_wheel_holds_the_files_of_the_tree_and_no_others(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {"pyro_lebm/py.typed"}
    for folder, package in ROOMS.items():
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".cpp", ".h"):
                path = Path(*package.split(".")) / file.relative_to(ROOT / folder)
                expected.add(path.as_posix())
    assert names == expected


def test_wheel_names_version_python_and_licence(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        info = next(name for name in wheel.namelist() if name.endswith("/METADATA"))
        metadata = email.message_from_bytes(wheel.read(info))
        assert wheel.read(info.replace("METADATA", "licenses/LICENSE"))
    assert metadata["Name"] == PROJECT["name"]
    assert metadata["Version"] == PROJECT["version"]
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert metadata["License-Expression"] == PROJECT["license"]


def test_sdist_holds_what_a_reader_needs(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"README.md", "LICENSE", "pyproject.toml", "models/__init__.py"} <= names


def test_every_imported_package_is_declared() -> None:
    requirements = PROJECT["dependencies"] + [
        requirement
        for extra, listed in PROJECT["optional-dependencies"].items()
        if extra != "dev"
        for requirement in listed
    ]
    declared = {normal(re.split(r"[\[<>=!~; ]", requirement)[0]) for requirement in requirements}
    provided_by = packages_distributions()
    tops = {n.partition(".")[0] for m, file in modules().items() for n in imports(m, file)}
    undeclared = {
        top
        for top in tops - sys.stdlib_module_names - {"pyro_lebm"}
        if not {normal(d) for d in provided_by.get(top, [top])} & declared
    }
    # Of the packages of the mujoco extra only one goes by another name than its import.
    assert not undeclared - {"dm_control"}, "imported by the library, absent from pyproject.toml"


def test_constraints_pin_all_direct_requirements() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    pinned = {normal(pin.partition("==")[0]) for pin in pins}
    extras = PROJECT["optional-dependencies"]
    direct = PROJECT["dependencies"] + extras["dev"] + extras["numpyro"] + extras["nwb"]
    assert {normal(re.split(r"[\[<>=!~; ]", d)[0]) for d in direct} <= pinned


def normal(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
