"""Jobs as their submitters hold them: look, wait, follow, cancel, retry."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from finch_hub import errors
from finch_hub.registry import adapter_versions, jobs, placement, values, workers
from finch_hub.specs.events import Event
from finch_hub.specs.jobs import FINAL, Job, JobResult, JobSpec, JobState
from finch_hub.specs.value import Value
from finch_hub.workers.runs import kinds

if TYPE_CHECKING:
    from finch_hub.storage.stores import Stores
    from finch_hub.workers.messaging.dispatcher import Dispatcher
    from finch_hub.workers.runs.kind import JobKind

T = TypeVar("T")

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 120.0
_ENSURE_SECONDS = 10.0
_PAGE = 500


class JobHandle:
    """One job: what it was when last looked at, and what can be done with it."""

    def __init__(self, job: Job, stores: Stores, dispatcher: Dispatcher) -> None:
        self._job, self._stores, self._dispatcher = job, stores, dispatcher

    def __repr__(self) -> str:
        return f"<JobHandle {self.id} {self._job.kind} {self._job.state}>"

    @property
    def id(self) -> str:
        """The job's id."""
        return self._job.id

    @property
    def _kind(self) -> JobKind[Any, Any, Any]:
        return kinds.kind_of(self._job.kind)

    @property
    def spec(self) -> JobSpec:
        """What was asked for."""
        return self._kind.spec_of(self._job.spec)

    @property
    def state(self) -> JobState:
        """Where the job stands now."""
        return self.refresh().state

    def refresh(self) -> Job:
        """Look the job up again and return it."""
        with self._stores.database.read() as session:
            self._job = jobs.get(session, self.id)
        return self._job

    def wait(self, timeout: float | None = None) -> Job:
        """Return the job once it has ended, looking twice a second.

        Raises:
            TimeoutError: it has not ended after so many seconds.
            Unavailable: the database did not answer for two minutes.

        """
        deadline = None if timeout is None else time.monotonic() + timeout
        for job in self._states():
            if job.state in FINAL:
                return job
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"job {self.id} is still {job.state} after {timeout:g} s")
        raise AssertionError("a job's states never run out")

    def result(self, timeout: float | None = None) -> values.AdapterVersion | Value:
        """Wait for the job and return what it made: an adapter version, or the report of a job that makes none.

        Raises:
            JobFailed: it failed; says why.
            JobCancelled: somebody cancelled it.
            TimeoutError: it has not ended after so many seconds.

        """
        result = self._wait_for_result(timeout)
        if result.adapter is None:
            return self._kind.report.of(result.report)
        with self._stores.database.read() as session:
            return adapter_versions.resolve(session, result.adapter)

    def report(self, timeout: float | None = None) -> Value:
        """Wait for the job and return its evidence: a report of `finch_hub.specs.reports`; an export's is a mapping.

        Raises:
            JobFailed: it failed; says why.
            JobCancelled: somebody cancelled it.
            TimeoutError: it has not ended after so many seconds.

        """
        return self._kind.report.of(self._wait_for_result(timeout).report)

    def events(self, *, after: int = 0, follow: bool = False) -> Iterator[Event]:
        """Yield the job's events with numbers over `after`; with `follow` also those to come, until the job has ended.

        Following looks twice a second at most and survives a database that does not answer for up to two minutes.

        Raises:
            NotFound: there is no such job.
            Unavailable: the database did not answer for that long.

        """
        for job in self._states() if follow else iter((self.refresh(),)):
            # The state was read first, so what is found now of a job that had ended is all there will be.
            page = self._patiently(self._page, after)
            while page:
                yield from page
                after = page[-1].seq
                page = self._patiently(self._page, after) if len(page) == _PAGE else []
            if job.state in FINAL:
                return

    def cancel(self) -> Job:
        """Cancel the job, or ask its worker to; a running one ends within seconds.

        Raises:
            IllegalTransition: it has succeeded or failed already.

        """
        with self._stores.database.write() as session:
            self._job = jobs.request_cancel(session, self.id)
        return self._job

    def retry(self) -> JobHandle:
        """Submit the failed or cancelled job again, as a new job.

        Raises:
            IllegalTransition: it has not failed and was not cancelled.

        """
        with self._stores.database.write() as session:
            job = jobs.retry(session, self.id)
        self._dispatcher.dispatch(job)
        return JobHandle(job, self._stores, self._dispatcher)

    def attempts(self) -> list[values.Attempt]:
        """Return the claims of the job, in order."""
        with self._stores.database.read() as session:
            return jobs.list_attempts(session, self.id)

    def obstacles(self) -> Mapping[str, list[str]]:
        """Return why each living worker can never run the job; empty when one can, or none is known."""
        with self._stores.database.read() as session:
            return placement.list_obstacles(self._job.requirements, workers.find(session))

    def is_unattended(self) -> bool:
        """Tell whether no worker is alive, and none is started on demand."""
        if self._stores.settings.broker_url is None:
            return False
        with self._stores.database.read() as session:
            return workers.count_slots(session) == 0

    def _wait_for_result(self, timeout: float | None) -> JobResult:
        job = self._job if self._job.state in FINAL else self.wait(timeout)
        if job.state is JobState.FAILED:
            raise errors.JobFailed(job.id, job.reason or "no reason was given")
        if job.state is JobState.CANCELLED:
            raise errors.JobCancelled(job.id)
        return JobResult.of(job.result)

    def _page(self, after: int) -> list[Event]:
        with self._stores.database.read() as session:
            return jobs.list_events(session, self.id, after=after, limit=_PAGE)

    def _states(self) -> Iterator[Job]:
        """Yield the job again and again, twice a second; meanwhile the home's own worker is kept alive."""
        ensured = time.monotonic()
        while True:
            yield self._patiently(self.refresh)
            time.sleep(POLL_SECONDS)
            if time.monotonic() - ensured > _ENSURE_SECONDS:
                # Should the worker started on demand have been killed, nobody else would take its jobs up.
                self._dispatcher.ensure_worker()
                ensured = time.monotonic()

    def _patiently(self, look: Callable[..., T], *arguments: int) -> T:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return look(*arguments)
            except errors.SchemaMismatch:
                raise
            except errors.Unavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS * 2)


class Jobs:
    """The jobs of the hub."""

    def __init__(self, stores: Stores, dispatcher: Dispatcher) -> None:
        self._stores, self._dispatcher = stores, dispatcher

    def get(self, job_id: str) -> JobHandle:
        """Return a job by its id.

        Raises:
            NotFound: there is none.

        """
        with self._stores.database.read() as session:
            return JobHandle(jobs.get(session, job_id), self._stores, self._dispatcher)

    def find(
        self,
        *,
        states: Collection[JobState] | None = None,
        kind: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[Job]:
        """Return jobs, newest first; `before` is the id of the last one seen."""
        with self._stores.database.read() as session:
            return jobs.find(session, states=states, kind=kind, limit=limit, before=before)

    def counts(self) -> dict[JobState, int]:
        """Return how many jobs are in each state."""
        with self._stores.database.read() as session:
            return jobs.count(session)

    def prune(self, *, older_than: float | None = None, beyond: int | None = None) -> int:
        """Delete jobs with their events, and return how many; versions and lineage stay.

        Args:
            older_than: those that ended more than so many seconds ago.
            beyond: those that ended before the last so many.

        """
        total = 0
        while True:
            with self._stores.database.write() as session:
                pruned = jobs.prune(session, older_than=older_than, beyond=beyond)
            if not pruned:
                return total
            total += len(pruned)
