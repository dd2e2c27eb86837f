"""Addresses without credentials, which may be stored and shown."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from finch_hub import errors
from finch_hub.texts.secret_shapes import MASK, redact, redact_values

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""Begin of an address. A path of Python has lost the second slash."""
_MARK = "\ufffc"  # in no address
_PARAMETER = re.compile(rf"(?<=[?&;])[^?&;#=]*=[^&;#]*{_MARK}[^&;#]*[&;]?")
_LOGIN = re.compile(rf"(?:(?<=/)|^):?{_MARK}@|:{_MARK}(?=@)|{_MARK}")
_LOOSE_END = re.compile(r"[?&;]+(?=#|$)")


def strip_credentials(address: str) -> str:
    """Return an address without password, token and signature. A local path stays as it is."""
    if address.startswith(("/", "./", "../", "~")):
        return address
    marked = redact(address, mask=_MARK)
    if _MARK not in marked:
        return address
    return _LOOSE_END.sub("", _LOGIN.sub("", _PARAMETER.sub("", marked))) or MASK


def refuse_credentials(address: str, *, where: str) -> None:
    """Refuse an address that has a password, a token or a signature. The message has none of them.

    Raises:
        InvalidSpec: the address has credentials.
    """
    bare = strip_credentials(address)
    if bare == address:
        return
    host = _find_host(bare)
    raise errors.InvalidSpec(
        f"{bare} was given with credentials, which are not stored with an address",
        where=where,
        fix=f"give it without them, and write the login of {host} into ~/.netrc here and on the machines of workers",
    )


def refuse_secrets(parameters: object, *, where: str) -> None:
    """Refuse parameters of a job that have the shapes or the names of secrets. The message has no value.

    Raises:
        InvalidSpec: parameters look like secrets; has a problem for each.
    """
    problems = [
        errors.Problem(
            where=name,
            what="looks like a secret, and the parameters of a job are stored and shown",
            fix="let the plugin read it from an environment variable of the worker, or from a file",
        )
        for name in _find_changed(parameters, redact_values(parameters), where)
    ]
    if problems:
        raise errors.InvalidSpec(problems)


def _find_changed(before: Any, after: Any, where: str) -> list[str]:
    if before == after:
        return []
    if isinstance(before, dict) and before.keys() == after.keys():
        keys = before.keys() - {"system"}  # a text for the model, as training data is
        return [name for key in sorted(keys) for name in _find_changed(before[key], after[key], f"{where}.{key}")]
    return [where]


def _find_host(address: str) -> str:
    try:
        return urlsplit(address).hostname or "its host"
    except ValueError:
        return "its host"
