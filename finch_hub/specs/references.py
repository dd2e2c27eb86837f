"""Names of adapters and references to their versions: `name`, `name/3`, `name@alias`, `team/name`, `team/name/3`."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from finch_hub import errors

LATEST = "latest"
MAX_LENGTH = 96
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
    return _check_part(name, whole=name, kind=kind)


def _check_part(part: str, *, whole: str, kind: str) -> str:
    if not _NAME.fullmatch(part) or ".." in part:
        foreign = next((character for character in part if not character.isascii()), None)
        reason = f": it contains {unicodedata.name(foreign, repr(foreign))}" if foreign else ""
        problem = f"{_show(whole)!r} is not a valid name{reason}"
        fix = "use 1 to 96 ASCII letters, digits and . _ - , with a letter or digit at both ends"
        raise errors.InvalidReference(problem, where=kind, fix=fix)
    if part.split(".")[0].lower() in _RESERVED:
        raise errors.InvalidReference(f"{_show(whole)!r} is reserved", where=kind, fix="choose another name")
    return part


def check_adapter_name(name: str) -> str:
    """Return the name of an adapter, `name` or `team/name`, where each part is a name as `check_name` takes it.

    The part after a slash is not all digits, since `name/3` is a version.

    Raises:
        InvalidReference: the name has another form.
    """
    namespace, slash, rest = name.partition("/")
    if not slash:
        return check_name(name)
    if "/" in rest:
        what = f"{_show(name)!r} has more than one slash"
        raise errors.InvalidReference(what, where="adapter", fix="write name or team/name")
    if len(name) > MAX_LENGTH:
        what = f"{_show(name)!r} has more than {MAX_LENGTH} characters"
        raise errors.InvalidReference(what, where="adapter", fix="choose a shorter name")
    for part in (namespace, rest):
        _check_part(part, whole=name, kind="adapter")
        check_new_name(part)
    return name


def check_new_name(name: str) -> str:
    """Return the name of an adapter that does not exist yet. Earlier hubs allowed names of digits only.

    Raises:
        InvalidReference: the name is all digits.
    """
    if name.isdigit():
        what = f"{name!r} is all digits, which is how versions are written"
        raise errors.InvalidReference(what, where="adapter", fix=f"put a letter into it, such as v{name}")
    return name


@dataclass(frozen=True, slots=True)
class AdapterReference:
    """A reference to an adapter version. Without version and alias it means the latest."""

    name: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> AdapterReference:
        """Read `name`, `name/3` or `name@alias`, where a name may be `team/name`.

        Raises:
            InvalidReference: the text has another form.
        """
        name, at, alias = text.partition("@")
        before, slash, last = name.rpartition("/")
        if at and slash and last.isdigit():
            what, fix = "it has both a version and an alias", "write name/3 or name@alias"
            raise errors.InvalidReference(what, where=_show(text), fix=fix)
        if at or not slash or not (last.isdigit() or not last or "/" in before):
            is_latest = not at or alias == LATEST
            return cls(check_adapter_name(name), alias=None if is_latest else check_name(alias, kind="alias"))
        if not re.fullmatch(r"[1-9][0-9]{0,8}", last):
            what, fix = "what follows the last slash is not a version number", "write name/3 or name@alias"
            raise errors.InvalidReference(what, where=_show(text), fix=fix)
        return cls(check_adapter_name(before), version=int(last))

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name}/{self.version}"
        return f"{self.name}@{self.alias}" if self.alias else self.name


def _show(text: str) -> str:
    """Return a text for a message. Of an address, which may have a password of any form, it has the scheme only."""
    scheme, is_address, _ = text.partition("://")
    return f"{errors.shorten(scheme)}://…" if is_address else errors.shorten(text)
