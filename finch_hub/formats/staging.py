"""Folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finch_hub import errors
from finch_hub.formats.tensor_file import is_full

RECORD = "finch.json"


@contextlib.contextmanager
def staged(out: Path, *, kind: str, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `out` that takes its name when the block ends well, and vanishes otherwise.

    Every file is flushed to the disk before the folder gets its name. Folders left behind by killed processes are
    removed. The block writes a ``finch.json`` whose `kind` is the one given (see :func:`write_record`).

    Args:
        out: the final folder; an empty one may stand there.
        kind: what is being made; only a folder of the same kind is replaced.
        replace: whether an earlier one of ours may be replaced.

    Raises:
        Conflict: something stands there that may not be replaced.
        Unavailable: the disk is full or the place cannot be written.

    """
    out = Path(os.path.abspath(out))  # noqa: PTH100  - a link that leads nowhere stays one, and is refused
    with translated(out):
        if out.exists():
            out = out.resolve()  # what a link leads to is replaced, not the link
    check_target(out, kind=kind, replace=replace)
    with translated(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(out)
        folder, lock = _claimed(out)
    try:
        with translated(out):
            yield folder
            _flush(folder)
            _publish(folder, out, kind=kind, replace=replace)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextlib.contextmanager
def translated(out: Path) -> Iterator[None]:
    """Turn the operating system's errors about writing `out` into ours.

    Raises:
        Unavailable: the disk is full or the place cannot be written.

    """
    try:
        yield
    except OSError as error:
        what = "there is no space left" if is_full(error) else f"cannot be written: {error.strerror or error}"
        raise errors.Unavailable(f"{out}: {what}; nothing is left of the attempt") from error


def check_target(out: Path, *, kind: str, replace: bool) -> None:
    """Check that a folder may be made here.

    Raises:
        Conflict: something stands there that may not be replaced.

    """
    if not os.path.lexists(out) or (out.is_dir() and not out.is_symlink() and not any(out.iterdir())):
        return
    if record_of(out).get("made") != kind:
        raise errors.Conflict(f"{out} exists and is no earlier {kind} of ours; name another place, or remove it")
    if not replace:
        raise errors.Conflict(
            f"{out} holds an earlier {kind}; name another place, or ask to replace it (replace, --replace)"
        )


def record_of(folder: Path) -> Mapping[str, Any]:
    """Return the ``finch.json`` of a folder, empty where there is none that can be read."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def name_of(folder: Path) -> str:
    """Return the name that a folder's ``finch.json`` gives it; without one the folder's own."""
    return str(record_of(folder).get("name") or folder.name)


def write_record(folder: Path, kind: str, record: Mapping[str, Any]) -> None:
    """Write the ``finch.json`` of a folder: of which kind it is, and what else is to be known of it."""
    (folder / RECORD).write_text(
        json.dumps({"made": kind, **record}, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )


def _claimed(out: Path) -> tuple[Path, int]:
    """Make a folder beside `out` and lock it for life, which tells it from an abandoned one."""
    while True:
        folder = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
        folder.mkdir()
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue  # another writer took it for abandoned before it was locked
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder, lock
        os.close(lock)


def _publish(folder: Path, out: Path, *, kind: str, replace: bool) -> None:
    check_target(out, kind=kind, replace=replace)  # again: the work took a while
    if not out.exists() or not any(out.iterdir()):
        folder.rename(out)
        _fsync(out.parent)
        return
    old = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
    lock = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # nobody shall take it for abandoned while it may have to come back
        out.rename(old)
        try:
            folder.rename(out)
        except OSError:
            old.rename(out)
            raise
        _fsync(out.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        os.close(lock)


def _flush(folder: Path) -> None:
    for root, _, files in os.walk(folder):
        for name in files:
            _fsync(Path(root, name))
        _fsync(Path(root))


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove_abandoned(out: Path) -> None:
    for folder in out.parent.glob(f".{glob.escape(out.name)}.*.part"):
        try:
            fd = os.open(folder, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(fd)
