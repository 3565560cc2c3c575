"""The history of a training run: a table with one row for each step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

COLUMNS = ("step", "epoch", "seconds", "loss", "learning_rate", "rollbacks")


class History:
    """What happened at each step of `fit`, as a table of floats.

    Columns: `step` (from 1), `epoch` (from 0), `seconds` (of training, resumed runs added up),
    `loss` (named by `loss_name`), `learning_rate` (the base rate in force), `rollbacks` (so far),
    then whatever the guide's and the priors' `statistics()` report, and `validation` (the
    predictive log score, where it was taken). A value that was not reported is NaN.

    Attributes:
        profile: where the time of the steps went, where `fit` was asked for it: a table with a row
            for each part. It is of the last call alone, and not kept in a checkpoint.

    Example:
        >>> history = History("negative ELBO")
        >>> history.append({"step": 1, "loss": 2.5})
        >>> history.column("loss").tolist()
        [2.5]
    """

    def __init__(self, loss_name: str = "loss") -> None:
        self.loss_name = loss_name
        self._columns: list[str] = list(COLUMNS)
        self._rows: list[dict[str, float]] = []
        self.profile: pd.DataFrame | None = None

    def append(self, row: Mapping[str, float]) -> None:
        """Add one row; a name not seen before becomes a new column."""
        self._columns += [name for name in row if name not in self._columns]
        self._rows.append({name: float(value) for name, value in row.items()})

    def amend(self, name: str, value: float) -> None:
        """Add one more value to the last row."""
        self.append(self._rows.pop() | {name: value})

    @property
    def last(self) -> dict[str, float]:
        """The last row, as far as it was reported; empty before the first step."""
        return dict(self._rows[-1]) if self._rows else {}

    def truncate(self, rows: int) -> None:
        """Keep the first `rows` rows: the rest was undone by a rollback."""
        del self._rows[rows:]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def columns(self) -> list[str]:
        """The names of the columns, in order."""
        return list(self._columns)

    def column(self, name: str) -> Tensor:
        """One column, shape (rows,), float64.

        Raises:
            ValueError: there is no such column.
        """
        if name not in self._columns:
            raise ValueError(f"name: expected one of {self._columns}, got {name!r}")
        values = [row.get(name, math.nan) for row in self._rows]
        return torch.tensor(values, dtype=torch.float64)

    @property
    def frame(self) -> pd.DataFrame:
        """The table as a pandas data frame."""
        return pd.DataFrame(self._table().numpy(), columns=pd.Index(self._columns))

    def _table(self) -> Tensor:
        rows = [[row.get(name, math.nan) for name in self._columns] for row in self._rows]
        return torch.tensor(rows, dtype=torch.float64).reshape(len(rows), len(self._columns))

    def to_state(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {"loss_name": self.loss_name, "columns": self.columns, "rows": self._table()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> History:
        """The history that `to_state` described."""
        history = cls(state["loss_name"])
        history._columns = list(state["columns"])
        history._rows = [
            {name: v for name, v in zip(history._columns, row, strict=True) if not math.isnan(v)}
            for row in state["rows"].tolist()
        ]
        return history

    def __repr__(self) -> str:
        last = self._rows[-1]["loss"] if self._rows else math.nan
        return f"History({len(self)} steps, last {self.loss_name} {last:.6g})"
