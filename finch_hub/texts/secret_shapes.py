"""Shapes of secrets in texts: addresses with a login, named values, headers, well-known tokens and private keys.

All patterns take linear time. Each begins with a literal or a bounded look behind, and what was masked is not read
again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from finch_hub.texts import named_secrets, odd_spelling, secret_logins, secret_tokens
from finch_hub.texts.likely_secrets import Span
from finch_hub.texts.named_secrets import is_named_secret

MASK = "***"
_HIDDEN = "\ufffb"  # replaces each character of a secret where positions must stay
_MASKED = re.compile(f"{_HIDDEN}+")
_INNER_NAMES = ("value", "values")  # of a named value in JSON
# One after the other, since what was masked is not read again.
_FINDERS: tuple[Callable[[str], Iterator[Span]], ...] = (
    secret_tokens.find_keys,
    secret_logins.find_logins,
    secret_logins.find_bare_logins,
    secret_logins.find_user_options,
    *secret_logins.PASSWORD_OPTIONS,
    named_secrets.find_named,
    secret_tokens.find_schemed,
    secret_tokens.find_hooks,
    secret_logins.find_parameters,
    secret_tokens.find_tokens,
)


def redact(text: str, *, mask: str = MASK) -> str:
    """Return a text in which a mask replaces everything that has the shape of a secret.

    Shapes that are written oddly are found too, see :func:`odd_spelling.read`.
    """
    text = _redact_plain(text, mask)
    plain, place = odd_spelling.read(text)
    if plain is text:
        return text
    masked = _redact_plain(plain, _HIDDEN)
    return _mask(
        text, ((place(start), place(end)) for start, end in map(re.Match.span, _MASKED.finditer(masked))), mask
    )


def find_secrets(text: str) -> list[str]:
    """Return the parts of a text that have the shape of a secret."""
    return [text[found.start() : found.end()] for found in _MASKED.finditer(_redact_plain(text, _HIDDEN))]


def redact_values(data: Any, clean: Callable[[str], str] = redact, *, name: str = "") -> Any:
    """Return JSON in which all texts are clean, and those under the names of secrets are masked.

    Args:
        clean: returns a text without secrets.
        name: name of the data.
    """
    if isinstance(data, str):
        return MASK if name and is_named_secret(name, data) else clean(data)
    if isinstance(data, list | tuple):
        return [redact_values(item, clean, name=name) for item in data]
    if not isinstance(data, dict):
        return data
    return {
        clean(key) if isinstance(key, str) else key: redact_values(
            value, clean, name=name if key in _INNER_NAMES else str(key)
        )
        for key, value in data.items()
    }


def _redact_plain(text: str, mask: str) -> str:
    for find in _FINDERS:
        text = _mask(text, find(text), mask)
    return text


def _mask(text: str, spans: Iterator[Span], mask: str) -> str:
    parts, done = [], 0
    for start, end in spans:
        if end > start:
            parts += [text[done:start], mask if mask != _HIDDEN else _HIDDEN * (end - start)]
            done = end
    if not parts:
        return text
    return "".join([*parts, text[done:]])
