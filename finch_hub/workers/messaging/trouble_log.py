"""Log of a broker's trouble."""

from __future__ import annotations

import logging


class TroubleLog:
    """Log of what is wrong with a broker, in which each text stands once until the broker is well again.

    Args:
        action: what the broker is used for.
    """

    def __init__(self, log: logging.Logger, action: str) -> None:
        self._log, self._action = log, action
        self._texts: set[str] = set()

    def add(self, error: Exception) -> None:
        """Log an error, unless it was logged before."""
        text = str(error) or type(error).__name__
        if text not in self._texts:
            self._texts.add(text)
            self._log.warning("action=%s error=%s", self._action, text)

    def end(self) -> None:
        """Log that the broker is well again, if it was not."""
        if self._texts:
            self._texts.clear()
            self._log.info("action=%s broker=well", self._action)
