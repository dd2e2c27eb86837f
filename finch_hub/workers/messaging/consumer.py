"""Consumer of wake-up messages, which outlives whatever its broker does."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Any

from celery.worker import consumer, state

from finch_hub.workers.messaging import broker
from finch_hub.workers.messaging.app import BROKER_ERRORS
from finch_hub.workers.supervision.trouble_log import TroubleLog

log = logging.getLogger(__name__)

_RETRY_SECONDS = 2.0
_STOP_SECONDS = 0.1  # between looks for a stop while it waits
_WELL_SECONDS = 5.0  # without trouble; a broker answers a worker that waits for messages every second


class Consumer(consumer.Consumer):  # type: ignore[misc]  # Celery has no types
    """Celery's consumer, which connects again after every error, until the worker is told to stop.

    By itself it does so after errors of the connection. It ends the worker if a broker answers but refuses commands,
    since its memory is full or it became a replica, or if a message cannot be read. And it logs each attempt.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.connection: Any
        super().__init__(*args, **kwargs)
        self.connection_errors = (Exception,)
        self._trouble = TroubleLog(log, "consume")
        self._well: Any = None

    def ensure_connected(self, connection: Any) -> Any:
        """Connect once. Celery's own loop waits for the broker without a look at this class's log."""
        connection.connect()
        return connection

    def on_ready(self) -> None:
        """Expect that the broker is well."""
        super().on_ready()
        self._well = self.timer.call_after(_WELL_SECONDS, self._trouble.end)

    def on_connection_error_before_connected(self, error: Exception) -> None:
        """Wait a moment for the broker."""
        self._recover(error)

    def on_connection_error_after_connected(self, error: Exception) -> None:
        """Close the connection, since a new one may lead to another server, and wait a moment."""
        connection, self.connection = self.connection, None
        for close in (connection.collect, connection.close):
            with contextlib.suppress(Exception):
                close()
        self._recover(error)

    def _recover(self, error: Exception) -> None:
        if self._well is not None:
            self._well.cancel()
        is_of_broker = isinstance(error, BROKER_ERRORS)
        self._trouble.add(broker.explain(error, self.conninfo.as_uri()) if is_of_broker else error)
        retry_at = time.monotonic() + _RETRY_SECONDS
        while time.monotonic() < retry_at:
            state.maybe_shutdown()
            time.sleep(_STOP_SECONDS)
