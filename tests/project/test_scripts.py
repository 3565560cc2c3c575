"""What runs scripts for the tests tells what becomes of them, as a fresh interpreter would."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from scripts import run_script

ENDS = {
    "import sys; print('out'); print('err', file=sys.stderr)": (0, "out\n", "err\n"),
    "raise SystemExit(3)": (3, "", ""),
    "raise SystemExit('a reason')": (1, "", "a reason\n"),
    "import os; os.kill(os.getpid(), 9)": (-signal.SIGKILL, "", ""),
}
NESTED = """
import subprocess, sys
if len(sys.argv) == 1:
    again = [sys.executable, __file__, "nested"]
    with open("log", "w") as log:
        assert subprocess.run(again, stdout=log, stderr=log, check=False).returncode == 1
    subprocess.run(again, check=True, env={"WORD": "other"})
else:
    import os
    print(sys.argv[1], os.environ["WORD"])
    assert os.environ["WORD"] == "other", "the wrong word"
"""


def script(folder: Path, text: str) -> str:
    (folder / "script.py").write_text(text)
    return str(folder / "script.py")


@pytest.mark.parametrize("text", ENDS)
def test_how_a_script_ends_and_what_it_prints(text: str, tmp_path: Path) -> None:
    done = run_script(script(tmp_path, text), cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == ENDS[text]


@pytest.mark.parametrize(("error", "code"), [("KeyError", 1), ("KeyboardInterrupt", -2)])
def test_an_error_is_told_with_its_trace(error: str, code: int, tmp_path: Path) -> None:
    done = run_script(script(tmp_path, f"raise {error}('what')"), cwd=tmp_path)
    assert done.returncode == code
    assert done.stderr.startswith("Traceback") and f"{error}: " in done.stderr


def test_a_script_has_its_own_arguments_folder_environment_and_state(tmp_path: Path) -> None:
    text = "import os, sys, torch; print(sys.argv[1:], os.getcwd(), os.environ.get('WORD'), "
    path = script(tmp_path, text + "__name__, torch.rand(())); torch.manual_seed(1)")
    first = run_script(path, "a", "b c", cwd=tmp_path, env={**os.environ, "WORD": "word"})
    assert first.stdout.startswith(f"['a', 'b c'] {tmp_path} word __main__ ")
    second = run_script(path, "a", "b c", cwd=tmp_path)
    assert "None" in second.stdout and second.stdout.split()[-1] == first.stdout.split()[-1]


def test_scripts_that_a_script_runs(tmp_path: Path) -> None:
    environment = {**os.environ, "WORD": "one"}
    done = run_script(script(tmp_path, NESTED), cwd=tmp_path, env=environment)
    assert done.returncode == 0 and done.stdout == "nested other\n", done.stderr
    log = (tmp_path / "log").read_text()
    assert "nested one\n" in log and "AssertionError: the wrong word" in log


def test_a_script_that_hangs_is_ended(tmp_path: Path) -> None:
    path = script(tmp_path, "import time; time.sleep(60)")
    with pytest.raises(subprocess.TimeoutExpired):
        run_script(path, cwd=tmp_path, timeout=0.5)
