"""Cursors: texts that say where the next page of a list begins. Only the list that gave one takes it."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime

from finch_hub import errors

Key = tuple[str | int | float, ...]
MAX_PAGE = 1000
_MAX_LENGTH = 1000
_CHECK = 12  # characters of the hash


def check_limit(limit: int) -> None:
    """Refuse a number that is not the size of a page.

    Raises:
        InvalidSpec: it is not.
    """
    if not 1 <= limit <= MAX_PAGE:
        what = f"{limit} is not the size of a page"
        raise errors.InvalidSpec(what, where="limit", fix=f"use 1 to {MAX_PAGE:,}, and take the next pages with after")


def write_cursor(scope: str, key: Key) -> str:
    """Return the cursor behind the row with this key, for a list that `scope` names with all that it depends on."""
    written = json.dumps([_hash(scope, key), *key], separators=(",", ":"))
    return base64.urlsafe_b64encode(written.encode()).decode().rstrip("=")


def read_moment(part: str | int | float) -> datetime:
    """Return the time that a part of a key names.

    Raises:
        InvalidSpec: it names none, so that no list gave the cursor.
    """
    try:
        moment = datetime.fromisoformat(str(part))
        if moment.tzinfo is None:
            raise ValueError
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise _refuse() from None


def read_cursor(scope: str, text: str, kinds: tuple[type[str] | type[int] | type[float], ...]) -> Key:
    """Return the key of a cursor.

    Args:
        kinds: types of the key's parts.

    Raises:
        InvalidSpec: the cursor is damaged, or of another list.
    """
    from finch_hub.specs.value import MAX_INTEGER  # late, so that `--help` loads no pydantic

    try:
        if len(text) > _MAX_LENGTH:
            raise ValueError
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        check, *key = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if [type(part) for part in key] != list(kinds) or check != _hash(scope, tuple(key)):
            raise ValueError
        if any(isinstance(part, int) and abs(part) > MAX_INTEGER for part in key):
            raise ValueError
    except (ValueError, TypeError, RecursionError):
        raise _refuse() from None
    return tuple(key)


def _refuse() -> errors.InvalidSpec:
    fix = "take it from the page before, of the same query and order"
    return errors.InvalidSpec("is not a cursor of this list", where="after", fix=fix)


def _hash(scope: str, key: Key) -> str:
    return hashlib.sha256(json.dumps([scope, *key]).encode()).hexdigest()[:_CHECK]
