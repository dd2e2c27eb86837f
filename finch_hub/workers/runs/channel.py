"""Channel of a child: its messages to the supervisor, its folder, its stop flag and its loaded base."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import threading
from pathlib import Path
from typing import IO, Any, Literal

from finch_hub.plugins.catalog import Catalog, load_catalog
from finch_hub.specs.events import NewEvent
from finch_hub.workers.runs.model_cache import BaseModelCache

Stop = Literal["cancel", "hand_back"]

CHECKPOINTS = "checkpoints"
"""Folder in an attempt's folder whose files the next attempt inherits."""


class Stopped(BaseException):
    """The order was told to stop, and did; no `Exception`, so that no plugin's handler takes it for a failure."""

    def __init__(self, why: Stop) -> None:
        super().__init__(why)
        self.why = why


class Channel:
    """What a run sees of the world outside: where to report, and whether to stop.

    Attributes:
        bases: keeps the base model that was loaded last, for the next order.
        members: by job id, the channels of jobs that are trained together.
    """

    def __init__(self, messages: IO[bytes]) -> None:
        self._messages = messages
        self._sending = threading.Lock()
        self._stop: Stop | None = None
        self._workdir = Path()
        self.bases = BaseModelCache()
        self.members: dict[str, Channel] = {}
        self._tag: dict[str, str] = {}

    def member(self, job_id: str, workdir: Path) -> Channel:
        """Return the channel of one of several jobs: the same pipe and bases, but its own folder and stops."""
        made = copy.copy(self)
        made.workdir, made._tag, made._stop = workdir, {"job": job_id}, None
        return made

    @property
    def workdir(self) -> Path:
        """Folder of this attempt, made when it is asked for; checkpoints in it are there again for the next attempt."""
        self._workdir.mkdir(parents=True, exist_ok=True)
        return self._workdir

    @workdir.setter
    def workdir(self, folder: Path) -> None:
        self._workdir = folder

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints in the attempt's own."""
        return self.workdir / CHECKPOINTS

    @functools.cached_property
    def catalog(self) -> Catalog:
        """What is installed; gathered once in a child's life."""
        return load_catalog()

    def report(self, event: NewEvent) -> None:
        """Send an event to the supervisor."""
        self.send(type="event", event=event.model_dump())  # mode="json" would turn NaN into null

    def phase(self, name: str) -> None:
        """Report that a phase of the work begins; stops here if it was told to."""
        self.report(NewEvent.phase(name))
        self.stop_here()

    def should_stop(self) -> Stop | None:
        """Return why the work is to end at its next step, None to go on."""
        return self._stop

    def stop_here(self) -> None:
        """Raise :class:`Stopped` if the work is to end."""
        if self._stop:
            raise Stopped(self._stop)

    def report_or_stop(self, event: NewEvent) -> None:
        """Report an event of work that has no checkpoints; it ends here if it was told to."""
        self.report(event)
        self.stop_here()

    def send(self, **message: Any) -> None:
        """Send one message; a supervisor that is gone takes none, and we are about to end."""
        line = json.dumps(message | self._tag, default=str).encode() + b"\n"
        with self._sending, contextlib.suppress(BrokenPipeError):
            self._messages.write(line)
            self._messages.flush()

    def stop(self, why: Stop | None) -> None:
        """Tell the running order to stop; None forgets what an earlier order was told."""
        self._stop = why
