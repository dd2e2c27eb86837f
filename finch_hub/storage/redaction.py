"""Redaction of secrets that this process knows, in logs, errors and stored events."""

from __future__ import annotations

import base64
import contextlib
import functools
import html
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, quote_plus, unquote, urlsplit

from finch_hub import logins
from finch_hub.texts.likely_secrets import is_plain
from finch_hub.texts.secret_shapes import MASK, find_secrets, redact, redact_values

if TYPE_CHECKING:
    from finch_hub.settings import Settings

# Names of environment variables: words anywhere in them, and words between underscores.
_SECRET_NAME = re.compile(
    r"PASSWOR[DT]|PASSWD|PASSPHRASE|SECRET|CREDENTIAL|API_?KEY|ACCESS_?KEY|TOKEN(?!IZ|S_)|(?:^|_)(?:PASS|PWD|CREDS)\d*(?:_|$)"
    r"|(?:PASS|PWD|(?<!V)PW)\d*$|(?P<weak>(?:^|_)(?:KEYS?|AUTH|SAS|PAT|COOKIE|SIGNATURE|SIG|JWT|PIN)\d*(?:_|$)|KEY$)",
    re.IGNORECASE,
)
_NOT_SECRET = re.compile(r"(?:OLD)?PWD|.*_(?:FILE|PATH|DIR|FOLDER)", re.IGNORECASE)  # their values are paths
_MIN_LENGTH = 8  # shorter secrets may equal ordinary words
_MIN_MIXED_LENGTH = 5  # of those with letters and others, as words of their own
_MAX_WORD = 15  # letters of a word, such as `postgres` or `production`, that is no secret by the name of its variable
_NUMBERED = re.compile(r"[A-Za-z]+[._-]?[0-9]+")  # such as `sha256` and `utf-8`
_MIN_LINE = 16  # of a line of a secret with several, such as a private key


def _find_in_url(url: str) -> Iterator[str]:
    """Yield the secrets of an address, as it has them."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return
    login, at, _ = parts.netloc.rpartition("@")
    user, colon, password = login.partition(":")
    if password:
        yield password
    elif at and not colon and redact(url) != url:
        yield user
    for parameter in re.split(r"[&;]", f"{parts.query}&{parts.fragment}"):
        name, _, value = parameter.partition("=")
        if value and redact(f"?{name}=x0X-{'x' * 8}").endswith(MASK):
            yield value


def _find_in_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        found = list(_SECRET_NAME.finditer(name))
        if found and not _NOT_SECRET.fullmatch(name) and not _is_path(value):
            strong = [match for match in found if match["weak"] is None]
            is_sure = any(name[match.end() :].strip("_0123456789") == "" for match in strong)
            if is_sure or not _is_ordinary(value):  # `SECRET_BACKEND=kubernetes`
                yield from _find_in_named(value, is_weak=not strong)
        yield from _find_in_any(value)


def _find_in_named(value: str, *, is_weak: bool) -> Iterator[str]:
    """Yield the secrets in the value of a variable whose name is that of a secret."""
    parts = re.split(r"[,;\s]+", value)
    if is_weak and value[:1].isalpha() and all(part.isalpha() or is_plain(part) for part in parts):
        return  # `SORT_KEYS=creation_time,name`
    yield value
    yield from _find_in_json(value)
    if not is_weak:
        yield from (part for part in parts if len(part) >= _MIN_LINE)


@functools.lru_cache(maxsize=1000)
def _find_in_any(value: str) -> frozenset[str]:
    """Return what has the form of a secret in the value of any variable."""
    found = find_secrets(value)
    last_words = (secret.split()[-1] for secret in found if secret.split())  # `Bearer` is no part of it
    return frozenset((*found, *last_words, *(_find_in_url(value) if "://" in value else ())))


def _is_path(value: str) -> bool:
    """Tell whether the value of a variable such as `SSL_KEY` or `SSH_AUTH_SOCK` names a file."""
    with contextlib.suppress(OSError, ValueError):
        return value.startswith("/") and Path(value).exists()
    return False


def _find_in_json(value: str) -> Iterator[str]:
    """Yield the texts of a JSON object, such as the credentials of a service account, that are long enough."""
    if not value.lstrip().startswith("{"):
        return
    with contextlib.suppress(ValueError, RecursionError, AttributeError):
        yield from (text for text in json.loads(value).values() if isinstance(text, str) and len(text) >= _MIN_LINE)


def _spell(secret: str) -> set[str]:
    """Return a secret as it is, and as URLs, JSON, Python and headers write it."""
    plain = {secret, unquote(secret)}
    quoted = {write(text) for text in plain for write in (lambda text: quote(text, safe=""), quote, quote_plus)}
    quoted |= {re.sub(r"%[0-9A-F]{2}", lambda found: found.group().lower(), text) for text in quoted}
    written = {part for text in plain for part in (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])}
    written |= {repr(text)[1:-1] for text in plain} | {json.dumps(text)[1:-1] for text in written}
    lines = {line.strip() for text in plain for line in text.splitlines() if len(line.strip()) >= _MIN_LINE}
    written |= {html.escape(text) for text in plain} | {repr(text.encode(errors="replace"))[2:-1] for text in plain}
    written |= {text.replace("/", "\\/") for text in written}
    return (
        plain | quoted | written | lines | {code for text in plain for code in _encode(text.encode(errors="replace"))}
    )


def _encode(secret: bytes) -> Iterator[str]:
    """Yield a secret in base64, wherever it stands among other bytes, and as hexadecimal digits."""
    for before in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            code = encode(bytes(before) + secret).decode()
            yield code[(0, 2, 3)[before] : len(code.rstrip("=")) - (1 if code.endswith("=") else 0)]
    yield from (secret.hex(), secret.hex().upper())


class Redactor:
    """Replaces the secrets of URLs, environment variables and the netrc file, and all that looks like a secret."""

    def __init__(self, *urls: str) -> None:
        secrets = {*_find_in_environment(), *logins.list_passwords()}
        for url in urls:
            secrets.update(_find_in_url(url))
        long = {text for secret in secrets if len(secret) >= _MIN_LENGTH for text in _spell(secret)}
        mixed = {text for text in secrets if _MIN_MIXED_LENGTH <= len(text) < _MIN_LENGTH and _is_mixed(text)}
        found = [re.escape(text) for text in sorted(long, key=len, reverse=True) if len(text) >= _MIN_LENGTH]
        found += [rf"(?<!\w){re.escape(text)}(?!\w)" for text in sorted(mixed, key=len, reverse=True)]
        self._secrets = re.compile("|".join(found)) if found else None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return a redactor for the secrets of the settings."""
        broker = settings.broker_url.get_secret_value() if settings.broker_url else ""
        return cls(settings.database, settings.artifacts, broker)

    def clean(self, text: str) -> str:
        """Return the text without secrets."""
        text = self._secrets.sub(MASK, text) if self._secrets else text
        return redact(text)

    def clean_values(self, data: Any) -> Any:
        """Return JSON whose texts have no secrets."""
        return redact_values(data, self.clean)


def _is_ordinary(text: str) -> bool:
    """Tell whether a text is a word of lower-case or upper-case letters, or a short one with a number."""
    if len(text) < _MIN_LENGTH and _NUMBERED.fullmatch(text):
        return True
    return len(text) <= _MAX_WORD and text.isalpha() and (text[1:].islower() or text.isupper())


def _is_mixed(text: str) -> bool:
    return any(c.isalpha() for c in text) and not text.isalpha()
