"""Files and folders that appear complete or not at all."""

from __future__ import annotations

import contextlib
import contextvars
import errno
import fcntl
import filecmp
import fnmatch
import glob
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from finch_hub import errors
from finch_hub.formats.finch_record import read_record, sign_record
from finch_hub.formats.output_paths import refuse_protected
from finch_hub.specs.options import write_options

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_job_id = contextvars.ContextVar[str | None]("job_id", default=None)


@contextlib.contextmanager
def write_for(job_id: str) -> Iterator[None]:
    """Let atomic folders belong to a job: each names it in its ``finch.json``, and the job may replace it.

    An earlier attempt of the job may have published the folder without telling it. A folder that anybody else has
    published since is kept.
    """
    token = _job_id.set(job_id)
    try:
        yield
    finally:
        _job_id.reset(token)


@contextlib.contextmanager
def atomic_file(path: Path, *, is_private: bool = False) -> Iterator[Path]:
    """Yield a temporary path. Flush the file there after the block and rename it to `path`.

    Args:
        is_private: whether other users cannot read it, otherwise the umask decides.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        yield temporary
        if is_private:
            temporary.chmod(0o600)
        flush_path(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    """Write a file that other users cannot read, in place.

    Raises:
        OSError: the file cannot be written.
    """
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(text.encode())


@contextlib.contextmanager
def atomic_folder(out: Path, *, kind: str, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder and rename it to `out` if the block succeeds.

    Otherwise, remove it. All files are flushed to the disk before the rename, and get the permissions of the folder.
    Those are of the umask, unless the block has changed them. Temporary folders of killed processes are removed. The
    block writes a ``finch.json`` of this `kind` (see `finch_hub.formats.finch_record`).

    Args:
        out: the final folder, missing or empty.
        kind: what the folder holds; only a folder of the same kind is replaced.
        replace: whether an earlier folder of this kind may be replaced. One of the same job always may.

    Raises:
        InvalidSpec: the path is the working directory, the user's home, or contains them.
        Conflict: the path exists and may not be replaced.
        Unavailable: the disk is full or the path cannot be written.
    """
    out = Path(os.path.abspath(out))  # noqa: PTH100 - resolve() would follow a dangling link, which is refused
    with translate_write_errors(out):
        if out.exists():
            out = out.resolve()  # replace the target of a link, not the link
    check_replaceable(out, kind=kind, replace=replace)
    with translate_write_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(out.parent, glob.escape(out.name))
        folder, lock = _make_locked(out)
    try:
        with translate_write_errors(out):
            yield folder
            if (job_id := _job_id.get()) is not None:
                sign_record(folder, job_id)
            _flush(folder)
            _publish(folder, out, kind=kind, replace=replace)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextlib.contextmanager
def atomic_output(out: Path) -> Iterator[Path]:
    """Yield a new path of the same name, in a temporary folder, and rename what the block writes there to `out`.

    It may be a file or a folder. An earlier attempt may have published the same without telling it, so that equal bytes
    at `out` are kept, and a folder of the same job is replaced.

    Raises:
        Conflict: something else is at `out`.
        Unavailable: the disk is full or the path cannot be written.
    """
    with translate_write_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(out.parent, glob.escape(out.name))
        folder, lock = _make_locked(out)
    try:
        made = folder / out.name
        yield made
        if not os.path.lexists(made):
            return
        with translate_write_errors(out):
            if made.is_dir():
                if (job_id := _job_id.get()) is not None:
                    sign_record(made, job_id)
                _flush(made)
            else:
                flush_path(made)
            if _are_equal(made, out):
                return
            if _job_id.get() is not None and read_record(out).get("job") == _job_id.get():
                _publish(made, out, kind=read_record(out).get("made", ""), replace=True)
                return
            if out.is_dir() and not out.is_symlink() and not any(out.iterdir()):
                out.rmdir()
            elif os.path.lexists(out):
                fix = "choose another path or delete it"
                raise errors.Conflict(f"the path {out} exists and is not an output of this job ({fix})")
            made.rename(out)
            flush_path(out.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _are_equal(one: Path, other: Path) -> bool:
    """Return whether two files, or all files of two folders, have the same names and bytes."""
    if one.is_symlink() or other.is_symlink() or one.is_dir() != other.is_dir():
        return False
    if not one.is_dir():
        return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)
    names = {path.name for path in one.iterdir()}
    return names == {path.name for path in other.iterdir()} and all(
        _are_equal(one / name, other / name) for name in names
    )


@contextlib.contextmanager
def scratch_folder(place: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `place` for this user, and remove it. Those of killed processes are removed, too.

    Raises:
        Unavailable: the disk is full, also during the block.
        OSError: the folder cannot be made.
    """
    with _translate_full_disk(place.parent):
        remove_abandoned(place.parent, glob.escape(place.name))
        folder, lock = _make_locked(place)
        try:
            folder.chmod(0o700)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


@contextlib.contextmanager
def _translate_full_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        what = f"could not write below {folder}: no space left (free some space there)"
        raise errors.Unavailable(what) from error


def temporary_place() -> Path:
    """Return the place of this user's scratch folders in the system's folder for temporary files."""
    return Path(tempfile.gettempdir()) / f"finch-hub-{os.getuid()}"


@contextlib.contextmanager
def translate_write_errors(out: Path) -> Iterator[None]:
    """Turn the operating system's errors about writing `out` into `Unavailable`. Those about a source name it.

    Raises:
        Unavailable: the disk is full, the path cannot be written, or a source of it cannot be read.
    """
    try:
        yield
    except OSError as error:
        why = "no space left" if is_disk_full(error) else error.strerror or error
        if not is_disk_full(error) and isinstance(error.filename, str | os.PathLike):
            source = Path(os.path.abspath(error.filename))  # noqa: PTH100 - resolve() would follow links
            if not _is_of(source, Path(os.path.abspath(out))):  # noqa: PTH100
                raise errors.Unavailable(f"could not read {source}: {why} (nothing was left behind)") from error
        advice = "free some space there, or choose another path; " if is_disk_full(error) else ""
        raise errors.Unavailable(f"could not write {out}: {why} ({advice}nothing was left behind)") from error


def _is_of(path: Path, out: Path) -> bool:
    """Tell whether a path is in an output, in a temporary folder beside it, or is one of their parents."""
    begin = str(out.with_name(f".{out.name}."))
    return path.is_relative_to(out) or out.is_relative_to(path) or str(path).startswith(begin)


def is_disk_full(error: Exception) -> bool:
    """Tell whether an error says that the disk, quota or file-size limit is exceeded.

    The safetensors library raises an error of its own, and tokenizers a bare `Exception`, whose texts end with the
    number. Errors of other classes do not count, since their texts may quote a file.
    """
    if isinstance(error, OSError):
        return error.errno in _FULL
    is_of_rust = type(error) is Exception or type(error).__module__.startswith("safetensors.")
    return is_of_rust and str(error).endswith(tuple(f"(os error {number})" for number in _FULL))


def check_replaceable(out: Path, *, kind: str, replace: bool) -> None:
    """Check that a folder of this kind may be written at a path.

    Raises:
        InvalidSpec: the path is the working directory, the user's home, or contains them.
        Conflict: the path exists and may not be replaced.
    """
    refuse_protected(out)
    if not os.path.lexists(out) or (out.is_dir() and not out.is_symlink() and not any(out.iterdir())):
        return
    record = read_record(out)
    if record.get("made") != kind:
        raise errors.Conflict(f"the path {out} exists and is not an earlier {kind} (choose another path or delete it)")
    if not replace and (_job_id.get() is None or record.get("job") != _job_id.get()):
        fix = f"choose another path, or replace it: {write_options({'replace': True})}"
        raise errors.Conflict(f"the path {out} holds an earlier {kind} ({fix})")


def _make_locked(out: Path) -> tuple[Path, int]:
    """Make a folder beside `out` and lock it; the lock shows that its process lives."""
    while True:
        folder = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
        folder.mkdir()
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue  # another writer removed the folder as abandoned before it was locked
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder, lock
        os.close(lock)


def _publish(folder: Path, out: Path, *, kind: str, replace: bool) -> None:
    check_replaceable(out, kind=kind, replace=replace)  # again, since the work took a while
    if not out.exists() or not any(out.iterdir()):
        folder.rename(out)
        flush_path(out.parent)
        return
    old = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
    lock = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # otherwise another writer would remove it, and it may have to come back
        out.rename(old)
        try:
            folder.rename(out)
        except OSError:
            old.rename(out)
            raise
        flush_path(out.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        os.close(lock)


def _flush(folder: Path) -> None:
    """Flush all files, and give them the permissions of the folder: what was copied has those of its source."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    for root, _, files in os.walk(folder):
        for name in files:
            _flush_with_mode(Path(root, name), mode & 0o666)
        _flush_with_mode(Path(root), mode)


def _flush_with_mode(path: Path, mode: int) -> None:
    if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)
    flush_path(path)


def flush_path(path: Path) -> None:
    """Flush a file or folder to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_abandoned(parent: Path, name: str = "*") -> None:
    """Remove the temporary folders of killed processes in a folder: all, or those beside a path of this name."""
    for abandoned in list_abandoned(parent, name):
        with abandoned as folder:
            shutil.rmtree(folder, ignore_errors=True)


def list_abandoned(parent: Path, name: str = "*") -> Iterator[contextlib.AbstractContextManager[Path]]:
    """Yield the temporary folders of killed processes in a folder, each locked until the end of its `with` block.

    A living process holds the lock of its folder.
    """
    # Many times faster than Path.glob, and the folder may hold the outputs of many jobs.
    for found in fnmatch.filter((path.name for path in parent.iterdir()) if parent.is_dir() else (), f".{name}.*.part"):
        folder = parent / found
        with contextlib.ExitStack() as stack:
            try:
                # Whatever else has such a name, perhaps of another user, is neither followed nor waited for.
                fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                stack.callback(os.close, fd)
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            yield _locked(folder, stack.pop_all())


@contextlib.contextmanager
def _locked(folder: Path, stack: contextlib.ExitStack) -> Iterator[Path]:
    with stack:
        yield folder
