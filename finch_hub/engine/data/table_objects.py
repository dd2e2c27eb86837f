"""Tables that are one object: a list of values for each column, and what pandas writes by default."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
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
    elif is_mostly(columns, lambda column: isinstance(column, Mapping) and is_row(column)):
        return columns  # by the index or by a name of each row
    elif columns and all(isinstance(column, Mapping) for column in columns):
        is_table = all(column.keys() == columns[0].keys() for column in columns) and not _has_turn(columns)
        rows = _transpose({name: [*column.values()] for name, column in value.items()}) if is_table else []
    else:
        return None
    return rows if any(map(is_row, rows)) else None


def is_mostly(values: Collection[Any], is_good: Callable[[Any], bool]) -> bool:
    """Tell whether more than half of some values are good, since a few of many are bad."""
    return 2 * sum(map(is_good, values)) > len(values)


def _transpose(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _are_rows(names: Sequence[Any], rows: Sequence[Any]) -> bool:
    is_header = bool(names) and all(isinstance(name, str) for name in names) and len({*names}) == len(names)
    return is_header and bool(rows) and all(isinstance(row, list) and len(row) == len(names) for row in rows)


def _has_turn(column: Sequence[Any]) -> bool:
    return any(isinstance(value, Mapping) and not {"role", "from"}.isdisjoint(value) for value in column)
