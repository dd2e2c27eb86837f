"""Sender of wake-up messages: used by clients after a submission, and by workers for jobs that are due."""

from __future__ import annotations

import collections
import contextlib
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.registry import deployment, outbox, placement, values, workers
from finch_hub.registry.database import Database
from finch_hub.settings import Settings
from finch_hub.specs.jobs import Job, JobState
from finch_hub.workers.messaging import broker
from finch_hub.workers.supervision import fault_points
from finch_hub.workers.supervision.trouble_log import TroubleLog

if TYPE_CHECKING:
    import celery

log = logging.getLogger(__name__)


class UnreachableBrokerWarning(UserWarning):
    """A job was submitted, but its wake-up message could not be sent."""


_BATCH = 1000
_FEW = 16  # messages to send without counting the slots
_AGAIN_SECONDS = 60.0  # until the next message for a job that is still queued
_RETRY_SECONDS = 10.0  # until the next try if the broker does not answer


class Dispatcher:
    """Sends the wake-up messages of queued jobs.

    A message is sent after the transaction of the job was committed, and again until a worker claims the job. So
    neither a crash in between nor a broker that loses all messages leaves a job behind. A second message does no harm.

    Args:
        starts_worker: whether to start the home's own worker if no broker is configured.
    """

    def __init__(self, settings: Settings, database: Database, *, starts_worker: bool = True) -> None:
        self._settings, self._database = settings, database
        self._starts_worker = starts_worker and settings.broker_url is None
        if settings.broker_url is not None:
            broker.refuse_open_broker(settings.broker_url.get_secret_value(), allow_insecure=settings.allow_insecure)
        self._trouble = TroubleLog(log, "dispatch")
        self._app: celery.Celery | None = None
        self._code: str | None = None

    def dispatch(self, *new: Job) -> None:
        """Send messages for jobs whose transaction was just committed.

        With nothing configured this also starts the private broker and worker if none runs. A broker that does not
        answer causes a warning, not an error. The jobs are stored, and a worker's sweep sends messages for jobs that no
        worker claimed within some seconds. So this call needs no commit of its own.
        """
        self.ensure_worker()
        try:
            self._send_for_jobs({job.id: job.requirements.queue for job in new if job.state is JobState.QUEUED})
        except errors.Unavailable as error:
            text = f"the jobs are stored and start when the broker is back: {error}"
            warnings.warn(text, UnreachableBrokerWarning, stacklevel=2)

    def dispatch_due(self) -> int:
        """Send messages for the queued jobs that are due by the database's clock. Return their number."""
        with self._database.read() as session:
            if not outbox.has_due(session):
                return 0
        with self._database.write() as session:
            due = outbox.take_due(
                session, limit=_BATCH, again_seconds=min(_AGAIN_SECONDS, self._settings.lease_seconds)
            )
        if not due:
            return 0
        fault_points.reach("dispatch.held")
        try:
            if self._send_for_jobs(due):
                self._trouble.end()
                return len(due)
        except errors.Unavailable as error:
            self._trouble.add(error)
        with self._database.write() as session:
            outbox.postpone(session, due, seconds=_RETRY_SECONDS)
        return 0

    def wake_fitting(self, job: Job, candidates: Sequence[values.Worker]) -> list[str]:
        """Wake the active workers that can run a job, and return their names.

        A shared queue may deliver the message of a job to a worker that cannot run it. Busy workers find the job when a
        slot becomes free.

        Raises:
            Unavailable: the broker does not answer.
        """
        fit = [
            worker
            for worker in candidates
            if worker.state == "active"
            and worker.remark is None
            and placement.can_run(worker, job.requirements)
            and not placement.list_unreadable(job, worker)
        ]
        self._send([("", broker.own_queue_name(worker.id)) for worker in fit for _ in range(worker.slots)])
        return [worker.id for worker in fit]

    def ensure_worker(self) -> None:
        """Start the home's own worker if none runs and no broker is configured. Repeated calls are cheap."""
        if self._starts_worker:
            from finch_hub.workers.embedded import code_version
            from finch_hub.workers.embedded import worker as home_worker

            self._code = self._code or code_version.current()
            home_worker.ensure(self._settings, code=self._code)

    def _send_for_jobs(self, queues: Mapping[str, str]) -> bool:
        """Send messages for jobs, given with their queues. Return False if the private broker does not run yet."""
        if not queues:
            return True
        if self._starts_worker:
            from finch_hub.workers.embedded import broker as home_broker

            if not home_broker.answers(self._settings):
                return False  # the worker that was just started looks for jobs when it is ready
        self._send([(job_id, broker.queue_name(queue)) for job_id, queue in self._limit_to_slots(queues)])
        return True

    def _limit_to_slots(self, queues: Mapping[str, str]) -> list[tuple[str, str]]:
        """Return the jobs to send messages for, per queue no more than there are slots.

        A slot that is awake works until no job is left, so further messages would find nothing to do.
        """
        if len(queues) <= _FEW:
            return list(queues.items())
        with self._database.read() as session:
            limit = max(_FEW, workers.count_slots(session))
        counts = collections.Counter[str]()
        limited = []
        for job_id, queue in queues.items():
            counts[queue] += 1
            if counts[queue] <= limit:
                limited.append((job_id, queue))
        return limited

    def _send(self, messages: Sequence[tuple[str, str]]) -> None:
        """Send one message for each job id and queue of the broker."""
        from finch_hub.workers.messaging import app

        is_new = self._app is None
        try:
            self._publish(messages)
        except app.BROKER_ERRORS as error:
            # A new connection finds a server that was started again, or that took over the name.
            self.close()
            if is_new:
                raise broker.explain(error, self._url) from error
            self._send(messages)

    def _publish(self, messages: Sequence[tuple[str, str]]) -> None:
        app = self._celery()
        with app.producer_or_acquire() as producer:
            for job_id, queue in messages:
                app.send_task(
                    broker.WAKE,
                    args=[job_id],
                    queue=queue,
                    producer=producer,
                    declare=[],
                    retry=False,
                    ignore_result=True,
                )

    def close(self) -> None:
        """Close the connections to the broker."""
        if self._app is not None:
            used, self._app = self._app, None
            with contextlib.suppress(Exception):  # of a connection that is broken already
                used.close()

    def _celery(self) -> celery.Celery:
        if self._app is None:
            from finch_hub.workers.messaging import app

            with self._database.read() as session:
                self._app = app.make_app(self._url, deployment=deployment.find_id(session))
        return self._app

    @property
    def _url(self) -> str:
        from finch_hub.workers.embedded import broker as home_broker

        return home_broker.url(self._settings)
