"""Ring for the jobs that are due: what a client does after it has submitted, and every worker once a sweep."""

from __future__ import annotations

import collections
import contextlib
import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.registry import outbox, values, workers
from finch_hub.registry.database import Database
from finch_hub.settings import Settings
from finch_hub.specs.jobs import Job, JobState
from finch_hub.workers.messaging import broker
from finch_hub.workers.supervision import fault_points

if TYPE_CHECKING:
    import celery

log = logging.getLogger(__name__)


class UnreachableBrokerWarning(UserWarning):
    """A job was submitted, and its broker could not be told."""


_BATCH = 1000
_FEW = 16  # messages that are sent without a look at how many slots there are
_AGAIN_SECONDS = 60.0  # until those are rung for again who are still queued
_RETRY_SECONDS = 10.0  # until those are rung for again for whom nobody could be rung


class Dispatcher:
    """Sends the wake-ups that the database says are due.

    A job is rung for after its transaction has committed, and again until somebody claims it, so neither a crash in
    between nor a broker that loses everything leaves a job behind. Ringing twice does no harm.

    Args:
        starts_worker: with no broker configured, start the home's own worker when there is work; a worker's own
            dispatcher does not.

    """

    def __init__(self, settings: Settings, database: Database, *, starts_worker: bool = True) -> None:
        self._settings, self._database = settings, database
        self._starts_worker = starts_worker and settings.broker_url is None
        if settings.broker_url is not None:
            broker.refuse_open_broker(settings.broker_url.get_secret_value(), allow_insecure=settings.allow_insecure)
        self._app: celery.Celery | None = None
        self._code: str | None = None

    def dispatch(self, *new: Job) -> None:
        """Ring for jobs that were just submitted; call it after their transaction has committed.

        With nothing configured this also starts the private broker and worker if none runs. A broker that does not
        answer is no error but a warning: the jobs are stored, and a worker's sweep rings for them once it does. It does
        so too for those that nobody has claimed some seconds later, so that ringing here needs no note of it, and no
        commit.
        """
        self.ensure_worker()
        try:
            self._ring({job.id: job.requirements.queue for job in new if job.state is JobState.QUEUED})
        except errors.Unavailable as error:
            text = f"{error}; what was submitted is stored, and runs once it does"
            warnings.warn(text, UnreachableBrokerWarning, stacklevel=2)

    def dispatch_due(self) -> int:
        """Ring for queued jobs whose wake-up is due, by the database's clock; return for how many."""
        with self._database.read() as session:
            if not outbox.any_due(session):
                return 0
        with self._database.write() as session:
            due = outbox.due(session, limit=_BATCH, again_seconds=min(_AGAIN_SECONDS, self._settings.lease_seconds))
        if not due:
            return 0
        fault_points.at("dispatch.held")
        try:
            if self._ring(due):
                return len(due)
        except errors.Unavailable as error:
            log.warning("action=ring jobs=%d error=%s", len(due), error)
        with self._database.write() as session:
            outbox.put_off(session, due, seconds=_RETRY_SECONDS)
        return 0

    def wake(self, worker: str, *, times: int) -> None:
        """Ring one worker for nothing in particular: its idle slots look what there is.

        Raises:
            Unavailable: the broker does not answer.

        """
        from finch_hub.workers.messaging.app import own_queue_name

        self._publish([("", own_queue_name(worker))] * times)

    def pass_on(self, job: Job, found: Sequence[values.Worker]) -> list[str]:
        """Ring those of the workers that a queued job fits, and return their names; for one whom it does not fit.

        A shared queue gives its message to anybody. Whoever is busy finds the job by itself when a slot becomes free.

        Raises:
            Unavailable: the broker does not answer.

        """
        from finch_hub.workers.messaging.app import own_queue_name

        fit = [worker for worker in found if worker.state == "active" and workers.fits(job.requirements, worker)]
        self._publish([("", own_queue_name(worker.id)) for worker in fit for _ in range(worker.slots)])
        return [worker.id for worker in fit]

    def ensure_worker(self) -> None:
        """Start the home's own worker if none runs and no broker is configured; cheap to call again."""
        if self._starts_worker:
            from finch_hub.workers.embedded import code_version
            from finch_hub.workers.embedded import worker as home_worker

            self._code = self._code or code_version.current()
            home_worker.ensure(self._settings, code=self._code)

    def _ring(self, due: Mapping[str, str]) -> bool:
        if not due:
            return True
        if self._starts_worker:
            from finch_hub.workers.embedded import broker as home_broker

            if not home_broker.answers(self._settings):
                return False  # the worker that was just started looks for itself as soon as it is ready
        from finch_hub.workers.messaging.app import queue_name

        self._publish([(job_id, queue_name(queue)) for job_id, queue in self._bells(due)])
        return True

    def _bells(self, due: Mapping[str, str]) -> list[tuple[str, str]]:
        """Return one message for each job, but not more for a queue than there are slots.

        A slot that is awake works until nothing is left; further messages would only be found, one by one, to be late.
        """
        if len(due) <= _FEW:
            return list(due.items())
        with self._database.read() as session:
            most = max(_FEW, workers.count_slots(session))
        rung = collections.Counter[str]()
        bells = []
        for job_id, queue in due.items():
            rung[queue] += 1
            if rung[queue] <= most:
                bells.append((job_id, queue))
        return bells

    def _publish(self, bells: Iterable[tuple[str, str]]) -> None:
        import kombu.exceptions

        from finch_hub.workers.messaging.app import WAKE

        try:
            app = self._celery()
            with app.producer_or_acquire() as producer:
                for job_id, queue in bells:
                    app.send_task(WAKE, args=[job_id], queue=queue, producer=producer, retry=False, ignore_result=True)
        except (kombu.exceptions.KombuError, OSError) as error:
            raise broker.explain(error, self._url) from error

    def close(self) -> None:
        """Close the connections to the broker."""
        if self._app is not None:
            with contextlib.suppress(OSError):
                self._app.close()
            self._app = None

    def _celery(self) -> celery.Celery:
        if self._app is None:
            from finch_hub.workers.messaging import app

            self._app = app.make_app(self._url)
        return self._app

    @property
    def _url(self) -> str:
        if self._settings.broker_url is not None:
            return self._settings.broker_url.get_secret_value()
        from finch_hub.workers.embedded import broker as home_broker

        return home_broker.url(self._settings)
