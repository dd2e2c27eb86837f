"""Log format of worker processes."""

from __future__ import annotations

import logging
import logging.handlers
from pathlib import Path

from finch_hub.settings import Settings
from finch_hub.storage.redaction import Redactor

_MAX_FILE_BYTES = 4_900_000  # below 5 MB, because the handler counts the characters of a record and not its bytes


def open_log(file: Path) -> logging.Handler:
    """Return a handler that writes to a file, and keeps one earlier file. Both have at most 10 MB."""
    return logging.handlers.RotatingFileHandler(file, maxBytes=_MAX_FILE_BYTES, backupCount=1, encoding="utf-8")


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
