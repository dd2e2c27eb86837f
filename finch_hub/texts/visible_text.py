"""Texts of strangers as they may be shown: nothing steers a terminal, hides, turns around or forges a line.

Files, data, plugins, models and libraries give texts. Whoever shows one passes it through a function of this module,
just before it is shown. What is stored or computed with keeps the text as it is.

An escaped character looks as in a Python string, such as ``\\x1b``. A text with a real backslash looks the same, so the
result is for people. Programs read JSON, which tells the two apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

# Controls, invisible and unassigned ignorable characters, marks of direction, ends of lines, and halves of surrogate
# pairs. The category of Python's Unicode would also hide new emoji, and would show invisible letters such as U+3164.
_INVISIBLE = (
    r"\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    r"\u3164\ud800-\udfff\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    r"\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"
)
# Joiners, which Persian, Indic scripts and emoji need, and selectors of a variant of a character.
_JOINERS = r"\u200c\u200d"
_SELECTORS = r"\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef"
# One selector and one joiner stay, behind what they can change: none of Latin, Greek, Cyrillic, but signs of emoji.
_NEVER_CHANGED = rf"[\x00-\u058f{_INVISIBLE}{_JOINERS}{_SELECTORS}]"
_WORKING = (
    rf"(?:(?<=[\xa9\xae])|(?<!{_NEVER_CHANGED}))[{_SELECTORS}]?[{_JOINERS}]?"
    rf"(?<=[{_JOINERS}{_SELECTORS}])(?![{_JOINERS}{_SELECTORS}])|(?<=[#*0-9])\ufe0f(?=\u20e3)"
)
_UNSAFE = re.compile(rf"(?:{_WORKING})|([{_INVISIBLE}{_JOINERS}{_SELECTORS}])")
_LINE_KEEPS: frozenset[str] = frozenset()
_BLOCK_KEEPS = frozenset("\n\t")


def to_line(text: object) -> str:
    """Return a text as one line."""
    return _escape(str(text), _LINE_KEEPS)


def to_block(text: object) -> str:
    """Return a text with its newlines and tabs, for a place that nothing of ours stands below or beside."""
    return _escape(str(text).replace("\r\n", "\n"), _BLOCK_KEEPS)


def to_message(text: object, *, indent: str = "  ") -> str:
    """Return a text whose lines after the first are indented, so that none looks like the next message."""
    return re.sub(rf"\n(?!{indent}|\n|\Z)", f"\n{indent}", to_block(text))


def to_json(written: str) -> str:
    """Return JSON of equal value in which characters that must not be shown are escaped."""
    # It has newlines and tabs between its values only.
    return _escape(written, _BLOCK_KEEPS, lambda character: json.dumps(character)[1:-1])


def _write(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _escape(text: str, kept: frozenset[str], write: Callable[[str], str] = _write) -> str:
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(lambda found: found[0] if found[1] is None or found[1] in kept else write(found[1]), text)
