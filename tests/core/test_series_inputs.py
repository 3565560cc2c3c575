"""Series: what it refuses, each by its name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_lebm.series import Series

NAN = math.nan


def series(n: int = 6) -> Series:
    return Series(torch.arange(5.0), torch.randn(n, 5, 2))


def part(length: int, features: int = 1, covariates: Any = None) -> tuple[Tensor, ...]:
    """A sequence of a list; ``covariates`` is the shape of its third part."""
    pair = (torch.arange(float(length)), torch.zeros(length, features))
    return pair if covariates is None else (*pair, torch.zeros(covariates))


T3, V3 = torch.arange(3.0), torch.zeros(2, 3, 1)
HOLE = torch.tensor([[[0.0], [NAN], [0.0]], [[0.0], [0.0], [0.0]]])
ALL = torch.ones(2, 3, 1, dtype=torch.bool)

VALUE_ERRORS: dict[str, tuple[Callable[[], object], str]] = {
    "empty": (
        lambda: Series(T3, torch.zeros(0, 3, 1)),
        r"values: expected N, T and D of at least 1, got shape \(0, 3, 1\)",
    ),
    "values shape": (
        lambda: Series(T3, torch.zeros(2, 3)),
        r"values: expected shape \(N, T, D\), got \(2, 3\)",
    ),
    "times shape": (
        lambda: Series(torch.arange(4.0), V3),
        r"times: expected shape \(3,\) or \(2, 3\) for values \(2, 3, 1\), got \(4,\)",
    ),
    "times NaN": (
        lambda: Series(torch.tensor([0.0, NAN, 2.0]), V3),
        r"times: expected finite numbers, got NaN or inf",
    ),
    "times equal": (
        lambda: Series(torch.tensor([0.0, 1.0, 1.0]), V3),
        r"times: expected strictly increasing .* got 1\.0 then 1\.0 at time points 1 and 2",
    ),
    "times fall": (
        lambda: Series(torch.tensor([[0.0, 1.0, 2.0], [0.0, 2.0, 1.0]]), V3),
        r"times: .* got 2\.0 then 1\.0 at time points 1 and 2 in sequence 1",
    ),
    "times merge in single precision": (
        lambda: Series(torch.tensor([0.0, 1.0, 1.0 + 1e-12], dtype=torch.float64), V3),
        r"times: expected strictly increasing \(in torch\.float32\)",
    ),
    "mask shape": (
        lambda: Series(T3, V3, torch.ones(3, 2, dtype=torch.bool)),
        r"mask: expected shape \(2, 3, 1\) or \(2, 3\), got \(3, 2\)",
    ),
    "NaN observed": (
        lambda: Series(T3, HOLE, ALL),
        r"values: expected finite .* got nan at sequence 0, time point 1, feature 0 \(1 such",
    ),
    "nothing observed": (
        lambda: Series(T3, V3, torch.tensor([[True] * 3, [False] * 3])),
        r"mask: expected every sequence .* at least one .*, got none in sequence 1",
    ),
    "covariates shape": (
        lambda: Series(T3, V3, covariates=torch.zeros(2, 4, 1)),
        r"covariates: expected shape \(2, 3, C\), got \(2, 4, 1\)",
    ),
    "covariates NaN": (
        lambda: Series(T3, V3, covariates=torch.full((2, 3, 1), NAN)),
        r"covariates: expected finite numbers at every time point, got NaN",
    ),
    "index shape": (
        lambda: Series(T3, V3, index=torch.arange(3)),
        r"index: expected 2 positions of dtype torch\.int64, got \(3,\)",
    ),
    "index range": (
        lambda: Series(T3, V3, index=torch.tensor([0, 5]), total=5),
        r"index: expected positions from 0 to total - 1 = 4, got 0 to 5",
    ),
    "batch size": (lambda: series().minibatches(0), r"size: expected at least 1 .* got 0"),
    "keep count": (lambda: series().hide(9), r"keep: expected 1 to 5 time points, got 9"),
    "keep fraction": (lambda: series().hide(1.5), r"keep: expected a fraction .* got 1\.5"),
    "until": (
        lambda: series().until(-1.0),
        r"time \(-1\.0\): expected every sequence to have at least one observed entry, got none",
    ),
    "without": (
        lambda: series().without(series(n=2)),
        r"given: expected a cut of this series, mask \(6, 5, 2\), got \(2, 5, 2\)",
    ),
    "no list": (lambda: Series.from_list([]), r"sequences: expected at least one .* got none"),
    "mixed list": (
        lambda: Series.from_list([(T3, V3[0]), (T3, V3[0], V3[0])]),
        r"sequences: expected \(times, values\) pairs or .* got tuples of \[2, 3\] entries",
    ),
    "list shapes": (
        lambda: Series.from_list([(T3, V3[0]), (T3, V3)]),
        r"sequence 1: expected times \(T,\) and values \(T, D\) .* got \(3,\) and \(2, 3, 1\)",
    ),
    "list covariates too short": (
        lambda: Series.from_list([part(3, 1, (3, 2)), part(3, 1, (1, 2))]),
        r"covariates of sequence 1: expected shape \(3, C\).*, got \(1, 2\)",
    ),
    "list covariates too long": (
        lambda: Series.from_list([part(2, 1, (3, 2)), part(3, 1, (3, 2))]),
        r"covariates of sequence 0: expected shape \(2, C\).*, got \(3, 2\)",
    ),
    "list covariates shape": (
        lambda: Series.from_list([part(3, 1, (3,))]),
        r"covariates of sequence 0: expected shape \(3, C\).*, got \(3,\)",
    ),
    "list features": (
        lambda: Series.from_list([part(3, 2), part(2, 3)]),
        r"values of sequence 1: expected 2 columns as in sequence 0, got 3",
    ),
    "list channels": (
        lambda: Series.from_list([part(3, 1, (3, 2)), part(2, 1, (2, 1))]),
        r"covariates of sequence 1: expected 2 columns as in sequence 0, got 1",
    ),
}

TYPE_ERRORS: dict[str, tuple[Callable[[], object], str]] = {
    "integers": (
        lambda: Series(T3, V3.long()),
        r"values: expected a floating dtype, got torch\.int64",
    ),
    "lists": (
        lambda: Series([0.0, 1.0], V3),  # type: ignore[arg-type]
        r"times: expected a torch\.Tensor, got list",
    ),
    "mask": (
        lambda: Series(T3, V3, torch.ones(2, 3, 1)),
        r"mask: expected dtype torch\.bool, got torch\.float32",
    ),
    "times": (
        lambda: Series(T3 > 1, V3),
        r"times: expected real numbers, got torch\.bool",
    ),
    "list covariates": (
        lambda: Series.from_list([(*part(3), None)]),  # type: ignore[arg-type]
        r"covariates of sequence 0: expected a torch\.Tensor, got NoneType",
    ),
    "covariates": (
        lambda: Series(T3, V3, covariates=V3.double()),
        r"covariates: expected torch\.float32 as values, got torch\.float64",
    ),
}


@pytest.mark.parametrize("case", VALUE_ERRORS)
def test_bad_values_are_named(case: str) -> None:
    call, message = VALUE_ERRORS[case]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("case", TYPE_ERRORS)
def test_bad_types_are_named(case: str) -> None:
    call, message = TYPE_ERRORS[case]
    with pytest.raises(TypeError, match=message):
        call()
