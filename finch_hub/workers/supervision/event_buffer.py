"""Events of a worker's attempts that wait to be written, in one transaction for all attempts."""

from __future__ import annotations

import logging
import operator
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from finch_hub import errors
from finch_hub.registry import attempts
from finch_hub.registry.database import Database, Session
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import Job

log = logging.getLogger(__name__)

_WAIT_SECONDS = 1.0  # for the events of other attempts
_MAX_EVENTS = 200  # of one attempt
_URGENT = ("metrics", "report")  # a job that continues from a checkpoint does not report them again

_Owner = tuple[str, int]  # a job and the fence of its attempt


@dataclass
class Batch:
    """Events of one attempt that wait to be written.

    Attributes:
        num_written: number of the events that were written before.
        is_uncertain: whether the first of `events` may be written, since the database did not answer a commit.
    """

    job: Job
    events: list[NewEvent] = field(default_factory=list)
    num_written: int = 0
    is_uncertain: bool = False

    def find_unwritten(self, session: Session) -> list[NewEvent]:
        """Return the events without those that a commit without an answer has written.

        Raises:
            StaleFence: the attempt no longer owns the job.
        """
        if not self.is_uncertain:
            return self.events
        return self.events[attempts.count_events(session, self.job) - self.num_written :]


class EventBuffer:
    """Buffer of the events of all attempts of a worker.

    Whichever attempt looks first when they are due writes those of all. Events of an attempt that no longer owns its
    job are dropped. Its lease finds that out.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._batches: dict[_Owner, Batch] = {}
        self._due_at = float("inf")
        self._changing = threading.Lock()
        self._writing = threading.Lock()  # taken before the other one

    def add(self, job: Job, event: NewEvent) -> None:
        """Add an event of the attempt that owns a job."""
        with self._changing:
            batch = self._batches.setdefault((job.id, job.fence), Batch(job))
            batch.events.append(event)
            is_urgent = event.type in _URGENT or len(batch.events) >= _MAX_EVENTS
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
                self._due_at = float("inf")
                parts = {owner: (batch, len(batch.events)) for owner, batch in self._batches.items() if batch.events}
            self._write(parts)

    def take(self, job: Job) -> Batch:
        """Remove and return the events of an attempt that ends, after waiting for a write of earlier ones."""
        with self._writing, self._changing:
            return self._batches.pop((job.id, job.fence), Batch(job))

    def forget(self, job: Job) -> None:
        """Drop the events of an attempt that lost its job. This waits for nothing."""
        with self._changing:
            self._batches.pop((job.id, job.fence), None)

    def _write(self, parts: Mapping[_Owner, tuple[Batch, int]]) -> None:
        """Write the first events of some batches, given with their numbers. Others may be added meanwhile."""
        stale: list[_Owner] = []
        is_written = True
        try:
            with self._database.write() as session:
                for owner, (batch, size) in sorted(parts.items(), key=operator.itemgetter(0)):
                    first = Batch(batch.job, batch.events[:size], batch.num_written, batch.is_uncertain)
                    try:
                        attempts.append_events(session, batch.job, first.find_unwritten(session))
                    except errors.StaleFence:
                        stale.append(owner)
        except errors.Unavailable as error:  # perhaps after the commit
            log.warning("append_events", extra={"jobs": len(parts), "error": error})
            with self._changing:
                for batch, _ in parts.values():
                    batch.is_uncertain = True
                self._due_at = time.monotonic() + _WAIT_SECONDS
            return
        except Exception:
            if len(parts) > 1:
                for owner, part in parts.items():  # one attempt's defect must not cost the events of others
                    self._write({owner: part})
                return
            log.exception("append_events", extra={"job_id": next(iter(parts))[0]})  # these events are lost
            is_written = False
        with self._changing:
            for batch, size in parts.values():
                del batch.events[:size]
                batch.num_written += size if is_written else 0
                batch.is_uncertain = False
            for owner in stale:
                self._batches.pop(owner, None)
