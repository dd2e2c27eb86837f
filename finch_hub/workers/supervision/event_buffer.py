"""Events of a worker's attempts that wait to be written, in one transaction for all attempts."""

from __future__ import annotations

import contextlib
import logging
import threading
import time

from finch_hub import errors
from finch_hub.registry import attempts
from finch_hub.registry.database import Database
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import Job

log = logging.getLogger(__name__)

_WAIT_SECONDS = 1.0  # for the events of other attempts
_MAX_EVENTS = 200  # of one attempt
_URGENT = ("metrics", "report")  # a job that continues from a checkpoint does not report them again

_Batches = dict[tuple[str, int], list[NewEvent]]  # by job and fence


class EventBuffer:
    """Buffer of the events of all attempts of a worker.

    Whichever attempt looks first when they are due writes those of all. Events of an attempt that no longer owns its
    job are dropped. Its lease finds that out.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._batches: _Batches = {}
        self._due_at = float("inf")
        self._changing = threading.Lock()
        self._writing = threading.Lock()  # taken before the other one

    def add(self, job: Job, event: NewEvent) -> None:
        """Add an event of the attempt that owns a job."""
        with self._changing:
            events = self._batches.setdefault((job.id, job.fence), [])
            events.append(event)
            is_urgent = event.type in _URGENT or len(events) >= _MAX_EVENTS
            self._due_at = min(self._due_at, time.monotonic() + (0.0 if is_urgent else _WAIT_SECONDS))

    def seconds_until_due(self) -> float:
        """Return the seconds until events are to be written, infinite if there are none."""
        return self._due_at - time.monotonic()

    def write_due(self) -> None:
        """Write all events if any are due. It waits if the database does not answer."""
        if self.seconds_until_due() > 0:
            return
        with self._writing:
            with self._changing:
                if self.seconds_until_due() > 0:  # another thread has written them
                    return
                batches, self._batches, self._due_at = self._batches, {}, float("inf")
            self._write(batches)

    def take(self, job: Job) -> list[NewEvent]:
        """Remove and return the events of an attempt that ends, after waiting for a write of earlier ones."""
        with self._writing, self._changing:
            return self._batches.pop((job.id, job.fence), [])

    def _write(self, batches: _Batches) -> None:
        try:
            with self._database.write() as session:
                for (job_id, fence), events in sorted(batches.items()):
                    with contextlib.suppress(errors.StaleFence):
                        attempts.append_events(session, job_id, fence, events)
        except errors.Unavailable as error:
            log.warning("action=append_events jobs=%d error=%s", len(batches), error)
            self._put_back(batches)
        except Exception:
            if len(batches) == 1:
                log.exception("action=append_events job_id=%s", next(iter(batches))[0])  # these events are lost
                return
            for owner, events in batches.items():  # one attempt's defect must not cost the events of others
                self._write({owner: events})

    def _put_back(self, batches: _Batches) -> None:
        with self._changing:
            for owner, events in batches.items():
                self._batches[owner] = events + self._batches.get(owner, [])
            self._due_at = time.monotonic() + _WAIT_SECONDS
