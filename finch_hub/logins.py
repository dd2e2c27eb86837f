"""Logins of hosts, from the user's netrc file."""

from __future__ import annotations

import netrc
import os
import stat
from pathlib import Path
from urllib.parse import urlsplit

import pydantic

from finch_hub import errors
from finch_hub.specs.value import Value

_MAX_BYTES = 2**20


class Login(Value):
    """User and password for a host. The password is not printed."""

    user: str
    password: pydantic.SecretStr


def find_login(address: str) -> Login | None:
    """Return the login for the host of an address, None if there is none.

    It is read from the file that the environment variable `NETRC` names, or else from `~/.netrc`.

    Raises:
        InvalidSpec: the file is not a netrc file.
    """
    try:
        host = urlsplit(address).hostname
    except ValueError:
        return None
    found = _read_file()
    entry = found.authenticators(host) if found is not None and host else None
    if entry is None or not entry[2]:
        return None
    return Login(user=entry[0] or "", password=pydantic.SecretStr(entry[2]))


def list_passwords() -> list[str]:
    """Return all passwords of the file; none if it cannot be read."""
    try:
        found = _read_file()
    except errors.InvalidSpec:
        return []
    return [] if found is None else [password for _, _, password in found.hosts.values() if password]


def _read_file() -> netrc.netrc | None:
    file = Path(os.environ.get("NETRC") or os.path.expanduser("~/.netrc"))  # noqa: PTH111 - users may have no home
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:  # a pipe or a device may never end
            raise netrc.NetrcParseError("")
        return netrc.netrc(file)
    except OSError:
        return None
    except (netrc.NetrcParseError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, netrc.NetrcParseError) and error.lineno else ""
        fix = "write `machine HOST login USER password PASSWORD` for each host"
        raise errors.InvalidSpec("is not a netrc file", where=f"{file}{line}", fix=fix) from None
