"""Names of adapters and references to their versions: `name`, `name/3`, `name@alias`."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from finch_hub import errors

LATEST = "latest"
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?")
_RESERVED = frozenset(
    {LATEST, "base", "none", "con", "prn", "aux", "nul"}
    | {f"com{i}" for i in range(1, 10)}
    | {f"lpt{i}" for i in range(1, 10)}
)


def check_name(name: str, *, kind: str = "adapter") -> str:
    """Return a name that is safe as file name, URL part and reference.

    Raises:
        InvalidReference: the name is empty, longer than 96 characters, reserved, or has characters other than ASCII
            letters, digits and `. _ -`, which neither begin nor end it.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        foreign = next((character for character in name if not character.isascii()), None)
        reason = f": it contains {unicodedata.name(foreign, repr(foreign))}" if foreign else ""
        problem = f"{errors.shorten(name)!r} is not a valid name{reason}"
        fix = "use 1 to 96 ASCII letters, digits and . _ - , with a letter or digit at both ends"
        raise errors.InvalidReference(problem, where=kind, fix=fix)
    if name.split(".")[0].lower() in _RESERVED:
        raise errors.InvalidReference(f"{name!r} is reserved", where=kind, fix="choose another name")
    return name


@dataclass(frozen=True, slots=True)
class AdapterReference:
    """A reference to an adapter version. Without version and alias it means the latest."""

    name: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> AdapterReference:
        """Read `name`, `name/3` or `name@alias`.

        Raises:
            InvalidReference: the text has another form.
        """
        name, slash, version = text.partition("/")
        if slash:
            if not re.fullmatch(r"[1-9][0-9]{0,8}", version):
                what, fix = "what follows the slash is not a version number", "write name/3 or name@alias"
                raise errors.InvalidReference(what, where=errors.shorten(text), fix=fix)
            return cls(check_name(name), version=int(version))
        name, at, alias = text.partition("@")
        if not at or alias == LATEST:
            return cls(check_name(name))
        return cls(check_name(name), alias=check_name(alias, kind="alias"))

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name}/{self.version}"
        return f"{self.name}@{self.alias}" if self.alias else self.name
