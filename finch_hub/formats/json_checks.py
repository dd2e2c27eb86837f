"""Checks of untrusted JSON that Python's parser does not make."""

from __future__ import annotations

import json
from typing import Any

MAX_DEPTH = 64
"""Deepest nesting of a config. Beyond some hundreds, Python code that walks through it raises a RecursionError."""


def parse_object(text: str | bytes, **options: Any) -> dict[str, Any]:
    """Return a JSON object.

    Args:
        options: arguments of :func:`json.loads`.

    Raises:
        ValueError: the text is not a JSON object, is nested too deeply, or has half of a surrogate pair.
    """
    try:
        value = json.loads(text, **options)
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep") from None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    _check(value)
    return value


def _check(value: Any) -> None:
    parts: list[tuple[Any, int]] = [(value, 0)]
    while parts:
        part, depth = parts.pop()
        if isinstance(part, str):
            try:
                part.encode()
            except UnicodeEncodeError:
                raise ValueError("a text has half of a surrogate pair") from None
        elif isinstance(part, (dict, list)):
            if depth == MAX_DEPTH:
                raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
            parts += [(item, depth + 1) for item in part]
            parts += [(item, depth + 1) for item in part.values()] if isinstance(part, dict) else []
