"""Tables that are one object: a list of values for each column, and what pandas writes by default."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Fields in which pandas writes the names of the columns and the rows with `orient="split"`.
_SPLIT = ("columns", "data")


def find_rows(value: Mapping[str, Any], is_row: Callable[[Mapping[str, Any]], bool]) -> list[Any] | None:
    """Return the rows of a table that one object holds; None if the object is no table.

    Its columns are lists of one length, or objects with the same keys. Lists of turns are columns of no table, but
    values of a row.

    Args:
        is_row: tells whether an object has the columns of a row.
    """
    columns = list(value.values())
    if all(isinstance(value.get(name), list) for name in _SPLIT) and _are_rows(value["columns"], value["data"]):
        rows = [dict(zip(value["columns"], row, strict=True)) for row in value["data"]]
    elif columns and all(isinstance(column, list) for column in columns):
        is_table = len({*map(len, columns)}) == 1 and not any(map(_has_turn, columns))
        rows = _transpose(value) if is_table else []
    elif columns and all(isinstance(column, Mapping) for column in columns):
        if all(map(is_row, columns)):
            return columns  # by the index or by a name of each row
        is_table = all(column.keys() == columns[0].keys() for column in columns) and not _has_turn(columns)
        rows = _transpose({name: [*column.values()] for name, column in value.items()}) if is_table else []
    else:
        return None
    return rows if rows and is_row(rows[0]) else None


def _transpose(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _are_rows(names: Sequence[Any], rows: Sequence[Any]) -> bool:
    is_header = bool(names) and all(isinstance(name, str) for name in names) and len({*names}) == len(names)
    return is_header and bool(rows) and all(isinstance(row, list) and len(row) == len(names) for row in rows)


def _has_turn(column: Sequence[Any]) -> bool:
    return any(isinstance(value, Mapping) and not {"role", "from"}.isdisjoint(value) for value in column)
