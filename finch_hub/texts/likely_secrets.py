"""What the shapes of secrets have in common: which values are likely to be one, and which only stand for one."""

from __future__ import annotations

import re

Span = tuple[int, int]
PLACEHOLDER = re.compile(
    r"\*+|x+|\.+|…|<[\w .:-]*>|(?-i:\$[A-Z_][A-Z0-9_]*)|\$?\{[\w.]*\}?|%s|%\(\w+\)s|none|null|nil|true|false|undefined"
    r"|(?-i:[A-Z_]*(?:PASSWORD|SECRET|TOKEN|KEY|YOUR|HERE|VALUE)[A-Z_]*)",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"[\w.~+/=%:@!-]+")
WORD = re.compile(r"[A-Za-z]?[a-z]*|\W*")
_IDENTIFIER = re.compile(r"[A-Z]?[a-z]*(?:[._][A-Z]?[a-z]*)+")  # only one way to match a text


def looks_random(value: str) -> bool:
    """Tell whether a value is more than a word, a number or a special token."""
    is_token = len(value) >= 8 and _TOKEN.fullmatch(value)
    return bool(is_token) and any(c.isalpha() for c in value) and not is_plain(value)


def is_plain(value: str) -> bool:
    """Tell whether a value is a word, a name of code or made of signs."""
    return bool(WORD.fullmatch(value) or _IDENTIFIER.fullmatch(value))


def find_stop(pattern: re.Pattern[str], text: str, start: int) -> int:
    """Return where a pattern is found first, or the end of the text."""
    found = pattern.search(text, start)
    return len(text) if found is None else found.start()
