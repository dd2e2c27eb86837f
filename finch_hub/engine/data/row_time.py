"""Limit of the time that code of third parties may take for one row: chat templates, tokenizers, converters of plugins.

A template of a base and a converter of a plugin are programs, which need not end. They run in the process that needs
their result, so a timer interrupts them. Some code goes on: code in C does not notice an interrupt, and Python code can
catch it. Where nobody else needs the process, it ends then.
"""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import signal
import threading
import time
from collections.abc import Iterator

from finch_hub import errors

SECONDS = 60
_TICK = 1.0
_ends_process = False


class _Interrupted(BaseException):
    """The time is over. Not an `Exception`, so that no template or plugin takes it for an error of a row."""


@contextlib.contextmanager
def limit_time(code: str, *, row: str, fix: str) -> Iterator[None]:
    """Interrupt the block after `SECONDS`. Time in which the process is suspended does not count.

    Only the main thread can be interrupted. In others there is no limit.

    Args:
        code: name of the code, for the error.
        row: name of the row.
        fix: what users can do.

    Raises:
        TimeLimitReached: the block did not end in time.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ticks, began = itertools.count(1), time.monotonic()

    def tick(*_: object) -> None:
        seconds = next(ticks) * _TICK
        if seconds >= 2 * SECONDS and _ends_process:  # the code catches everything and goes on
            signal.raise_signal(signal.SIGPROF)
        if seconds >= SECONDS:
            raise _Interrupted

    # A suspended process gets one tick, however long it was suspended.
    handler = signal.signal(signal.SIGALRM, tick)
    alarm, interval = signal.setitimer(signal.ITIMER_REAL, _TICK, _TICK)
    if _ends_process:
        signal.setitimer(signal.ITIMER_PROF, 2 * SECONDS)
    try:
        yield
    except _Interrupted:
        raise errors.TimeLimitReached(f"{row}: {code} did not end within {SECONDS:g} s ({fix})") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGALRM, handler)
        if alarm:
            signal.setitimer(signal.ITIMER_REAL, max(alarm - (time.monotonic() - began), 0.001), interval)


@contextlib.contextmanager
def limit_tokenizing(row: str) -> Iterator[None]:
    """Interrupt the block if the chat template or the tokenizer of a base works on a row without end.

    Raises:
        TimeLimitReached: the block did not end in time.
        Incompatible: the tokenizer fails on the row, for example since its regular expression takes too many steps.
    """
    fix = "shorten it, or use a base with another chat template"
    with limit_time("the chat template or the tokenizer of the base", row=row, fix=fix):
        try:
            yield
        except BaseException as error:
            # The tokenizers library raises the first as its error, and the second, which is no `Exception`, on a panic.
            if type(error) is not Exception and type(error).__name__ != "PanicException":
                raise
            reason = str(error).strip().partition("\n")[0]
            other = "shorten or change the text, or use another base"
            what = f"makes the tokenizer of the base fail: {reason}"
            raise errors.Incompatible(what, fix=other, subject=row) from error


def end_stuck_process() -> None:
    """Let SIGPROF end this process when a row takes twice the limit, since interrupts do not end it.

    The traceback goes to standard error. It names the file and the line.
    """
    global _ends_process
    _ends_process = True
    faulthandler.register(signal.SIGPROF, file=2, all_threads=False, chain=True)
