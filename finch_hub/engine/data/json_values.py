"""JSON values of rows: parsed from text, without nulls, and with a stable order of keys."""

from __future__ import annotations

import ast
import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from finch_hub import errors

MAX_DEPTH = 64
"""Deepest nesting of what is stored. Readers of JSON have limits of their own, from 128 on."""
MAX_VALUES = 2**20
"""Most values of a row at all depths. A list that holds another one twice, and so on, has a number beyond memory."""
MAX_INTEGER_BITS = 4096
"""Longest integer that is stored. Python refuses to write one of more than 4,300 digits."""
_MAX_LITERAL = 2**20  # characters; Python's parser takes hundreds of bytes for each
# Arrow gives all objects of a column one order of keys. Schemas and calls get the order in which they are documented,
# so that a table and its JSON Lines are one data set. Names of parameters keep their own order.
_ORDER = (
    *("id", "type", "function", "name", "description", "title", "text", "strict"),
    *("parameters", "arguments", "properties", "required", "items", "enum"),
)
_RANKS = {name: rank for rank, name in enumerate(_ORDER)}


def parse(text: str) -> Any:
    """Parse JSON text.

    Raises:
        ValueError: the text is not JSON, is nested too deeply, or an object has a key twice.
    """
    try:
        return DECODER.decode(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has a key twice")
    return value


def _unique_or_damage(pairs: list[tuple[str, Any]]) -> dict[str, Any] | ValueError:
    try:
        return _unique(pairs)
    except ValueError as error:
        return error


def _int(text: str) -> int:
    try:
        return int(text)
    except ValueError:  # its text advises to lift the limit of Python
        raise ValueError("a number has thousands of digits") from None


def _int_or_damage(text: str) -> int | ValueError:
    try:
        return _int(text)
    except ValueError as error:
        return error


DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_int)
TOLERANT = json.JSONDecoder(object_pairs_hook=_unique_or_damage, parse_int=_int_or_damage)
"""Decoder with a `ValueError` in the place of each part that cannot be used."""


def find_damage(value: Any) -> ValueError | None:
    """Return a `ValueError` that a value of `TOLERANT`, or a part of it at any depth, is."""
    parts = [value]
    while parts:  # a list of what is left, because Python limits the depth of calls
        part = parts.pop()
        if isinstance(part, ValueError):
            return part
        if isinstance(part, (dict, list)):
            parts += reversed(part.values() if isinstance(part, dict) else part)  # so that the first one is found
    return None


def is_null(value: object) -> bool:
    """Tell whether a value is absent: None, or the number that tables use for it."""
    return value is None or (isinstance(value, float) and value != value)


def is_absent(value: object) -> bool:
    """Tell whether a value says nothing: null, or an empty text or collection. 0 and false say something."""
    return is_null(value) or is_empty(value)


def is_empty(value: object) -> bool:
    """Tell whether a value is an empty text or collection."""
    return isinstance(value, (str, list, tuple, dict)) and not value


def drop_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that are not null."""
    return {name: field for name, field in value.items() if not is_null(field)}


def clean(value: Any, *, keeps_nulls: bool = False) -> Any:
    """Return a value of JSON whose objects, at any depth, have no nulls. Arrow fills absent keys with nulls.

    Raises:
        InvalidSpec: the value is not JSON, or is nested too deeply.
    """
    return _clean(value, keeps_nulls, MAX_DEPTH, count_values())


def count_values() -> Iterator[int]:
    """Return the numbers of the values of a row, of which :func:`take_number` takes the next one."""
    return iter(range(MAX_VALUES))


def take_number(numbers: Iterator[int]) -> None:
    """Count a value of a row.

    Raises:
        InvalidSpec: the row has too many values.
    """
    if next(numbers, None) is None:
        what = f"has more than {MAX_VALUES:,} values, or a value that holds itself"
        raise errors.InvalidSpec(what, fix="remove the column that holds them")


def _clean(value: Any, keeps_nulls: bool, depth: int, numbers: Iterator[int]) -> Any:
    take_number(numbers)
    if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
        raise errors.InvalidSpec("holds an integer of more than 1,200 digits", fix="write it as a text")
    if value is None or isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if depth == 0:
        raise errors.InvalidSpec(f"is nested more than {MAX_DEPTH} deep", fix="write the inner part as a text")
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise errors.InvalidSpec(f"has a key that is {type(name).__name__}", fix="write keys as texts")
        fields = value if keeps_nulls else drop_nulls(value)
        return {name: _clean(field, keeps_nulls, depth - 1, numbers) for name, field in fields.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item, keeps_nulls, depth - 1, numbers) for item in value]
    shown = value if isinstance(value, float) else type(value).__name__
    raise errors.InvalidSpec(f"holds {shown}, which is not JSON", fix="write it as a text")


def order_keys(value: Any, *, are_names: bool = False) -> Any:
    """Return a schema or a call with its keys in one order. Arguments keep their order.

    Args:
        are_names: whether the keys of the value are names of parameters, which keep their order.
    """
    if isinstance(value, list):
        return [order_keys(item) for item in value]
    if not isinstance(value, dict):
        return value
    names = list(value) if are_names else sorted(value, key=lambda name: _RANKS.get(name, len(_RANKS)))
    return {
        name: value[name]
        if name in ("arguments", "enum", "default", "examples") and not are_names
        else order_keys(value[name], are_names=name == "properties" and not are_names)
        for name in names
    }


def parse_literal(text: str) -> Any:
    """Return the list that a text holds as Python code, as pandas writes lists to CSV. Otherwise return the text."""
    if text[:1] == "[" and len(text) < _MAX_LITERAL:
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            return ast.literal_eval(text)
    return text


def parse_list(value: Any) -> Any:
    """Return what a JSON text holds, and other values as they are. pandas writes lists in CSV as Python does."""
    if not isinstance(value, str):
        return value
    try:
        return parse(value)
    except ValueError:
        return parse_literal(value)


def clean_item(value: Any, where: str, *, keeps_nulls: bool = False) -> Any:
    """Return the JSON of an item, whose problems name its place."""
    try:
        return clean(value, keeps_nulls=keeps_nulls)
    except errors.InvalidSpec as error:
        raise errors.InvalidSpec(
            [errors.Problem(what=problem.what, where=where, fix=problem.fix) for problem in error.problems]
        ) from None


def take(fields: dict[str, Any], *names: str) -> Any:
    """Remove the first of these fields that is there, and return its value."""
    for name in names:
        if name in fields:
            return fields.pop(name)
    return None
