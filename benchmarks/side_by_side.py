"""Cells of a benchmark side by side: processes of one thread each, kept and taken up again.

A cell is a training and all that is measured of it: a frozen dataclass with ``row``, ``seed``,
``device`` and a ``name`` of its own. What is finished lies in a folder and stands for as long as
the code that made it does; the figures of a data set lie together in one file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from irregular_sines import write_json
from tables_kept import made
from tqdm import tqdm

HERE = Path(__file__).parent
WORKERS = 2
Figures = dict[str, Any]


@dataclass(frozen=True)
class Kept:
    """What makes the figures of cells, and when they stand.

    Attributes:
        worker: the script that calls `work`.
        code: modules, changes in which make figures void; of the library the commit tells.
        home: where these lie.
    """

    worker: str
    code: tuple[str, ...]
    home: Path = HERE

    def key(self, cell: Any) -> Figures:
        """What has to be the same for kept figures to stand for this cell."""
        digest = hashlib.sha256()
        for name in self.code:
            digest.update((self.home / f"{name}.py").read_bytes())
        return {**asdict(cell), "code": digest.hexdigest()[:16]}

    def told(self, cell: Any, folder: Path) -> Figures | None:
        """The figures of this very cell, if they are there."""
        path = folder / f"{cell.name}.json"
        if not path.exists():
            return None
        try:
            found: Figures = json.loads(path.read_text())
        except json.JSONDecodeError:
            return None
        return found if found["key"] == self.key(cell) else None

    def tell(self, cell: Any, folder: Path, row: Figures, warned: Sequence[str]) -> None:
        """Write them, with where they come from."""
        content = {"key": self.key(cell), "made": made(cell), "row": row, "warnings": [*warned]}
        write_json(folder / f"{cell.name}.json", content)

    def stands(self, cell: Any, seeds: Figures) -> bool:
        """Whether a report has figures of the cell, by the code as it stands."""
        found = seeds.get(str(cell.seed), {}).get(cell.row)
        return found is not None and found.get("code") == self.key(cell)["code"]


def complete(
    kept: Kept, wanted: Sequence[Any], about: Figures, path: Path, folder: Path
) -> Figures:
    """The report at ``path``, with all cells that were not there yet."""
    before = json.loads(path.read_text()) if path.exists() else {}
    report = {"about": about, "seeds": before["seeds"] if before.get("about") == about else {}}
    wanted = [cell for cell in wanted if not kept.stands(cell, report["seeds"])]
    folder.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(wanted), unit="row") as bar, ThreadPoolExecutor(WORKERS) as pool:

        def one(cell: Any) -> Figures:
            found = kept.told(cell, folder) or _worked(kept, cell, folder)
            for text in found["warnings"]:
                tqdm.write(f"{cell.name}: {text}")
            bar.update()
            return found

        done = [pool.submit(one, cell) for cell in wanted]
        try:
            for cell, future in zip(wanted, done, strict=True):
                found = future.result()
                rows = report["seeds"].setdefault(str(cell.seed), {})
                code = found["key"]["code"]
                rows[cell.row] = {**found["row"], "made": found["made"], "code": code}
                write_json(path, report)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return report


def _worked(kept: Kept, cell: Any, folder: Path) -> Figures:
    log = folder / f"{cell.name}.log"
    status = process(kept.home / kept.worker, [json.dumps(asdict(cell)), str(folder)], log)
    if status:
        raise SystemExit(f"{cell.name} failed ({status}): see {log}")
    found = kept.told(cell, folder)
    assert found is not None
    return found


def process(worker: Path, arguments: list[str], log: Path) -> int:
    """Run a script in a process of its own, with one thread; its exit status."""
    alone = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    command = [sys.executable, str(worker), *arguments]
    with log.open("w") as out:
        done = subprocess.run(
            command, env={**os.environ, **alone}, stdout=out, stderr=out, check=False
        )
    return done.returncode


def work(
    kept: Kept,
    cell_of: Callable[..., Any],
    figures: Callable[[Any, Path], Figures],
    arguments: Sequence[str] | None = None,
) -> None:
    """What a worker does: train and measure a cell given as JSON, and write what was found."""
    parser = argparse.ArgumentParser(description="A worker: train and measure one cell.")
    parser.add_argument("cell", help="as JSON")
    parser.add_argument("folder", type=Path)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cell = cell_of(**json.loads(args.cell))
    with warnings.catch_warnings(record=True) as warned:
        row = figures(cell, args.folder)
    kept.tell(cell, args.folder, row, sorted({str(warning.message) for warning in warned}))
