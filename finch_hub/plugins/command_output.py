"""Standard output of a command, which holds its result and nothing that a plugin prints."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Iterator
from typing import TextIO


class ClosedOutput(Exception):
    """The reader of standard output has left, as `head` does after its last line."""


_is_owned = False
_kept: TextIO | None = None  # where results go, while `sys.stdout` and the descriptor lead to standard error


def stream() -> TextIO:
    """Return the stream for the result of the running command."""
    return sys.stdout if _kept is None else _kept


@contextlib.contextmanager
def own() -> Iterator[None]:
    """Keep standard output for what is written to :func:`stream`, from the first call of :func:`divert` on."""
    global _is_owned
    if getattr(sys, "stdout", None) is None:  # the process was started without one
        from pathlib import Path  # here, since `--help` needs none

        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open until the process ends
    _is_owned, visible = True, sys.stdout
    try:
        yield
        with end_if_closed():
            stream().flush()
    finally:
        _is_owned = False
        _restore(visible)


@contextlib.contextmanager
def end_if_closed() -> Iterator[None]:
    """Raise `ClosedOutput` if the block ends because the reader of standard output has left.

    Raises:
        ConnectionError: another pipe or connection broke. Click would end silently at a `BrokenPipeError`.
    """
    try:
        yield
    except BrokenPipeError as error:
        if _has_reader():
            raise ConnectionError(str(error)) from error
        raise ClosedOutput from error


def divert() -> None:
    """Let all that is printed from now on go to standard error, in a command that owns its standard output.

    The descriptor is diverted too, so that libraries in C and processes that a plugin starts are covered.
    """
    global _kept
    if not _is_owned or _kept is not None:
        return
    visible = sys.stdout
    visible.flush()
    if _is_descriptor(visible):
        _kept = os.fdopen(  # closed by `_restore`
            os.dup(1), "w", encoding=visible.encoding, errors=visible.errors, buffering=1 if visible.isatty() else -1
        )
        os.dup2(2, 1)
    else:
        _kept = visible
    sys.stdout = sys.stderr


def leave() -> None:
    """Let what plugins print while this process ends go to standard error. The command has written its result."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        os.dup2(2, 1)
    sys.stdout = sys.stderr


def _restore(visible: TextIO) -> None:
    global _kept
    kept, _kept = _kept, None
    if kept is None:
        return
    sys.stdout = visible
    if kept is not visible:
        with contextlib.suppress(OSError, ValueError):
            visible.flush()  # what a plugin wrote to it, before the descriptor leads to the result again
        os.dup2(kept.fileno(), 1)
        with contextlib.suppress(OSError):  # a reader that has left was reported by the flush of the block
            kept.close()


def _has_reader() -> bool:
    poll = select.poll()
    try:
        poll.register(stream(), 0)  # errors are always told
    except (OSError, ValueError):  # replaced by a test or a notebook
        return True
    return not poll.poll(0)


def _is_descriptor(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 1
    except (OSError, ValueError):  # replaced by a test or a notebook
        return False
