"""A hopping robot that falls: rigid-body physics."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import torch

from pyro_lebm.series import Series

SEQUENCES, STEPS = 10_000, 200  # of the published data set
Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def hopper(
    n: int = SEQUENCES,
    *,
    points: int = STEPS,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
) -> Series:
    """MuJoCo's hopper, thrown and left to fall (Rubanova et al. 2019, arXiv 1907.03907).

    dm_control's hopper, task "stand": positions of the body ~ U(0, .5), its other coordinates ~
    U(-2, 2), velocities ~ U(-5, 5), no control, one physics step a point. Of 10,000 sequences of
    200 points, the published data set, simulating takes a minute.

    Args:
        n: number of sequences.
        points: time points; times are index / 200.
        seed: of a generator of its own.
        folder: where to keep what was simulated, as a compressed file whose checksums are verified
            when it is read again; None: nowhere.

    Returns:
        A fully observed series, values ``(n, points, 14)``: 7 positions, 7 velocities.

    Raises:
        ModuleNotFoundError: without ``pip install 'pyro-lebm[mujoco]'``.
        ValueError: fewer than 1 sequence or 2 points.
    """
    if n < 1 or points < 2:
        raise ValueError(f"n, points: expected at least 1 and 2, got {n} and {points}")
    path = None if folder is None else Path(folder) / f"hopper-{n}x{points}-seed{seed}.npz"
    states = None if path is None else _read(path, (n, points, 14))
    if states is None:
        states = _simulate(n, points, seed)
        if path is not None:
            _write(path, states)
    return Series(torch.arange(points) / STEPS, torch.from_numpy(states))


def _simulate(n: int, points: int, seed: int) -> Array:
    os.environ.setdefault("MUJOCO_GL", "disable")  # nothing is drawn, and there may be no screen
    try:
        from dm_control import suite
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "hopper: expected dm_control, which is not installed; pip install 'pyro-lebm[mujoco]'"
        ) from error
    physics = suite.load("hopper", "stand").physics
    size, random = physics.model.nq, np.random.default_rng(seed)
    states = np.empty((n, points, 2 * size), np.float32)
    for sequence in states:
        with physics.reset_context():
            physics.data.qpos[:2] = random.uniform(0, 0.5, 2)
            physics.data.qpos[2:] = random.uniform(-2, 2, size - 2)
            physics.data.qvel[:] = random.uniform(-5, 5, size)
        for point in sequence:
            point[:] = np.concatenate([physics.data.qpos, physics.data.qvel])
            physics.step()
    return states


def _read(path: Path, shape: tuple[int, ...]) -> Array | None:
    """What was kept, or None where there is nothing to be used."""
    if not path.exists():
        return None
    try:
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            states: Array = file["states"]  # verifies the checksum of what it unpacks
    except Exception as error:  # which one is up to what the damage hit: zip, zlib, numpy or disk
        warnings.warn(f"{path}: simulating anew, as it cannot be read: {error}", stacklevel=3)
        return None
    return states if states.shape == shape and states.dtype == np.float32 else None


def _write(path: Path, states: Array) -> None:
    """Beside, then renamed into place: a file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.savez_compressed(file, states=states)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
