"""Log of the trouble of what a worker needs: its broker or its store."""

from __future__ import annotations

import logging


class TroubleLog:
    """Log of what is wrong with something, in which each text stands once until it is well again.

    Args:
        action: what the thing is used for.
        about: the thing.
    """

    def __init__(self, log: logging.Logger, action: str, *, about: str = "broker") -> None:
        self._log, self._action, self._about = log, action, about
        self._texts: set[str] = set()

    def add(self, error: Exception | str) -> None:
        """Log an error, unless it was logged before."""
        text = str(error) or type(error).__name__
        if text not in self._texts:
            self._texts.add(text)
            self._log.warning(self._action, extra={"error": text})

    def end(self) -> None:
        """Log that the thing is well again, if it was not."""
        if self._texts:
            self._texts.clear()
            self._log.info(self._action, extra={self._about: "well"})
