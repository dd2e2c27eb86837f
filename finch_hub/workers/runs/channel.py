"""Channel of a child: its messages to the supervisor, its folder, its stop flag and its loaded base."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import threading
from pathlib import Path
from typing import IO, Any, Literal

from finch_hub import settings
from finch_hub.plugins.catalog import Catalog, load_catalog
from finch_hub.progress import Advance
from finch_hub.specs.events import NewEvent
from finch_hub.workers.runs.model_cache import BaseModelCache

Stop = Literal["cancel", "hand_back"]

CHECKPOINTS = "checkpoints"
"""Folder in an attempt's folder whose files the next attempt inherits."""


class Stopped(BaseException):
    """The order was stopped on request. Not an `Exception`, so that no handler of a plugin takes it for a failure."""

    def __init__(self, why: Stop) -> None:
        super().__init__(why)
        self.why = why


class Channel:
    """Channel of one child, which serves its orders one after another.

    Attributes:
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
        """Return the channel of one of several jobs, with the same pipe and bases, but its own folder and stops."""
        member = copy.copy(self)
        member.workdir, member._tag, member._stop = workdir, {"job": job_id}, None
        return member

    @property
    def workdir(self) -> Path:
        """Folder of this attempt, made at its first use. The next attempt gets its checkpoints."""
        self._workdir.mkdir(parents=True, exist_ok=True)
        return self._workdir

    @workdir.setter
    def workdir(self, folder: Path) -> None:
        self._workdir = folder

    @property
    def checkpoints(self) -> Path:
        """Folder of the attempt's checkpoints."""
        return self.workdir / CHECKPOINTS

    @functools.cached_property
    def catalog(self) -> Catalog:
        """Catalog of the plugins, loaded once for all orders."""
        return load_catalog(settings.load())

    def report(self, event: NewEvent) -> None:
        """Send an event to the supervisor."""
        self.send(type="event", event=event.model_dump())  # mode="json" would turn NaN into null

    def phase(self, name: str) -> None:
        """Report the start of a phase, or raise :class:`Stopped` if the order must stop."""
        self.report(NewEvent.phase(name))
        self.stop_here()

    def should_stop(self) -> Stop | None:
        """Return why the order must stop at its next step, None if it may go on."""
        return self._stop

    def stop_here(self) -> None:
        """Raise :class:`Stopped` if the order must stop."""
        if self._stop:
            raise Stopped(self._stop)

    def advance(self, advance: Advance) -> None:
        """Report how far some work is, or raise :class:`Stopped` if the order must stop."""
        self.report_or_stop(NewEvent.advance(advance))

    def report_or_stop(self, event: NewEvent) -> None:
        """Report an event of work without checkpoints, or raise :class:`Stopped` if the order must stop."""
        self.report(event)
        self.stop_here()

    def send(self, **message: Any) -> None:
        """Send one message. If the supervisor has ended, the child ends soon too."""
        line = json.dumps(message | self._tag, default=str).encode() + b"\n"
        with self._sending, contextlib.suppress(BrokenPipeError):
            self._messages.write(line)
            self._messages.flush()

    def stop(self, why: Stop | None) -> None:
        """Stop the running order at its next step. None forgets the stop of an earlier order."""
        self._stop = why
