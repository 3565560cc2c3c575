"""What a series has to be: each error names the argument, what was expected and what came."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def shape(x: Tensor) -> tuple[int, ...]:
    """As a tuple, which prints well."""
    return tuple(x.shape)


def check_tensor(name: str, x: object) -> None:
    """A tensor and nothing else."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(x).__name__}")


def check_real(name: str, x: object) -> None:
    """A tensor of numbers, neither complex nor bool."""
    check_tensor(name, x)
    assert isinstance(x, Tensor)
    if x.is_complex() or x.dtype == torch.bool:
        raise TypeError(f"{name}: expected real numbers, got {x.dtype}")


def check_values(values: Tensor) -> None:
    """Floating, (N, T, D), not empty."""
    check_tensor("values", values)
    if not values.is_floating_point():
        raise TypeError(f"values: expected a floating dtype, got {values.dtype}")
    if values.dim() != 3:
        raise ValueError(f"values: expected shape (N, T, D), got {shape(values)}")
    if values.numel() == 0:
        raise ValueError(f"values: expected N, T and D of at least 1, got shape {shape(values)}")


def observed_mask(mask: Tensor | None, values: Tensor) -> Tensor:
    """The mask as (N, T, D): finite values under it, and something observed in each sequence."""
    if mask is None:
        mask = torch.isfinite(values)
    check_tensor("mask", mask)
    if mask.dtype != torch.bool:
        raise TypeError(f"mask: expected dtype torch.bool, got {mask.dtype}")
    if shape(mask) not in (shape(values), shape(values)[:2]):
        raise ValueError(
            f"mask: expected shape {shape(values)} or {shape(values)[:2]}, got {shape(mask)}"
        )
    check_device("mask", mask, values)
    mask = (mask if mask.dim() == 3 else mask[..., None]).expand(values.shape)
    bad = (mask & ~torch.isfinite(values)).nonzero()
    if len(bad):
        n, t, d = bad[0].tolist()
        raise ValueError(
            f"values: expected finite entries wherever mask is True, got {values[n, t, d].item()} "
            f"at sequence {n}, time point {t}, feature {d} ({len(bad)} such entries)"
        )
    check_every_sequence(mask, "mask:")
    return mask


def check_every_sequence(mask: Tensor, subject: str) -> None:
    """Each sequence has at least one observed entry."""
    empty = (~mask.flatten(1).any(-1)).nonzero().flatten()
    if len(empty):
        raise ValueError(
            f"{subject} expected every sequence to have at least one observed entry, got none in "
            f"sequence {int(empty[0])} ({len(empty)} such sequences)"
        )


def checked_times(times: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """The times in the values' dtype: finite, and strictly increasing up to the padded tail."""
    check_real("times", times)
    n, t, _ = values.shape
    if shape(times) not in ((t,), (n, t)):
        raise ValueError(
            f"times: expected shape {(t,)} or {(n, t)} for values {shape(values)}, "
            f"got {shape(times)}"
        )
    check_device("times", times, values)
    times = times.to(values.dtype)
    if not torch.isfinite(times).all():
        raise ValueError("times: expected finite numbers, got NaN or inf")
    seen = mask.any(-1) if times.dim() == 2 else mask.any(-1).any(0)
    # A point is in the padded tail when neither it nor any later one is observed.
    tail = seen.flip(-1).cumsum(-1).flip(-1) == 0
    gap = times.diff(dim=-1)
    bad = ((gap < 0) | ((gap == 0) & ~tail[..., 1:])).nonzero()
    if len(bad):
        *row, j = bad[0].tolist()
        where = f" in sequence {row[0]}" if row else ""
        pair = times[(*row, slice(j, j + 2))].tolist()
        raise ValueError(
            f"times: expected strictly increasing (in {values.dtype}), "
            f"got {pair[0]!r} then {pair[1]!r} at time points {j} and {j + 1}{where}"
        )
    return times


def check_covariates(covariates: Tensor | None, values: Tensor) -> None:
    """None, or (N, T, C), finite, in the values' dtype."""
    if covariates is None:
        return
    check_tensor("covariates", covariates)
    if covariates.dtype != values.dtype:
        raise TypeError(f"covariates: expected {values.dtype} as values, got {covariates.dtype}")
    if covariates.dim() != 3 or covariates.shape[:2] != values.shape[:2] or not covariates.numel():
        n, t, _ = values.shape
        raise ValueError(f"covariates: expected shape ({n}, {t}, C), got {shape(covariates)}")
    check_device("covariates", covariates, values)
    check_known(covariates)


def check_known(covariates: Tensor) -> None:
    """Finite throughout."""
    if not torch.isfinite(covariates).all():
        raise ValueError("covariates: expected finite numbers at every time point, got NaN or inf")


def check_index(index: Tensor, values: Tensor, total: int) -> None:
    """N positions from 0 to total - 1."""
    check_tensor("index", index)
    n = values.shape[0]
    if index.dtype != torch.long or shape(index) != (n,):
        raise ValueError(
            f"index: expected {n} positions of dtype torch.int64, got {shape(index)} {index.dtype}"
        )
    if total < n or int(index.min()) < 0 or int(index.max()) >= total:
        raise ValueError(
            f"index: expected positions from 0 to total - 1 = {total - 1}, "
            f"got {int(index.min())} to {int(index.max())} for {n} sequences"
        )


def check_device(name: str, x: Tensor, values: Tensor) -> None:
    """On the values' device."""
    if x.device != values.device:
        raise ValueError(f"{name}: expected device {values.device} as values, got {x.device}")


def check_one(i: int, times: Tensor, values: Tensor, *covariates: Tensor) -> None:
    """One sequence of a list: times (T,), values (T, D) and, where given, covariates (T, C)."""
    check_tensor(f"times of sequence {i}", times)
    check_tensor(f"values of sequence {i}", values)
    if times.dim() != 1 or values.dim() != 2 or len(times) != len(values) or not len(times):
        raise ValueError(
            f"sequence {i}: expected times (T,) and values (T, D) with T at least 1, "
            f"got {shape(times)} and {shape(values)}"
        )
    for inputs in covariates:
        _check_one_covariates(i, times, inputs)


def _check_one_covariates(i: int, times: Tensor, covariates: Tensor) -> None:
    check_tensor(f"covariates of sequence {i}", covariates)
    # Padding would stretch a shorter one without a word.
    if covariates.dim() != 2 or len(covariates) != len(times):
        raise ValueError(
            f"covariates of sequence {i}: expected shape ({len(times)}, C), one row for each of "
            f"its times, got {shape(covariates)}"
        )


def check_widths(sequences: Sequence[tuple[Tensor, ...]]) -> None:
    """As many features, and covariates, in each sequence of a list as in its first."""
    names = ("values", "covariates")[: len(sequences[0]) - 1]
    for k, name in enumerate(names, start=1):
        first = sequences[0][k].shape[1]
        for i, width in enumerate(s[k].shape[1] for s in sequences):
            if width != first:
                raise ValueError(
                    f"{name} of sequence {i}: expected {first} columns as in sequence 0, "
                    f"got {width}"
                )
