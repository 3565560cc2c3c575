"""Files that survive a full disk or a kill at any moment, and refuse to be mistaken for others."""

from __future__ import annotations

import errno
import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

FORMAT = "pyro_lebm"
VERSION = 1

Fingerprint = list[list[Any]]


class CheckpointError(ValueError):
    """A file that is missing, truncated, foreign, of another kind or of another model."""


def write_state(path: str | os.PathLike[str], state: Mapping[str, Any], *, kind: str) -> None:
    """Write `state` to `path`: either the whole new file is there afterwards, or the old one.

    The bytes go to a file beside `path`, are flushed to the disk, and only then renamed onto it.

    Args:
        path: where to write; its folder must exist.
        state: tensors, numbers, strings, None, and lists, tuples and dicts of these.
        kind: what the file is, such as "training" or "model"; `read_state` asks for the same.

    Raises:
        OSError: the file could not be written; what was at `path` before is untouched.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "run.pt"
        >>> write_state(path, {"step": 3}, kind="training")
        >>> read_state(path, kind="training")
        {'step': 3}
    """
    path = Path(path)
    # One fixed name: a writer that was killed leaves at most one such file, and the next reuses it.
    partial = path.with_name(f".{path.name}.partial")
    content = {"format": FORMAT, "version": VERSION, "kind": kind, "state": dict(state)}
    try:
        with open(partial, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        # A disk that fills while torch writes its archive comes out as a RuntimeError.
        if isinstance(error, RuntimeError):
            raise OSError(f"could not write {path}: {error}") from error
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself last through a power cut, where folders can be synced."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def read_state(path: str | os.PathLike[str], *, kind: str) -> dict[str, Any]:
    """Read what `write_state` wrote; nothing in the file is executed (`weights_only=True`).

    Tensors come back on the CPU.

    Args:
        path: the file.
        kind: what the file must be; the `kind` it was written with.

    Raises:
        CheckpointError: the file is missing, truncated, not one of ours, written by a newer
            version, or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"path: there is no file {path}")
    with open(path, "rb") as file:
        zipped = file.read(2) == b"PK"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        # A zip cut short makes torch seek before its start: an OSError (EINVAL) like any damage.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        what = "truncated or damaged" if zipped else "foreign: not a pyro_lebm file"
        raise CheckpointError(f"path: {path} is {what}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"path: {path} is foreign: not a pyro_lebm file")
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"path: {path} has format version {content.get('version')}, expected {VERSION}"
        )
    if content.get("kind") != kind:
        raise CheckpointError(
            f"path: {path} is of another kind: expected {kind!r}, got {content.get('kind')!r}"
        )
    state = content.get("state")
    if not isinstance(state, dict):
        raise CheckpointError(f"path: {path} is truncated or damaged")
    return state


def fingerprint(module: nn.Module) -> Fingerprint:
    """Name, shape and dtype of every parameter and persistent buffer, in plain lists.

    Example:
        >>> fingerprint(nn.Linear(2, 1))
        [['weight', [1, 2], 'torch.float32'], ['bias', [1], 'torch.float32']]
    """
    return [
        [name, list(value.shape), str(value.dtype)]
        for name, value in module.state_dict().items()
        if isinstance(value, torch.Tensor)
    ]


def check_fingerprint(
    found: Sequence[Sequence[Any]], module: nn.Module, *, what: str = "model", shown: int = 3
) -> None:
    """Raise if `found`, read from a file, is not the fingerprint of `module`.

    Args:
        found: the fingerprint in the file.
        module: the module about to be loaded.
        what: how the message calls it.
        shown: how many differences the message names.

    Raises:
        CheckpointError: names the first differences.
    """
    theirs = {name: (tuple(shape), dtype) for name, shape, dtype in found}
    ours = {name: (tuple(shape), dtype) for name, shape, dtype in fingerprint(module)}
    names = [name for name in (*ours, *(n for n in theirs if n not in ours))]
    differences = [name for name in names if ours.get(name) != theirs.get(name)]
    if not differences:
        return
    lines = [
        f"{name}: expected {_described(ours.get(name))}, got {_described(theirs.get(name))}"
        for name in differences[:shown]
    ]
    more = len(differences) - len(lines)
    if more:
        lines.append(f"and {more} more")
    raise CheckpointError(f"a checkpoint of another {what}: " + "; ".join(lines))


def structure_of(module: nn.Module) -> dict[str, str]:
    """What equal weights do not tell of a module, by its own method ``structure``, if any."""
    told: Any = getattr(module, "structure", None)
    return dict(told()) if inspect.ismethod(told) else {}


def check_structure(found: Mapping[str, str], module: nn.Module, *, what: str = "model") -> None:
    """Raise if `found`, read from a file, is not what `structure_of` says of `module`.

    Raises:
        CheckpointError: names the first differences.
    """
    expected = structure_of(module)
    names = [*expected, *(name for name in found if name not in expected)]
    different = [
        f"{name}: expected {expected.get(name)}, got {found.get(name)}"
        for name in names
        if expected.get(name) != found.get(name)
    ]
    if different:
        raise CheckpointError(f"a checkpoint of another {what}: " + "; ".join(different[:3]))


def _described(entry: tuple[tuple[int, ...], str] | None) -> str:
    return "nothing" if entry is None else f"{entry[1].removeprefix('torch.')}{list(entry[0])}"
