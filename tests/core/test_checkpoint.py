"""Checkpoint files: all or nothing on disk, and refused when they are not what was asked for."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pyro_lebm import checkpoint
from pyro_lebm.checkpoint import (
    CheckpointError,
    check_fingerprint,
    fingerprint,
    read_state,
    write_state,
)

STATE: dict[str, Any] = {
    "weights": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([True, False])},
    "step": 3,
    "names": ["x", "y"],
    "nothing": None,
    "rate": 0.5,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.pt"


def test_comes_back_as_it_was(path: Path) -> None:
    write_state(path, STATE, kind="training")
    found = read_state(path, kind="training")
    assert torch.equal(found["weights"]["a"], STATE["weights"]["a"])
    assert torch.equal(found["weights"]["b"], STATE["weights"]["b"])
    assert {k: v for k, v in found.items() if k != "weights"} == {
        k: v for k, v in STATE.items() if k != "weights"
    }
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("failing", ["save", "torn", "fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(
    path: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_state(path, {"step": 1}, kind="training")

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    def torn(content: Any, file: Any) -> None:
        file.write(b"PK half of it")
        raise RuntimeError("PytorchStreamWriter failed writing file")

    owner, name = {
        "save": (torch, "save"),
        "torn": (torch, "save"),
        "fsync": (os, "fsync"),
        "replace": (os, "replace"),
    }[failing]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, torn if failing == "torn" else full)
        with pytest.raises(OSError):
            write_state(path, {"step": 2}, kind="training")
    assert read_state(path, kind="training") == {"step": 1}
    assert os.listdir(path.parent) == [path.name]


def test_bytes_are_on_the_disk_before_the_name_changes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def sync(descriptor: int) -> None:
        calls.append("fsync")
        fsync(descriptor)

    def rename(source: Any, target: Any) -> None:
        calls.append("replace")
        assert Path(source).parent == path.parent
        assert torch.load(source, weights_only=True)["state"] == {"step": 1}
        replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", rename)
    write_state(path, {"step": 1}, kind="training")
    assert calls[:2] == ["fsync", "replace"]


def test_a_leftover_of_a_killed_writer_is_no_hindrance(path: Path) -> None:
    (path.parent / f".{path.name}.partial").write_bytes(b"PK half of it")
    write_state(path, {"step": 1}, kind="training")
    assert os.listdir(path.parent) == [path.name]


def test_missing(path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no file .*run\.pt"):
        read_state(path, kind="training")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_truncated(path: Path, share: float) -> None:
    write_state(path, STATE, kind="training")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_state(path, kind="training")


def test_foreign(path: Path) -> None:
    for content in (b"", b"a text file\n", pickle.dumps({"step": 1})):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="foreign: not a pyro_lebm file"):
            read_state(path, kind="training")
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="foreign: not a pyro_lebm file"):
        read_state(path, kind="training")


def test_nothing_in_a_file_is_executed(path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(path.parent / "sprung"),)

    torch.save({"format": "pyro_lebm", "version": 1, "kind": "training", "state": Trap()}, path)
    with pytest.raises(CheckpointError):
        read_state(path, kind="training")
    assert not (path.parent / "sprung").exists()


def test_another_kind_or_version(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_state(path, STATE, kind="model")
    with pytest.raises(CheckpointError, match="expected 'training', got 'model'"):
        read_state(path, kind="training")
    monkeypatch.setattr(checkpoint, "VERSION", 2)
    with pytest.raises(CheckpointError, match="format version 1, expected 2"):
        read_state(path, kind="model")


class Tiny(nn.Module):
    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        self.register_buffer("step_size", torch.zeros(3))
        self.register_buffer("chains", torch.zeros(5), persistent=False)


def test_fingerprint_survives_a_file(path: Path) -> None:
    write_state(path, {"model": fingerprint(Tiny())}, kind="model")
    found = read_state(path, kind="model")["model"]
    assert [name for name, _, _ in found] == ["step_size", "linear.weight", "linear.bias"]
    check_fingerprint(found, Tiny())


def test_fingerprint_names_the_first_differences() -> None:
    with pytest.raises(
        CheckpointError,
        match=r"another guide: linear\.weight: expected float32\[1, 4\], got float32\[1, 2\]$",
    ):
        check_fingerprint(fingerprint(Tiny(2)), Tiny(4), what="guide")
    with pytest.raises(
        CheckpointError, match=r"expected float64\[3\], got float32.* 1 more|float64"
    ):
        check_fingerprint(fingerprint(Tiny()), Tiny().double())
    with pytest.raises(CheckpointError, match=r"step_size: expected nothing, got float32\[3\]"):
        check_fingerprint(fingerprint(Tiny()), nn.Module())
    with pytest.raises(CheckpointError, match="; and 1 more"):
        check_fingerprint(fingerprint(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))), nn.Module())
