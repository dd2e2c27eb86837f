"""Checks of untrusted JSON that Python's parser does not make."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

_Place = tuple[str | int, "_Place"] | None

MAX_DEPTH = 64
"""Deepest nesting of a config. Beyond some hundreds, Python code that walks through it raises a RecursionError."""


class UnusableTextError(ValueError):
    """Texts with half of a surrogate pair, which neither files nor databases take.

    Attributes:
        places: names of fields and indexes that lead to each text.
    """

    def __init__(self, places: Sequence[tuple[str | int, ...]]) -> None:
        super().__init__("a text has half of a surrogate pair")
        self.places = tuple(places)


def parse_object(text: str | bytes, **options: Any) -> dict[str, Any]:
    """Return a JSON object.

    Args:
        options: arguments of :func:`json.loads`.

    Raises:
        ValueError: the text is not a JSON object, is nested too deeply, or has half of a surrogate pair. Of the last,
            it is an `UnusableTextError`.
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
    # A place is the last name or index, and the place above it: whole paths would be a copy for each part.
    parts: list[tuple[Any, int, _Place]] = [(value, 0, None)]
    unusable: list[_Place] = []
    while parts:
        part, depth, place = parts.pop()
        if isinstance(part, str):
            if not _is_usable(part):
                unusable.append(place)
        elif isinstance(part, (dict, list)):
            if depth == MAX_DEPTH:
                raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
            named = list(part.items() if isinstance(part, dict) else enumerate(part))
            unusable += [(name, place) for name, _ in named if isinstance(name, str) and not _is_usable(name)]
            parts += [(item, depth + 1, (name, place)) for name, item in reversed(named)]
    if unusable:
        raise UnusableTextError([tuple(_unwind(place))[::-1] for place in unusable])


def _unwind(place: _Place) -> Iterator[str | int]:
    while place is not None:
        name, place = place
        yield name


def _is_usable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
