"""Setup of the log of a process."""

from __future__ import annotations

import collections
import contextlib
import functools
import logging
import logging.handlers
import os
import select
import sys
import threading
from pathlib import Path

from finch_hub.settings import LogFormat, LogLevel, Settings
from finch_hub.storage.redaction import Redactor
from finch_hub.workers.logs.formatter import FieldFormatter

_MAX_FILE_BYTES = 4_900_000  # below 5 MB, because the handler counts the characters of a record and not its bytes
_READER_SECONDS = 1.0
_MAX_WAITING_LINES = 100
_VERBOSE_LIBRARIES = ("celery.app.trace", "celery.worker.strategy", "celery.worker.consumer.connection", "alembic")

log = logging.getLogger(__name__)


class LogStream(logging.Handler):
    """Log on standard error. Lines that its reader does not take within a second are left out, and counted.

    The reader may be a log driver that hangs, a terminal that is paused, or a disk that is away. It must not stop a
    worker. So a thread writes, and whoever logs waits for it only when many lines wait, and no longer than that.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines: collections.deque[bytes] = collections.deque()  # the first one is being written
        # Its lock is reentrant: a signal handler may log, or end the process, while the same thread logs.
        self._changed = threading.Condition()
        self._is_stuck = False
        self._num_left_out = 0
        # Without standard error, the next file that the process opens has its number.
        self._fd = sys.__stderr__.fileno() if sys.__stderr__ else None
        if self._fd is not None:
            threading.Thread(target=self._write, args=(self._fd,), name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Have a line written, or leave it out."""
        if self._fd is None:
            return
        try:
            line = self.format(record)
            if self._num_left_out:
                fields = {"left_out": self._num_left_out, "error": "the reader of the log did not take these lines"}
                left_out = log.makeRecord(log.name, logging.WARNING, "", 0, "log", (), None, extra=fields)
                line = f"{self.format(left_out)}\n{line}"
            with self._changed:
                has_room = self._changed.wait_for(lambda: len(self._lines) < _MAX_WAITING_LINES, self._patience)
                if has_room:
                    self._lines.append(f"{line}\n".encode(errors="backslashreplace"))
                    self._changed.notify_all()
                self._is_stuck = not has_room
                self._num_left_out = 0 if has_room else self._num_left_out + 1
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Wait until all lines are written, but not for a reader that takes none. The end of a process calls it."""
        with self._changed:
            first: bytes | None = None
            while self._lines and self._lines[0] is not first:  # each line has the whole time
                first = self._lines[0]
                self._changed.wait_for(functools.partial(self._is_written, first), self._patience)
            self._is_stuck = bool(self._lines)

    def _is_written(self, line: bytes) -> bool:
        return not self._lines or self._lines[0] is not line

    @property
    def _patience(self) -> float:
        return 0.0 if self._is_stuck else _READER_SECONDS

    def _write(self, fd: int) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                left = self._lines[0]
            with contextlib.suppress(OSError):  # nobody reads the log any more
                while left:
                    try:
                        left = left[os.write(fd, left) :]
                    except BlockingIOError:  # another process made the terminal so
                        select.select([], [fd], [])
            with self._changed:
                self._lines.popleft()
                self._changed.notify_all()


class LogFile(logging.handlers.RotatingFileHandler):
    """Log in a file, which keeps one earlier file. Both have at most 10 MB."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, maxBytes=_MAX_FILE_BYTES, backupCount=1, encoding="utf-8")
        self._has_output = False

    def take_output(self) -> None:
        """Let what this process prints go to the file, also after a rotation.

        Otherwise it would go on into the earlier file, and then into one without a name, which nothing bounds.
        """
        self._has_output = True
        stream = self.stream or self._open()
        for number in (1, 2):
            os.dup2(stream.fileno(), number)

    def doRollover(self) -> None:  # noqa: N802 - as the base class names it
        """Begin a new file."""
        super().doRollover()
        if self._has_output:
            self.take_output()


def set_up_logging(settings: Settings, handler: logging.Handler) -> None:
    """Log to this handler only, without the secrets of the settings."""
    log_to(handler, settings.log_format, settings.log_level, Redactor.of(settings))


def log_to(handler: logging.Handler, log_format: LogFormat, log_level: LogLevel, redactor: Redactor) -> None:
    """Log to this handler only. Warnings of Python and exceptions that nobody catches become records too."""
    handler.setFormatter(FieldFormatter(log_format, redactor))
    root, level = logging.getLogger(), getattr(logging, log_level.upper())
    root.handlers[:] = [handler]
    # Never less than this, because libraries write requests with their signatures at the level `debug`.
    root.setLevel(max(level, logging.INFO))
    logging.getLogger("finch_hub").setLevel(level)
    for name in _VERBOSE_LIBRARIES:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(True)
    sys.excepthook = lambda kind, error, trace: log.critical("crash", exc_info=error)
    threading.excepthook = _log_crash_of_thread


def _log_crash_of_thread(crash: threading.ExceptHookArgs) -> None:
    error = crash.exc_value
    if error is not None and not isinstance(error, SystemExit):
        log.critical("crash", extra={"thread_name": crash.thread.name if crash.thread else None}, exc_info=error)
