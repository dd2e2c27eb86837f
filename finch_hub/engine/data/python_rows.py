"""Rows that a program gives: sequences, iterators, tables of pandas, polars and Arrow, data sets of `datasets`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from finch_hub import errors
from finch_hub.engine.data import arrow_rows, json_values, table_objects
from finch_hub.engine.data.row import Row
from finch_hub.specs.examples import Example

_CHUNK_ROWS = 1024
_MAX_DEPTH = 2 * json_values.MAX_DEPTH  # what is deeper is refused later, and may hold itself
_SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev")}
_SPLIT_NAMES = (*(name for names in _SPLITS.values() for name in names), "test", "eval")
_FORMS = "give pairs, mappings, examples, or a table"


def read_items(items: Any) -> Iterator[Row]:
    """Yield the rows of a collection, each with its position, counted from 1.

    Raises:
        InvalidDataset: the collection has no rows.
    """
    for number, item in enumerate(_iterate(items), start=1):
        where = f"example {number}"
        try:
            yield Row(where, item if isinstance(item, Example) else _read_row(item))
        except errors.InvalidSpec as error:
            (problem,) = error.problems
            yield Row(where, None, problem.what, problem.fix)


def _read_row(item: Any) -> Mapping[str, Any]:
    if isinstance(item, tuple) and hasattr(item, "_asdict"):  # a row of pandas' itertuples, whose columns have an order
        item = item._asdict()
    if isinstance(item, (list, tuple)) and len(item) == 2:
        item = {"prompt": item[0], "completion": item[1]}
    if not isinstance(item, Mapping):
        what = f"is {type(item).__name__}, not a (prompt, completion) pair or a mapping"
        raise errors.InvalidSpec(what, fix="give two strings, or a mapping of columns")
    numbers = json_values.count_values()
    return {name: _to_plain(value, _MAX_DEPTH, numbers, (id(item),)) for name, value in item.items()}


def select_split(data: Any, split: str, is_row: Callable[[Mapping[str, Any]], bool]) -> Any:
    """Return a split of a mapping of splits, such as a `DatasetDict`; None if it has no such split.

    Args:
        data: rows, a mapping of splits, or a mapping of columns.
        split: name of the split.
        is_row: tells whether a mapping has the columns of a row.

    Raises:
        InvalidDataset: the mapping has no split for training.
    """
    if not isinstance(data, Mapping):
        return data if split == "train" else None
    if "train" not in data and (rows := _find_rows(data, is_row)) is not None:
        return rows if split == "train" else None
    if "train" not in data:
        what = f"is a mapping of {', '.join(map(str, list(data)[:5]))}, not a collection of rows"
        raise errors.InvalidDataset(what, fix="give a list of rows, or one split of the mapping", subject="examples")
    parts = [data[name] for name in _SPLITS[split] if name in data]
    return parts[0] if len(parts) == 1 else (row for part in parts for row in _iterate(part)) if parts else None


def _find_rows(data: Mapping[Any, Any], is_row: Callable[[Mapping[str, Any]], bool]) -> list[Any] | None:
    """Return the rows of a mapping of columns, such as a part of a `datasets.Dataset`; None if it is of splits."""
    if not data.keys().isdisjoint(_SPLIT_NAMES):
        return None
    columns = {name: column.tolist() if hasattr(column, "tolist") else column for name, column in data.items()}
    columns = {name: [*column] if isinstance(column, tuple) else column for name, column in columns.items()}
    return table_objects.find_rows(columns, is_row)


def has_splits(data: Any) -> bool:
    """Tell whether the data is a mapping of splits."""
    return isinstance(data, Mapping) and "train" in data


def list_other_splits(data: Any, splits: Sequence[str | None]) -> list[str]:
    """Return the names of the splits of a mapping of splits that are none of these."""
    if not has_splits(data):
        return []
    read = [name for split in splits if split for name in _SPLITS[split] if name in data]
    return [str(name) for name in data if name not in read]


def _iterate(items: Any) -> Iterator[Any]:
    """Yield rows. Libraries of tables are known by their methods, so that none of them is needed."""
    if hasattr(items, "iter_rows"):  # polars
        yield from items.iter_rows(named=True)
    elif hasattr(items, "to_batches"):  # Arrow
        for batch in items.to_batches():
            yield from _iterate(batch)
    elif hasattr(items, "to_pylist") and hasattr(items, "schema"):  # a batch of Arrow
        for begin in range(0, items.num_rows, _CHUNK_ROWS):
            yield from arrow_rows.to_rows(items.slice(begin, _CHUNK_ROWS))
    elif hasattr(items, "iloc") and hasattr(items, "columns"):  # pandas
        if not items.columns.is_unique:
            raise errors.InvalidDataset("has two columns of one name", fix="rename one of them", subject="examples")
        for begin in range(0, len(items), _CHUNK_ROWS):
            yield from items.iloc[begin : begin + _CHUNK_ROWS].to_dict("records")
    elif isinstance(items, Iterable) and not isinstance(items, (str, bytes)):
        for item in items:  # readers of Arrow and pandas yield tables
            yield from _iterate(item) if _is_table(item) else (item,)
    else:
        what = f"is {type(items).__name__}, which has no rows"
        raise errors.InvalidDataset(what, fix=_FORMS, subject="examples")


def _is_table(item: Any) -> bool:
    has = functools.partial(hasattr, item)
    is_of_arrow = has("to_batches") or (has("to_pylist") and has("schema"))
    return is_of_arrow or has("iter_rows") or (has("iloc") and has("columns"))


def _to_plain(value: Any, depth: int, numbers: Iterator[int], outer: tuple[int, ...]) -> Any:
    """Return a value of Python's own types, with None for values that tables use for absent ones.

    Args:
        numbers: numbers of the values of the row.
        outer: identities of the values that hold this one.

    Raises:
        InvalidSpec: the value holds itself, or the row has too many values.
    """
    json_values.take_number(numbers)
    if value is None or isinstance(value, (str, bool, int, float)) or not depth:
        return value
    if id(value) in outer:
        raise errors.InvalidSpec("has a value that holds itself", fix="remove the column that holds it")
    outer = (*outer, id(value))
    if isinstance(value, Mapping):
        return {name: _to_plain(field, depth - 1, numbers, outer) for name, field in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(item, depth - 1, numbers, outer) for item in value]
    if hasattr(value, "tolist"):  # arrays of NumPy and torch
        return _to_plain(value.tolist(), depth - 1, numbers, outer)
    return None if type(value).__name__ in ("NAType", "NaTType") else value
