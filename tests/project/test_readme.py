"""Every Python block of the README runs as written, alone, in an empty folder.

A block is real use at a small size: it keeps its own settings quick rather than being patched here.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from statsmodels.datasets import co2

from house import ROOT
from scripts import run_script

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8") if README.exists() else ""
FENCE = re.compile(r"^( *)```python[^\n]*\n(.*?)^\1```\s*$", re.MULTILINE | re.DOTALL)
BLOCKS = {
    f"line {TEXT[: match.start()].count(chr(10)) + 1}": textwrap.dedent(match[2])
    for match in FENCE.finditer(TEXT)
}


def test_the_readme_has_python_blocks() -> None:
    assert BLOCKS, f"no ```python block in {README.name}"
    assert len(BLOCKS) == TEXT.count("```python"), "a ```python block is not closed"


@pytest.mark.parametrize("line", BLOCKS)
def test_block_runs_as_written(
    line: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    co2.load_pandas().data.rename_axis("date").to_csv(tmp_path / "co2.csv")  # a reader's own data
    # From elsewhere, so that not even the script itself lies in the folder.
    script = tmp_path_factory.mktemp("script") / "block.py"
    script.write_text(BLOCKS[line])
    result = run_script(str(script), cwd=tmp_path, timeout=120)
    assert result.returncode == 0, f"{README.name}, {line}:\n{BLOCKS[line]}\n{result.stderr}"
