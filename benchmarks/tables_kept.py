"""What is kept of trainings and of their figures, and when it may be taken up again."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import platform
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from irregular_sines import write_json, write_text
from tables_models import Cell

HERE = Path(__file__).parent
Stage = Literal["train", "measure"]
# what decides either; the library's own version is told by the commit
CODE: dict[Stage, tuple[str, ...]] = {
    "train": ("tables_tasks", "tables_models", "tables_train"),
    "measure": (
        "tables_tasks",
        "tables_models",
        "tables_measure",
        "tables_errors",
        "tables_scores",
        "tables_chains",
    ),
}


def key(cell: Cell, stage: Stage) -> dict[str, Any]:
    """What has to be the same for anything kept to stand for this."""
    digest = hashlib.sha256()
    for name in CODE[stage]:
        digest.update((HERE / f"{name}.py").read_bytes())
    found = {**asdict(cell), "stage": stage, "code": digest.hexdigest()[:16]}
    return found | ({"trained": key(cell.trained_as, "train")} if stage == "measure" else {})


def told(cell: Cell, stage: Stage, folder: Path) -> dict[str, Any] | None:
    """What was written of a stage of this very cell; None where it has yet to be done."""
    path = _path(cell, stage, folder)
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found if found["key"] == key(cell, stage) else None


def tell(cell: Cell, stage: Stage, folder: Path, **content: Any) -> None:
    """Write that a stage is done, on what machine and by which commit."""
    content = {"key": key(cell, stage), "made": made(cell), **content}
    write_json(_path(cell, stage, folder), content)


def _path(cell: Cell, stage: Stage, folder: Path) -> Path:
    return folder / f"{cell.name}.{stage}.json"


class OnDevice(Protocol):
    """A training that tells its device."""

    @property
    def device(self) -> str:
        """As torch names it."""


def made(cell: OnDevice) -> dict[str, Any]:
    """Where figures come from."""
    device = torch.cuda.get_device_name() if cell.device == "cuda" else "CPU"
    return {
        "hardware": f"{device}, {os.cpu_count()} cores, {platform.machine()}",
        "torch": torch.__version__,
        "commit": _commit(),
    }


def _commit() -> str:
    """That of the code, marked where it has been changed since; figures that came are no code."""
    name = _git("describe", "--always", "--exclude=*")
    changed = _git("status", "--porcelain", "-uno", ":/", ":!results", ":!RESULTS.md")
    return name + ("-dirty" if changed else "") or "unknown"


def _git(*arguments: str) -> str:
    found = subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True)
    return found.stdout.strip()


def put(cell: Cell, folder: Path, rows: dict[str, Any]) -> None:
    """Trained rows, whole or not at all: to measure them again needs no training."""
    path = folder / f"{cell.name}.pkl"
    beside = path.with_suffix(".part")
    beside.write_bytes(pickle.dumps(rows))
    beside.replace(path)


def take(cell: Cell, folder: Path) -> dict[str, Any]:
    """The rows that `put` kept."""
    found: dict[str, Any] = pickle.loads((folder / f"{cell.name}.pkl").read_bytes())
    return found


def write_report(path: Path, report: dict[str, Any]) -> None:
    """A line a row, to six figures: such files are kept with the code."""
    seeds = []
    for seed, rows in report["seeds"].items():
        lines = [f"{json.dumps(name)}: {json.dumps(_short(row))}" for name, row in rows.items()]
        seeds.append(f"{json.dumps(seed)}: {{\n" + ",\n".join(lines) + "\n}")
    about = json.dumps(report["about"], indent=2)
    write_text(path, f'{{"about": {about},\n"seeds": {{\n' + ",\n".join(seeds) + "\n}}\n")


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _short(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_short(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
