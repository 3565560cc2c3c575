"""The native code's compilation: what is kept, what is made anew, and what is said of failures."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from fused_engines import needs_native
from pyro_lebm.native import NativeError, compilation

# a compiler that notes what it is called with and knows no flag that has UNKNOWN in it
COMPILER = """
echo "$@" >> LOG
case "$*" in
    *--version*) echo 1; exit 0;;
    *UNKNOWN*) echo "unknown flag" >&2; exit 1;;
    *-fsyntax-only*) exit 0;;
esac
for last; do :; done
MAKE
"""
Make = Callable[..., Path]


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Sets CXX to a script that does ``make`` to the file ``$last``; gives the log of its calls."""

    def set_up(make: str = 'echo made > "$last"', unknown: str = "nothing") -> Path:
        script, log = tmp_path / "compiler.sh", tmp_path / "log"
        text = COMPILER.replace("LOG", str(log)).replace("UNKNOWN", unknown)
        script.write_text(text.replace("MAKE", make))
        log.unlink(missing_ok=True)
        monkeypatch.setenv("CXX", f"/bin/sh {script}")
        monkeypatch.setenv("PYRO_LEBM_CACHE", str(tmp_path / "cache"))
        return log

    return set_up


def compilations(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if " -o " in line]


def test_it_is_compiled_once_by_a_command_of_more_than_a_word(compiler: Make) -> None:
    log = compiler()
    path = compilation.compiled()
    assert path.read_text() == "made\n" and compilation.compiled() == path
    assert len(compilations(log)) == 1
    assert [file.suffix for file in path.parent.iterdir()] == [".so"]


@pytest.mark.parametrize(("machine", "flag"), [("x86_64", "-march"), ("aarch64", "-mcpu")])
def test_a_library_is_named_by_the_flags_that_the_compiler_knows(
    compiler: Make, machine: str, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    found = set()
    for unknown, tuned in (("nothing", True), (flag, False)):
        log = compiler(unknown=unknown)
        found.add(compilation.compiled())
        (line,) = compilations(log)
        assert (f"{flag}=native" in line) == tuned
        assert ("-mprefer-vector-width" in line) == (machine == "x86_64")
    assert len(found) == 2


def test_a_compiler_that_is_killed_leaves_nothing(compiler: Make, tmp_path: Path) -> None:
    log = compiler(make='echo half > "$last"; kill -9 $$')
    with pytest.raises(NativeError, match="sh failed"):
        compilation.compiled()
    assert len(compilations(log)) == 1  # not again, for a slower library
    assert not list((tmp_path / "cache").iterdir())


def test_what_killed_processes_left_is_removed(compiler: Make, tmp_path: Path) -> None:
    compiler()
    (tmp_path / "cache").mkdir()
    old, new = (tmp_path / "cache" / f"{name}.so.part" for name in ("old", "new"))
    for file in (old, new):
        file.touch()
    an_hour_ago = time.time() - 3600
    os.utime(old, (an_hour_ago, an_hour_ago))
    compilation.compiled()
    assert new.exists() and not old.exists()


@needs_native
@pytest.mark.parametrize("torn", [b"", b"\x7fELF torn"])
def test_a_torn_library_is_made_anew(
    compiler: Make, torn: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    log = compiler(make=f'cp {compilation.compiled()} "$last"')
    compilation.compiled().write_bytes(torn)
    found = compilation._outcome.__wrapped__()
    assert not isinstance(found, NativeError) and found.pyro_lebm_path
    assert len(compilations(log)) == 2


def test_a_compiler_whose_libraries_cannot_be_loaded_is_told(compiler: Make) -> None:
    log = compiler()
    assert isinstance(compilation._outcome.__wrapped__(), NativeError)
    assert len(compilations(log)) == 2


@pytest.mark.parametrize("name", ["no-such-compiler -x", "'"])
def test_a_command_that_is_not_there_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", name)
    with pytest.raises(NativeError, match=f"CXX: expected a C.. compiler's command, got .*{name}"):
        compilation.compiled()


def test_without_a_home_it_says_what_to_set(
    compiler: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def home() -> NoReturn:
        raise RuntimeError("Could not determine home directory.")

    compiler()
    monkeypatch.delenv("PYRO_LEBM_CACHE")
    monkeypatch.setattr(Path, "home", home)
    with pytest.raises(NativeError, match=r"no home folder .*set PYRO_LEBM_CACHE"):
        compilation.compiled()


def test_processors_of_a_kind_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    found = set()
    for part in ("0xd0c", "0xd40"):
        text = f"processor : 0\nFeatures : fp sve\nCPU part : {part}\n"
        monkeypatch.setattr(Path, "read_text", lambda _, text=text: text)
        found.add(compilation._processor())
    assert len(found) == 2 and all("aarch64" in one and "sve" in one for one in found)
