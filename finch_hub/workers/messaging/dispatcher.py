"""Sender of wake-up messages: used by clients after a submission, and by workers for jobs that are due."""

from __future__ import annotations

import collections
import logging
import operator
import warnings
from collections.abc import Sequence

from finch_hub import errors
from finch_hub.registry import jobs, outbox, placement, values, workers
from finch_hub.registry.database import Database
from finch_hub.settings import Settings
from finch_hub.specs.jobs import Job, JobState
from finch_hub.workers.messaging import broker
from finch_hub.workers.messaging.sender import Sender
from finch_hub.workers.supervision import fault_points
from finch_hub.workers.supervision.trouble_log import TroubleLog

log = logging.getLogger(__name__)


class UnreachableBrokerWarning(errors.FinchWarning):
    """A job was submitted, but its wake-up message could not be sent."""


class FailedWorkerWarning(errors.FinchWarning):
    """The home's own worker could not start, so no job of this home runs."""


_BATCH = 1000
_FEW = 16  # messages that may wait in a queue without a look at the number of slots


class Dispatcher:
    """Dispatcher of queued jobs: it decides which wake-up messages are sent.

    One message is sent for a job, after the transaction that queued the job was committed. If the message is lost, an
    idle slot finds the job at its next look. So neither a crash in between nor a broker that loses all messages leaves
    a job behind.

    No more messages wait in a queue of the broker than slots could take. A slot that is awake works until no job is
    left, so further messages would find nothing to do.

    Args:
        starts_worker: whether to start the home's own worker if no broker is configured.
    """

    def __init__(self, settings: Settings, database: Database, *, starts_worker: bool = True) -> None:
        self._settings, self._database = settings, database
        self._starts_worker = starts_worker and settings.broker_url is None
        if settings.broker_url is not None:
            broker.refuse_open_broker(settings.broker_url.get_secret_value(), allow_insecure=settings.allow_insecure)
        self._trouble = TroubleLog(log, "dispatch")
        self._sender = Sender(database, self._find_url)
        self._code: str | None = None
        self._told_failure: str | None = None

    def dispatch(self, *new: Job) -> None:
        """Send messages for jobs whose transaction was just committed.

        With nothing configured this also starts the private broker and worker if none runs. A broker that does not
        answer causes a warning, not an error. The jobs are stored, and idle slots look for jobs without a message.
        """
        self.ensure_worker()
        try:
            self._send_for_jobs([_describe(job) for job in new if job.state is JobState.QUEUED])
        except errors.Unavailable as error:
            if self._starts_worker:
                return  # a worker with a broker of its own is being replaced, and looks for jobs when it starts
            text = f"the jobs are stored, and workers look for them without messages: {error}"
            warnings.warn(text, UnreachableBrokerWarning, stacklevel=2)

    def dispatch_due(self) -> int:
        """Send messages for the queued jobs that are due by the database's clock. Return the number of these jobs."""
        with self._database.read() as session:
            if not outbox.has_due(session):
                return 0
        with self._database.write() as session:
            due = outbox.take_due(session, limit=_BATCH)
        if not due:
            return 0
        fault_points.reach("dispatch.held")
        try:
            if self._send_for_jobs(due):
                self._trouble.end()
                return len(due)
        except errors.Unavailable as error:
            self._trouble.add(error)
        return 0

    def wake_fitting(self, job: Job, idle: Sequence[values.Worker]) -> str | None:
        """Wake one of the idle workers, which can run a job, and return its name. Return None if no worker fits.

        A shared queue may deliver the message of a job to a worker that cannot run it. The message that this sends
        names no job, so the receiver passes it to nobody.

        Raises:
            Unavailable: the broker does not answer.
        """
        fit = [
            worker
            for worker in idle
            if placement.can_run(worker, job.requirements) and not placement.list_unreadable(job, worker)
        ]
        if not fit:
            return None
        waiting = self._sender.count_waiting([broker.own_queue_name(worker.id) for worker in fit])
        counts = {worker.id: waiting[broker.own_queue_name(worker.id)] for worker in fit}
        # The worker with the newest heartbeat is the least likely to have been killed.
        best = min(fit, key=lambda worker: (counts[worker.id], -worker.last_seen.timestamp()))
        if counts[best.id] >= best.slots:
            return None
        own_queue = broker.own_queue_name(best.id)
        if self._sender.send({own_queue: [""]})[own_queue] > best.slots:  # another worker sent one meanwhile
            self._sender.trim(own_queue, best.slots)
        return best.id

    def find_failure(self) -> str | None:
        """Return why the home's own worker could not start the last time, None if it could, or if none is needed."""
        if not self._starts_worker:
            return None
        from finch_hub.workers.embedded import worker as home_worker

        return home_worker.find_failure(self._settings)

    def ensure_worker(self) -> None:
        """Start the home's own worker if none runs and no broker is configured. Repeated calls are cheap."""
        if self._starts_worker:
            from finch_hub.workers.embedded import code_version
            from finch_hub.workers.embedded import worker as home_worker

            self._code = self._code or code_version.current()
            failure: str | None
            try:
                home_worker.ensure(self._settings, code=self._code)
                failure = self.find_failure()
            except OSError as error:  # a full disk, for instance; the jobs are stored
                failure = f"{error.filename or self._settings.home}: {error.strerror or error}"
            if failure not in (None, self._told_failure):
                self._told_failure = failure
                text = f"the worker of this home could not start, and is started again after a pause: {failure}"
                warnings.warn(text, FailedWorkerWarning, stacklevel=2)

    def close(self) -> None:
        """Close the connections to the broker."""
        self._sender.close()

    def _send_for_jobs(self, queued: Sequence[outbox.QueuedJob]) -> bool:
        """Send messages for queued jobs. Return False if the private broker does not run yet."""
        if not queued:
            return True
        if self._starts_worker:
            from finch_hub.workers.embedded import broker as home_broker

            if not home_broker.answers(self._settings):
                return False  # the worker that was just started looks for jobs when it is ready
        by_queue: dict[str, list[outbox.QueuedJob]] = {}
        for job in queued:
            by_queue.setdefault(job.queue, []).append(job)
        messages = {}
        for queue, its_jobs in by_queue.items():
            limit = _FEW if len(its_jobs) <= _FEW else self._find_limit(queue)
            messages[broker.queue_name(queue)] = _choose(its_jobs, limit)
        lengths = self._sender.send(messages)
        for queue in by_queue:
            # An idle worker leaves no message in a queue. So if messages wait, no slot is idle that could use them.
            name = broker.queue_name(queue)
            if lengths[name] > _FEW and lengths[name] > (limit := self._find_limit(queue)):
                self._sender.trim(name, limit)
        return True

    def _find_limit(self, queue: str) -> int:
        """Return how many messages may wait in a queue: one for each slot that serves it, but at least a few."""
        with self._database.read() as session:
            return max(_FEW, workers.count_slots(session, queue=queue))

    def _find_url(self) -> str:
        from finch_hub.workers.embedded import broker as home_broker

        return home_broker.url(self._settings)


def _describe(job: Job) -> outbox.QueuedJob:
    return outbox.QueuedJob(job.id, job.requirements.queue, jobs.hash_needs(job.kind, job.requirements))


def _choose(queued: Sequence[outbox.QueuedJob], limit: int) -> list[str]:
    """Return the ids of the jobs to send messages for, so that jobs of all needs are among them."""
    num_earlier = collections.Counter[str | None]()
    ranked = []
    for job in queued:
        ranked.append((num_earlier[job.needs], job.id))
        num_earlier[job.needs] += 1
    ranked.sort(key=operator.itemgetter(0))  # the first of each needs, then the second of each
    return [job_id for _, job_id in ranked[:limit]]
