"""Passwords that settings have outside of their URLs: in a variable of their own, or in a file."""

from __future__ import annotations

import os
import select
import stat
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic

FIELDS = ("url", "password", "password_file")  # after the name and an underscore
_MAX_BYTES = 65_536
_FIX = "give the path of a file with the password alone"
_PIPE_SECONDS = 10.0  # for whoever writes to a pipe


class Refusal(ValueError):
    """A value that is refused, at the field that its user changes. The text has no part of a URL or password."""

    def __init__(self, field: str, *, what: str, fix: str) -> None:
        super().__init__(f"{what} ({fix})")
        self.field, self.what, self.fix = field, what, fix


def complete_url(name: str, values: Mapping[str, Any]) -> str | None:
    """Return a URL of the settings with its password, None if there is no URL.

    Args:
        name: name before the underscore of its fields, such as `broker`.
        values: the settings by field, not validated.

    Raises:
        Refusal: URL and password do not fit together, or one cannot be read.
    """
    url, password, file = (_reveal(f"{name}_{field}", values.get(f"{name}_{field}")) for field in FIELDS)
    variable = f"FINCH_{name.upper()}"
    if url is not None:
        _check_encoding(name, url)
    if password is None and file is None:
        return url
    given = f"{name}_password_file" if password is None else f"{name}_password"
    if password is not None and file is not None:
        raise Refusal(given, what=f"is set, and so is {variable}_PASSWORD_FILE", fix="remove one of them")
    if url is None:
        raise Refusal(
            given, what=f"has no effect without {variable}_URL", fix="set the URL too, or remove the password"
        )
    parts = urllib.parse.urlsplit(url)
    if parts.password is not None:
        raise Refusal(given, what=f"is set, but {variable}_URL has a password already", fix="remove one of them")
    if file is not None:
        password = _read_password(given, Path(os.path.expanduser(file)))  # noqa: PTH111 - see settings.expand_home
    user, _, host = parts.netloc.rpartition("@")
    netloc = f"{user}:{urllib.parse.quote(password or '', safe='')}@{host}"
    return urllib.parse.urlunsplit(parts._replace(netloc=netloc))


def _check_encoding(name: str, url: str) -> None:
    """Refuse a URL that was probably cut at a character of its password."""
    try:
        parts = urllib.parse.urlsplit(url)
        is_cut = bool(parts.netloc) and "@" in f"{parts.path}{parts.query}{parts.fragment}"
        _ = parts.port
    except ValueError:
        is_cut = True
    if is_cut:
        fix = "or write @ : / ? # [ ] % of the password as %40 %3A %2F %3F %23 %5B %5D %25"
        fix = f"set its password as FINCH_{name.upper()}_PASSWORD, {fix}"
        raise Refusal(f"{name}_url", what="cannot be read", fix=fix) from None


def _read_password(field: str, file: Path) -> str:
    try:
        data = _read_bounded(field, file)
        password = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise Refusal(field, what=f"{file} is not UTF-8 text", fix=_FIX) from None
    except (OSError, ValueError) as error:
        if isinstance(error, Refusal):
            raise
        what = error.strerror if isinstance(error, OSError) else error
        raise Refusal(field, what=f"could not read {file}: {what}", fix=_FIX) from None
    if not password:
        raise Refusal(field, what=f"{file} is empty", fix=_FIX)
    return password


def _read_bounded(field: str, file: Path) -> bytes:
    """Return the bytes of a file or a pipe. Others may block or never end."""
    fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
            raise Refusal(field, what=f"{file} is neither a file nor a pipe", fix=_FIX)
        poller, data = select.poll(), b""
        poller.register(fd, select.POLLIN)
        while len(data) <= _MAX_BYTES:
            if not poller.poll(_PIPE_SECONDS * 1000):
                raise Refusal(field, what=f"no password came through the pipe {file}", fix=_FIX)
            try:
                read = os.read(fd, _MAX_BYTES + 1 - len(data))
            except BlockingIOError:
                continue
            if not read:
                return data
            data += read
    finally:
        os.close(fd)
    raise Refusal(field, what=f"{file} has more than {_MAX_BYTES:,} bytes", fix=_FIX)


def _reveal(field: str, value: Any) -> str | None:
    """Return the text of a value that was not validated yet."""
    if isinstance(value, pydantic.SecretStr):
        return value.get_secret_value()
    if value is not None and not isinstance(value, str | Path):
        raise Refusal(field, what="is not text", fix="write it between quotes")
    return None if value is None else str(value)
