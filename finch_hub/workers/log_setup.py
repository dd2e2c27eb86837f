"""Log format of worker processes."""

from __future__ import annotations

import logging
import logging.handlers
import os
from pathlib import Path

from finch_hub.settings import Settings
from finch_hub.storage.redaction import Redactor

_MAX_FILE_BYTES = 4_900_000  # below 5 MB, because the handler counts the characters of a record and not its bytes


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
    """Log to this handler only, without secrets."""
    from celery import signals

    handler.addFilter(Redactor.of(settings))
    handler.setFormatter(logging.Formatter("%(asctime)s level=%(levelname)s logger=%(name)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in ("celery.app.trace", "celery.worker.strategy", "celery.worker.consumer.connection", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Celery sets up no logging if this signal has a receiver.
    signals.setup_logging.connect(lambda **_: None, weak=False)
