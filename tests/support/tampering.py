"""Installed as `sitecustomize` into the workers of the tests, and so into their children: a wrong clock, a full disk.

``FINCH_TEST_CLOCK=SECONDS`` puts what Python sees of the wall clock off by so much.
``FINCH_TEST_OPEN=ACTION:FILE:PATTERN`` does something to whoever opens a path in which the pattern is found, the
first time (whoever creates the file first) or, with an empty file name, every time: ``stop`` (SIGSTOP to itself),
``kill`` (SIGKILL to itself), ``full`` (an OSError as of a full disk) or ``hang`` (it never returns). ``readonly``
raises an OSError as of a file system that cannot be written, to whoever opens such a path to write it while the file
exists.
``FINCH_TEST_IMPORT=FILE:MODULE`` ends a process that runs this module while the file exists, as a broken library would.
"""

from __future__ import annotations

import datetime
import errno
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any


def put_clock_off(seconds: float) -> None:
    """Wrap what tells the time of day."""
    real_time, real_ns = time.time, time.time_ns
    time.time = lambda: real_time() + seconds
    time.time_ns = lambda: real_ns() + int(seconds * 1e9)
    offset = datetime.timedelta(seconds=seconds)

    class Datetime(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return super().now(tz) + offset

    datetime.datetime = Datetime  # type: ignore[misc]


def tamper_with_opening(action: str, once: str, pattern: str) -> None:
    """Break whoever opens a certain file; auditing sees every open of Python's."""
    wanted = re.compile(pattern)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        path = arguments[0] if event == "open" else None
        if not isinstance(path, str) or path == once or not wanted.search(path):
            return
        if action == "readonly":
            if Path(once).exists() and arguments[2] & (os.O_WRONLY | os.O_RDWR):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            return
        if once:
            try:
                os.close(os.open(once, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            except FileExistsError:
                return
        if action == "hang":
            while True:
                time.sleep(60)
        if action == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.kill(os.getpid(), signal.SIGSTOP if action == "stop" else signal.SIGKILL)

    sys.addaudithook(hook)


if "FINCH_TEST_CLOCK" in os.environ:
    put_clock_off(float(os.environ["FINCH_TEST_CLOCK"]))
if "FINCH_TEST_OPEN" in os.environ:
    tamper_with_opening(*os.environ["FINCH_TEST_OPEN"].split(":", 2))
if "FINCH_TEST_IMPORT" in os.environ:
    while_exists, module = os.environ["FINCH_TEST_IMPORT"].split(":")
    if module in sys.orig_argv and Path(while_exists).exists():
        sys.exit("ImportError: libbroken.so: cannot open shared object file")
