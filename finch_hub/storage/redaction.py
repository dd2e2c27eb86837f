"""Redaction of passwords in logs, errors and stored events."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Self
from urllib.parse import quote, unquote, urlsplit

if TYPE_CHECKING:
    from finch_hub.settings import Settings

_PASSWORD_IN_URL = re.compile(r"(?P<head>[a-z][a-z0-9+.-]*://[^\s:/@]*:)(?!PASSWORD@)\S+(?=@)", re.IGNORECASE)
# Names of query parameters end with one of these words: `sslpassword`, `X-Amz-Security-Token`, `AccountKey`.
_PASSWORD_IN_QUERY = re.compile(
    r"(?P<head>[?&;][\w.-]*(?:password|passwd|passphrase|secret|token|key|credentials?|signature|sig)=)"
    r"(?P<value>[^\s&;#]+)",
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(r"PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|API_?KEY|ACCESS_?KEY|CREDENTIAL", re.IGNORECASE)
_PATH_NAME = re.compile(r"_(FILE|PATH|DIR|FOLDER)$", re.IGNORECASE)  # the value is the path of a secret, and says more
_MIN_LENGTH = 8  # shorter secrets may equal ordinary words


def redact_url(text: str) -> str:
    """Replace the password of every URL in the text."""
    if "://" not in text:
        return text
    return _PASSWORD_IN_QUERY.sub(r"\g<head>***", _PASSWORD_IN_URL.sub(r"\g<head>***", text))


def _passwords_in(url: str) -> set[str]:
    parts = urlsplit(url)
    values = {match["value"] for match in _PASSWORD_IN_QUERY.finditer(f"?{parts.query}")}
    if parts.password:
        values.add(parts.password)
    return values | {unquote(value) for value in values}


def _spellings(secret: str) -> set[str]:
    """Return a secret as it is, and as URLs, JSON and Python write it."""
    return {secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1], repr(secret)[1:-1]}


def _is_secret(variable: str) -> bool:
    return bool(_SECRET_NAME.search(variable)) and not _PATH_NAME.search(variable)


class Redactor:
    """Replaces passwords of URLs and values of secret environment variables in texts."""

    def __init__(self, *urls: str) -> None:
        secrets = {value for name, value in os.environ.items() if _is_secret(name)}
        for url in urls:
            secrets |= _passwords_in(url)
        spellings = {spelling for secret in secrets if len(secret) >= _MIN_LENGTH for spelling in _spellings(secret)}
        found = sorted(map(re.escape, spellings), key=len, reverse=True)
        self._secrets = re.compile("|".join(found)) if found else None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return a redactor for the secrets of the settings."""
        broker = settings.broker_url.get_secret_value() if settings.broker_url else ""
        return cls(settings.database, settings.artifacts, broker)

    def clean(self, text: str) -> str:
        """Return the text without secrets."""
        text = redact_url(text)
        return self._secrets.sub("***", text) if self._secrets else text
