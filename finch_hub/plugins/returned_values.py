"""Plain values of what the code of plugins returns: reading them runs no code of a plugin, and they are bounded."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

import pydantic

from finch_hub import errors
from finch_hub.plugins import foreign_code
from finch_hub.texts.visible_text import to_line

_MOST_CHARACTERS = 1_000_000  # of a report, in which each value counts for one more
_MOST_LEVELS = 50
_MOST_INTEGER = 10**300


def to_plain(data: Any, *, owner: str, expected: str) -> dict[str, Any]:
    """Return the report or the figures of a plugin as plain JSON values of bounded size.

    Raises:
        PluginError: it is no mapping with names, it is too large, or its code fails.
    """
    with foreign_code.blame(owner):
        unfit = errors.PluginError(f"{owner} returned {to_line(type(data).__name__)}, not {expected}")
        if not issubclass(type(data), Mapping):
            raise unfit
        copy, made = _Copy(owner), {}
        for name, value in data.items():
            if not issubclass(type(name), str):
                raise unfit
            made[copy.text(name)] = copy.of(value, 1)
        return made


class _Copy:
    """Copy of values of a plugin, which counts them and their characters."""

    def __init__(self, owner: str) -> None:
        self._owner, self._room = owner, _MOST_CHARACTERS

    def of(self, value: Any, depth: int = 0) -> Any:
        """Return the copy of a value. What is no JSON becomes its text."""
        kind = type(value)
        self._take(1)
        if value is None or kind in (bool, float):
            return value
        if kind.__module__ == "numpy" and kind.__name__ in ("bool", "bool_"):  # its name depends on the version
            return bool(value)
        if issubclass(kind, numbers.Integral) and abs(int(value)) < _MOST_INTEGER:  # also those of NumPy
            return int(value)
        if issubclass(kind, numbers.Real) and not issubclass(kind, numbers.Integral):
            return float(value)
        if issubclass(kind, pydantic.BaseModel):
            value, kind = value.model_dump(), dict
        if issubclass(kind, Mapping | list | tuple | set | frozenset):
            if depth == _MOST_LEVELS:
                raise errors.PluginError(f"{self._owner} returned more than {_MOST_LEVELS} levels of values")
            if issubclass(kind, Mapping):
                return {self.text(name): self.of(item, depth + 1) for name, item in value.items()}
            return [self.of(item, depth + 1) for item in value]
        return self.text(value)

    def text(self, value: object) -> str:
        """Return the text of a value."""
        text = str.__str__(value if isinstance(value, str) else str(value))
        self._take(len(text))
        return text.encode(errors="backslashreplace").decode()

    def _take(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            raise errors.PluginError(f"{self._owner} returned more than {_MOST_CHARACTERS:,} characters")
