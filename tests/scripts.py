"""Scripts run as by a fresh interpreter, but forked from one that has imported what all import.

To import torch, Pyro and this library takes three seconds of a processor, and the tests run dozens
of scripts. So the first of them starts a server: a process that imports, computes nothing, knows
nothing of the tests, and forks itself for each script (which JAX in the tests' own process would
not survive). A script is `__main__` in a process of its own, with its own arguments, folder,
environment and output, and so are the Python scripts that it runs by `subprocess.run`.

What differs from a fresh interpreter: modules are there before they are asked for, and what the
environment tells them while they are imported (threads, matplotlib's backend) is the server's.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

PRELOADED = ("pyro_lebm.inference", "pyro_lebm.models", "matplotlib.pyplot", "tqdm")
SERVER = "import sys; sys.path.insert(0, sys.argv[1]); import scripts; scripts.serve()"
_subprocess_run = subprocess.run


def run_script(
    *command: str, cwd: Path, env: dict[str, str] | None = None, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` of Python with this command line: a file, then its arguments."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        outputs = {"stdout": out.fileno(), "stderr": err.fileno()}
        code = _fork(_server(), command, cwd=cwd, env=env, timeout=timeout, **outputs)
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(command, code, out.read(), err.read())


@functools.cache
def _server() -> str:
    """The address of the server of this process, which ends with it."""
    alone = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(Path(__file__).parent)],
        env={**os.environ, **alone},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    address = server.stdout.readline().strip()
    assert address, "the server of scripts did not start"
    atexit.register(server.communicate)  # it goes when its stdin is closed
    return address


def _fork(
    address: str,
    command: tuple[str, ...],
    *,
    cwd: Path | str,
    env: dict[str, str] | None = None,
    stdout: int,
    stderr: int,
    timeout: float | None = None,
) -> int:
    """Ask the server at an address for a process, and wait for its return code."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [b"."], [stdout, stderr])
        asked = {"command": command, "cwd": str(cwd), "env": env or dict(os.environ)}
        connection.sendall(json.dumps(asked).encode() + b"\n")
        connection.settimeout(timeout)
        with connection.makefile() as answers:
            process = int(answers.readline())
            try:
                return int(answers.readline())
            except TimeoutError:
                os.kill(process, signal.SIGKILL)
                raise subprocess.TimeoutExpired(command, timeout or 0.0) from None


# In the server


def serve() -> None:
    """Import, say where, then fork for everyone who connects, until stdin is closed."""
    for name in PRELOADED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, _reap)
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        address = str(Path(folder) / "socket")
        listener.bind(address)
        listener.listen()
        print(address, flush=True)
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _answer(connection, address)
            connection.close()


def _reap(*_: object) -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _answer(connection: socket.socket, address: str) -> NoReturn:
    """Fork once more for the script, and say what became of it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, outputs, *_ = socket.recv_fds(connection, 1, 2)
    with connection.makefile() as asked:
        request = json.loads(asked.readline())
    process = os.fork()
    if process == 0:
        connection.close()
        _become(request, outputs, address)
    connection.sendall(f"{process}\n".encode())
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with suppress(BrokenPipeError):  # who asked has gone
        connection.sendall(f"{status}\n".encode())
    os._exit(0)


def _become(request: dict[str, Any], outputs: list[int], address: str) -> NoReturn:
    """The script's process."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for place, file in enumerate((nothing, *outputs)):
        os.dup2(file, place)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    subprocess.run = functools.partial(_run, address)
    sys.argv = request["command"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    code = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException as error:
        traceback.print_exc()
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    with suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    if code == -signal.SIGINT:  # as Python ends
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code)


def _run(address: str, command: list[str], **options: Any) -> subprocess.CompletedProcess[Any]:
    """`subprocess.run`, by way of the server where it would start a Python script."""
    plain = {"env", "check", "stdout", "stderr", "cwd"} >= set(options)
    if not plain or command[0] != sys.executable or not command[1].endswith(".py"):
        return _subprocess_run(command, **options)
    sys.stdout.flush()
    sys.stderr.flush()
    code = _fork(
        address,
        tuple(command[1:]),
        cwd=options.get("cwd") or Path.cwd(),
        env=options.get("env"),
        stdout=_descriptor(options.get("stdout"), 1),
        stderr=_descriptor(options.get("stderr"), 2),
    )
    if options.get("check") and code:
        raise subprocess.CalledProcessError(code, command)
    return subprocess.CompletedProcess(command, code)


def _descriptor(file: Any, otherwise: int) -> int:
    return otherwise if file is None else int(file.fileno())
