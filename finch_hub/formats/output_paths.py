"""Paths of new folders, as users name them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from finch_hub import errors
from finch_hub.specs.addresses import ADDRESS, strip_credentials

_FIX = "name a new folder"
_SUFFIX = "0" * 16  # as long as the longest one of the temporary names in `atomic_writes`


def find_output(out: str | Path) -> Path:
    """Return the absolute path of a folder that is to be written.

    Raises:
        InvalidSpec: no folder is named, or an address, the folder is protected, or this user cannot write there.
    """
    refuse_unnamed(out)
    if ADDRESS.match(str(out)):
        what = f"{strip_credentials(str(out))} is an address, and nothing is uploaded"
        raise errors.InvalidSpec(what, fix=_FIX)
    try:
        path = Path(os.path.abspath(os.path.expanduser(out)))  # noqa: PTH100, PTH111 - resolve() would follow links
        str(path).encode()  # databases store no other text
        parent = find_existing(path.parent)
        for name in (*path.relative_to(parent).parts, f".{path.name}.{_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                (parent / name).lstat()  # a name within a folder that is missing could be of any length
    except UnicodeEncodeError:
        raise errors.InvalidSpec("is not UTF-8", where=str(out), fix="choose another name") from None
    except OSError as error:  # the name is too long, a folder may not be entered, or the working directory is gone
        what = f"cannot be used: {error.strerror}"
        raise errors.InvalidSpec(what, where=str(out), fix="choose another path") from None
    refuse_protected(path)
    if not parent.is_dir():
        raise errors.InvalidSpec(f"{parent} is not a folder", where=str(path), fix=_FIX)
    if not os.access(parent, os.W_OK | os.X_OK):
        fix = "choose another folder, or change the permissions of that one"
        raise errors.InvalidSpec(f"this user cannot write to {parent}", where=str(path), fix=fix)
    return path


def refuse_unnamed(path: str | Path) -> None:
    """Refuse an empty path, which would mean the working directory.

    Raises:
        InvalidSpec: no folder is named.
    """
    if not str(path).strip() or "\0" in str(path):
        raise errors.InvalidSpec("no folder is named", fix="write its path")


def refuse_protected(path: Path) -> None:
    """Refuse a folder that holds the working directory or the user's home. An output would take its place.

    Raises:
        InvalidSpec: the folder is protected.
    """
    real = Path(os.path.realpath(path))
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises for users without one
    for name, folder in (("your home folder", home), ("the working directory", _find_working())):
        if folder is None or not Path(os.path.realpath(folder)).is_relative_to(real):
            continue
        what = f"is {name}" if real == Path(os.path.realpath(folder)) else f"contains {name}"
        raise errors.InvalidSpec(what, where=str(path), fix=f"{_FIX} in it" if len(real.parts) > 1 else _FIX)


def find_existing(path: Path) -> Path:
    """Return the path, or the nearest of its parents that exists."""
    return next(folder for folder in (path, *path.parents) if os.path.lexists(folder))


def _find_working() -> Path | None:
    try:
        return Path.cwd()
    except FileNotFoundError:  # it was removed
        return None
