"""Texts as their readers understand them, where characters are escaped, colored, invisible, wide or look-alikes."""

from __future__ import annotations

import bisect
import html
import re
import unicodedata
from collections.abc import Callable

_ALIKE = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u0501\u03bf"
    "\u0410\u0421\u0415\u041a\u041e\u0420\u0405\u0422",
    "aeopcyxijsdoACEKOPST",
)
"""Cyrillic and Greek letters that look like Latin ones."""
_LETTERS = "".join(map(chr, _ALIKE))
_CONTROLS = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
_HIDDEN = r"\xad\u034f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e007f"
_WIDE = r"\uff02-\uff07\uff0a\uff0b\uff0d-\uff5e\U0001d400-\U0001d7ff"  # no marks of sentences, which no secret needs
_SIGN = re.compile(rf"[%&\\{_CONTROLS}{_HIDDEN}{_WIDE}{_LETTERS}]")  # with which each odd spelling begins
_ODD = re.compile(
    rf"(?={_SIGN.pattern})(?:(?P<color>\x1b\[[0-9;?]{{0,32}}[@-~])|(?P<control>[{_CONTROLS}])|(?P<hidden>[{_HIDDEN}]+)"
    r"|(?:%(?:25){0,3}|\\{1,4}(?:x|u00))(?P<code>[2-7][0-9a-fA-F])"
    r"|(?P<entity>&(?:#[0-9]{1,5}|#[xX][0-9a-fA-F]{1,4}|[A-Za-z]{2,8});)"
    rf"|(?P<alike>[{_WIDE}]|(?<=[A-Za-z])[{_LETTERS}]+|[{_LETTERS}]{{1,8}}(?=[A-Za-z])))"
)


def read(text: str) -> tuple[str, Callable[[int], int]]:
    """Return a text without odd spellings, and the function from its positions to those of the text.

    A text that has none is returned itself.
    """
    if _SIGN.search(text) is None:
        return text, int
    parts: list[str] = []
    here: list[int] = []
    there: list[int] = []
    length = done = 0
    for found in _ODD.finditer(text):
        for part, start in ((text[done : found.start()], done), (_read(found), found.start())):
            if part:
                parts.append(part)
                here.append(length)
                there.append(start)
                length += len(part)
        done = found.end()
    if not done:
        return text, int
    here.append(length)
    there.append(done)

    def place(position: int) -> int:
        part = bisect.bisect_right(here, position) - 1
        return min(there[part] + position - here[part], len(text))

    return "".join([*parts, text[done:]]), place


def _read(found: re.Match[str]) -> str:
    spelled = found.group()
    if found["code"]:
        return chr(int(found["code"], 16))
    if found["entity"]:
        character = html.unescape(spelled)
        return character if len(character) == 1 else spelled
    if found["alike"]:
        return unicodedata.normalize("NFKC", spelled).translate(_ALIKE)
    return " " if found["control"] else ""
