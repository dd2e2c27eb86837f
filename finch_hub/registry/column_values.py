"""Checks of values against the types of columns. SQLite stores anything in any column."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from finch_hub.registry.types import UNKNOWN_TIME, Instant, Prose, from_json, make_storable, to_json

_MAX_INT32 = 2**31 - 1


def fits(kind: sa.types.TypeEngine[Any], value: Any) -> bool:
    """Return whether both databases take a value that SQLite stores for a column of this type."""
    if isinstance(kind, sa.Boolean):
        return isinstance(value, int) and value in (0, 1)
    if isinstance(kind, sa.Integer):
        limit = 2**63 - 1 if isinstance(kind, sa.BigInteger) else _MAX_INT32
        return isinstance(value, int) and abs(value) <= limit
    if isinstance(kind, sa.Float):
        return isinstance(value, (int, float)) and math.isfinite(value)
    if not isinstance(value, str) or "\0" in value or not _is_unicode(value):
        return False
    if isinstance(kind, Instant):
        return _is_time(value)
    if isinstance(kind, sa.JSON):
        return _is_json(value)
    if isinstance(kind, sa.String) and not isinstance(kind, sa.Enum):
        return kind.length is None or len(value) <= kind.length
    return isinstance(kind, (Prose, sa.Enum))  # the table's constraint names the members


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_time(text: str) -> bool:
    try:
        return len(text) == len("2026-01-01 00:00:00.000") and datetime.fromisoformat(text).tzinfo is None
    except ValueError:
        return False


def _is_json(text: str) -> bool:
    try:
        value = from_json(text)
        to_json(value)
    except (ValueError, RecursionError):  # nested too deeply for a reader, or for a writer
        return False
    return value is not text


def repair(column: sa.Column[Any], value: Any) -> Any:
    """Return the value that a query returned if both databases take it, otherwise one that they take.

    A document that cannot be read is its text.
    """
    kind = column.type
    if value is None or isinstance(kind, sa.JSON) or (isinstance(kind, Instant) and isinstance(value, datetime)):
        return value
    if not isinstance(kind, Instant) and fits(kind, value):
        return value
    if column.nullable:
        return None
    if isinstance(kind, Instant):
        return UNKNOWN_TIME
    if isinstance(kind, (sa.Integer, sa.Float, sa.Boolean)):
        return 0
    return make_storable(str(value))[: getattr(kind, "length", None)]
