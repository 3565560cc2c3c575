"""The native code's compilation at its first use, and its interface."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

SOURCES = ("path.cpp", "network.h", "functions.h")
# All of -ffast-math but what would take NaN for a number: a path that overflows must stay NaN.
FLAGS = ["-std=c++17", "-O3", "-shared", "-fPIC", "-pthread", "-ffp-contract=fast"]
FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"]
TUNED = ["-march=native", "-mprefer-vector-width=512"]
SECONDS = 300  # a compiler's time


class NativeError(RuntimeError):
    """There is no native code: no compiler, or one that failed."""


class Network(ctypes.Structure):
    """A perceptron, as ``network.h`` has it."""

    _fields_ = [
        ("layers", ctypes.c_int32),
        ("activation", ctypes.c_int32),
        ("sizes", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("biases", ctypes.c_void_p),
    ]

    @classmethod
    def of(cls, weights: Sequence[Tensor], biases: Sequence[Tensor], activation: int) -> Network:
        """Of contiguous tensors, which must outlive it."""
        sizes = [weights[0].shape[1], *(len(w) for w in weights)]
        count = len(weights)
        arrays = (
            (ctypes.c_int32 * (count + 1))(*sizes),
            (ctypes.c_void_p * count)(*(w.data_ptr() for w in weights)),
            (ctypes.c_void_p * count)(*(b.data_ptr() for b in biases)),
        )
        network = cls(count, activation, *(ctypes.addressof(array) for array in arrays))
        network.arrays = arrays  # kept alive with it
        return network


class Task(ctypes.Structure):
    """What is to be computed, as ``path.cpp`` has it."""

    _fields_ = [
        ("field", Network),
        ("emission", Network),
        *((name, ctypes.c_int64) for name in ("sequences", "data", "times", "observed", "steps")),
        ("h", ctypes.c_double),
        ("own_times", ctypes.c_int32),
        ("likelihood", ctypes.c_int32),
        *(
            (name, ctypes.c_void_p)
            for name in ("node", "weights", "values", "mask", "scale", "z0", "seed")
        ),
        *((name, ctypes.c_void_p) for name in ("value", "grad_z0", "grad_weights")),
        ("parameters", ctypes.c_int64),
        ("threads", ctypes.c_int32),
    ]


def run(task: Task, dtype: torch.dtype) -> None:
    """Compute it."""
    task.threads = torch.get_num_threads()
    library().pyro_lebm_path(ctypes.byref(task), int(dtype == torch.float64))


@functools.cache
def _outcome() -> ctypes.CDLL | NativeError:
    try:
        return ctypes.CDLL(str(compiled()))
    except (NativeError, OSError) as reason:
        return NativeError(str(reason))


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
    sources, the compiler's version and the processor: nothing old is ever taken for it.

    Raises:
        NativeError: no C++ compiler (``$CXX``, ``c++``, ``g++``, ``clang++``), or one that fails.
    """
    compiler = _compiler()
    here = Path(__file__).parent
    parts = [(here / name).read_bytes() for name in SOURCES]
    parts += [_output(compiler, "--version"), _processor().encode(), repr(FLAGS + TUNED).encode()]
    name = hashlib.sha256(b"\0".join(parts)).hexdigest()[:20]
    folder = Path(os.environ.get("PYRO_LEBM_CACHE") or Path.home() / ".cache" / "pyro_lebm")
    path = folder / f"path-{name}.so"
    if not path.exists():
        _compile(compiler, here / SOURCES[0], path)
    return path


def _compiler() -> str:
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise NativeError("no C++ compiler found: install one, or set CXX")


def _processor() -> str:
    """What ``-march=native`` stands for: a home folder may serve several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "".join(sorted({x for x in lines if x.startswith(("model name", "flags"))}))
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.node()}"


def _output(*command: str) -> bytes:
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as reason:
        raise NativeError(f"{command[0]}: {reason}") from reason
    if done.returncode:
        raise NativeError(f"{command[0]} failed: {done.stderr.decode(errors='replace')[-2000:]}")
    return done.stdout


def _compile(compiler: str, source: Path, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # beside it, then renamed: neither another process nor a kill finds half a library
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".so.part")
        os.close(handle)
    except OSError as reason:
        raise NativeError(
            f"{path.parent}: cannot be written ({reason}); set PYRO_LEBM_CACHE"
        ) from reason
    made = Path(name)
    try:
        try:
            _output(compiler, *FLAGS, *TUNED, str(source), "-o", name)
        except NativeError:  # a compiler that does not know the flags of this processor
            _output(compiler, *FLAGS, str(source), "-o", name)
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)
