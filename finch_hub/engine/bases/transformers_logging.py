"""Log level and progress bars of transformers."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

from finch_hub.progress import Meter

_FIGURES = re.compile(r"\b([0-9]+)/([0-9]+) \[")


class BarReader(io.StringIO):
    """Stand-in for standard error that tells the progress of the bars that are drawn there."""

    def __init__(self, work: str) -> None:
        super().__init__()
        self._meter, self._done = Meter(work), 0

    def write(self, text: str) -> int:
        """Read the figures of a bar, such as " 12%|# | 33/272 [00:03<00:20]"."""
        if found := _FIGURES.search(text):
            done, self._meter.total = int(found[1]), int(found[2])
            self._meter.add(done - self._done)
            self._done = done
        return len(text)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide progress bars and log messages below errors in this context. Restore both settings afterwards."""
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
