"""The native code's compilation at its first use."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SOURCES = ("path.cpp", "network.h", "functions.h")
# All of -ffast-math but what would take NaN for a number: a path that overflows must stay NaN.
FLAGS = ["-std=c++17", "-O3", "-shared", "-fPIC", "-pthread", "-ffp-contract=fast"]
FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"]
X86 = ("x86_64", "amd64")
# for this processor, on X86 and elsewhere, where the compiler knows them
TUNED = {True: ["-march=native", "-mprefer-vector-width=512"], False: ["-mcpu=native"]}
SECONDS = 300  # a compiler's time
PART = ".so.part"


class NativeError(RuntimeError):
    """There is no native code: no compiler, or one that failed."""


@functools.cache
def _outcome() -> ctypes.CDLL | NativeError:
    try:
        path = compiled()
        try:
            return _loaded(path)
        except (OSError, AttributeError):  # empty or torn: a disk was full, a machine went down
            path.unlink(missing_ok=True)
            return _loaded(compiled())
    except (NativeError, OSError, AttributeError) as reason:
        return NativeError(str(reason))


def _loaded(path: Path) -> ctypes.CDLL:
    found = ctypes.CDLL(str(path))
    found.pyro_lebm_path.restype = ctypes.c_int32
    return found


def library() -> ctypes.CDLL:
    """The native code, compiled if this machine has not done so before (some seconds).

    Raises:
        NativeError: why there is none.
    """
    found = _outcome()
    if isinstance(found, NativeError):
        raise found
    return found


def compiled() -> Path:
    """The library's file, made if need be.

    It lies in ``$PYRO_LEBM_CACHE``, by default ``~/.cache/pyro_lebm``, under a name made of the
    sources, the compiler's version, its flags and the processor: nothing old is ever taken for it.

    Raises:
        NativeError: no C++ compiler (``$CXX``; without that ``c++``, ``g++``, ``clang++``), or one
            that fails; no folder to write to.
    """
    compiler = _compiler()
    here = Path(__file__).parent
    parts = [(here / name).read_bytes() for name in SOURCES]
    parts.append(_output(*compiler, "--version"))
    flags = FLAGS + [
        flag for flag in TUNED[platform.machine().lower() in X86] if _knows(compiler, flag)
    ]
    parts += [_processor().encode(), repr(flags).encode()]
    name = hashlib.sha256(b"\0".join(parts)).hexdigest()[:20]
    path = _folder() / f"path-{name}.so"
    if not path.exists():
        with _new(path) as made:
            _output(*compiler, *flags, str(here / SOURCES[0]), "-o", made)
    return path


def _compiler() -> list[str]:
    """The command: ``$CXX`` may hold more than a word, such as ``ccache g++``."""
    asked = os.environ.get("CXX", "")
    try:
        words = shlex.split(asked)
    except ValueError:
        words = [asked]
    for command in [words] if words else [["c++"], ["g++"], ["clang++"]]:
        if found := shutil.which(command[0]):
            return [found, *command[1:]]
    if words:
        raise NativeError(f"CXX: expected a C++ compiler's command, got {asked!r}, not found")
    raise NativeError("no C++ compiler found: install one, or set CXX")


def _processor() -> str:
    """What ``native`` stands for in flags: a home folder may serve several machines."""
    machine = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{machine} {platform.processor()} {platform.node()}"
    kinds = ("model name", "flags", "CPU part", "Features")
    return machine + "".join(sorted({x for x in lines if x.startswith(kinds)}))


def _folder() -> Path:
    chosen = os.environ.get("PYRO_LEBM_CACHE")
    try:
        return Path(chosen) if chosen else Path.home() / ".cache" / "pyro_lebm"
    except RuntimeError as reason:  # neither HOME nor an entry among the system's users
        raise NativeError(f"no home folder ({reason}); set PYRO_LEBM_CACHE") from reason


def _knows(compiler: list[str], flag: str) -> bool:
    try:
        _output(*compiler, flag, "-fsyntax-only", "-x", "c++", os.devnull)
    except NativeError:
        return False
    return True


def _output(*command: str) -> bytes:
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as reason:
        raise NativeError(f"{command[0]}: {reason}") from reason
    if done.returncode:
        raise NativeError(f"{command[0]} failed: {done.stderr.decode(errors='replace')[-2000:]}")
    return done.stdout


@contextmanager
def _new(path: Path) -> Iterator[str]:
    """A file to write to, then renamed: neither another process nor a kill finds half of it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _tidy(path.parent)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=PART)
    except OSError as reason:
        raise NativeError(
            f"{path.parent}: cannot be written ({reason}); set PYRO_LEBM_CACHE"
        ) from reason
    os.close(handle)
    made = Path(name)
    try:
        yield name
        with made.open("rb") as file:
            os.fsync(file.fileno())
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)


def _tidy(folder: Path) -> None:
    """Remove what killed compilations left."""
    for part in folder.glob(f"*{PART}"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > 2 * SECONDS:
                part.unlink()
