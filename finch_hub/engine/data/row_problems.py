"""Problems of rows that are left out: listed, grouped by their columns, and counted by kind."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finch_hub import errors
from finch_hub.engine.data import column_advice, row_formats
from finch_hub.engine.data.row_formats import Mismatch

MAX_KEPT = 1_000  # problems and columns; all are counted
MAX_SHOWN = 20


@dataclass
class _MismatchedRows:
    """Rows whose columns cannot be read for one reason. They are reported once."""

    mismatch: Mismatch
    where: str
    row: Mapping[str, Any]
    count: int = 0
    columns: dict[str, None] = field(default_factory=dict)  # in the order of their appearance


class RowProblems:
    """Problems of the rows that are left out.

    Args:
        columns: columns that the user has named, by the field that they are read as.

    Attributes:
        rows: number of rows that are left out.
    """

    def __init__(self, columns: Mapping[str, str]) -> None:
        self.rows = 0
        self._columns = columns
        self._kept: list[errors.Problem] = []
        self._kinds: collections.Counter[str] = collections.Counter()
        self._mismatched: dict[str, _MismatchedRows] = {}

    def add(self, problems: Sequence[errors.Problem], rows: int = 1) -> None:
        """Leave out rows for these problems."""
        self.rows += rows
        self._kinds.update(errors.count_kinds(problems))
        self._kept += problems[: MAX_KEPT - len(self._kept)]

    def add_mismatch(self, mismatch: Mismatch, row: Mapping[str, Any], where: str) -> None:
        """Leave out a row whose columns cannot be read."""
        self.rows += 1
        rows = self._mismatched.setdefault(mismatch.what, _MismatchedRows(mismatch, where, row))
        rows.count += 1
        if len(rows.columns) < MAX_KEPT:
            rows.columns.update(dict.fromkeys(map(str, row)))

    def list_all(self) -> list[errors.Problem]:
        """Return a problem for each reason of columns, and then the first ones of single rows."""
        return [*map(self._describe, self._mismatched.values()), *self._kept]

    def count_kinds(self) -> collections.Counter[str]:
        """Count all problems by kind, also those that were not kept."""
        of_columns = [self._describe(rows) for rows in self._mismatched.values()]
        counts = errors.count_kinds(of_columns) + self._kinds
        if counts.total() > MAX_SHOWN:  # the kinds are shown, so that each row counts
            for problem, rows in zip(of_columns, self._mismatched.values(), strict=True):
                (kind,) = errors.count_kinds([problem])
                counts[kind] += rows.count - 1
        return counts

    def _describe(self, rows: _MismatchedRows) -> errors.Problem:
        """Return one problem for all rows of a mismatch, with the options that name their columns."""
        where = rows.where if rows.count == 1 else f"{rows.where} and {count_rows(rows.count - 1, 'more ')}"
        columns = [*rows.columns]
        what = f"{rows.mismatch.what}; the columns are {row_formats.list_columns(columns)}"
        fix = rows.mismatch.fix
        if not rows.mismatch.is_readable:
            fix = column_advice.suggest_columns(columns, rows.row, self._columns)
        return errors.Problem(what=what, where=where, fix=fix)


def count_rows(count: int, kind: str = "") -> str:
    """Return a number of rows in words."""
    return f"{count:,} {kind}row{'s' if count != 1 else ''}"
