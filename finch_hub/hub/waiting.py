"""What is known of why a job has not started."""

from __future__ import annotations

from datetime import datetime

from finch_hub.display import tables
from finch_hub.registry import jobs, placement, queue_status, stuck_jobs, workers
from finch_hub.registry.database import Session
from finch_hub.specs.jobs import Job, JobState
from finch_hub.specs.value import Value

NO_WORKER = "no worker is running (start one with `finch-hub worker start`)"
_SHOWN_JOBS = 3


class WaitStatus(Value):
    """What is known of why a job has not started.

    Attributes:
        state: `queued`, or `waiting` for other jobs.
        ahead: number of queued jobs of its queue that come first, of the first 1,000 of all queues.
        workers: number of living workers.
        fitting: number of those among them that can run the job.
        running: number of jobs that run.
        starts_at: end of the wait after a failed attempt, if it is still to come.
        waits_for: the jobs that it depends on and that have not ended.
        stuck: why it waits for nothing, so that the next sweep of a worker settles it.
    """

    state: JobState
    ahead: int = 0
    workers: int = 0
    fitting: int = 0
    running: int = 0
    starts_at: datetime | None = None
    waits_for: tuple[str, ...] = ()
    stuck: str | None = None


def read(session: Session, job: Job) -> WaitStatus:
    """Return the status of a job that has not started."""
    if job.state is JobState.WAITING:
        unfinished = jobs.select_unfinished(session, job.depends_on)
        return WaitStatus(
            state=job.state,
            waits_for=tuple(other for other in job.depends_on if other in unfinished),
            stuck=stuck_jobs.explain(session, job.id),
        )
    living = [worker for worker in workers.find(session) if worker.state not in workers.GONE]
    return WaitStatus(
        state=job.state,
        ahead=queue_status.count_ahead(session, job.id),
        workers=len(living),
        fitting=sum(not placement.list_obstacles(job, [worker]) for worker in living),
        running=queue_status.count_running(session),
        starts_at=queue_status.find_start(session, job.id),
    )


def describe_wait(status: WaitStatus | None) -> str | None:
    """Describe why a job has not started, None for one that has."""
    if status is None:
        return None
    if status.state == "waiting":
        shown, more = status.waits_for[:_SHOWN_JOBS], len(status.waits_for) - _SHOWN_JOBS
        others = f" and {more:,} more" if more > 0 else ""
        return status.stuck or f"waits for {'jobs' if len(status.waits_for) > 1 else 'job'} {', '.join(shown)}{others}"
    ahead = f"{tables.format_count(status.ahead, 'job')} ahead" if status.ahead else "no job ahead"
    if status.workers == 0:
        there = "no worker runs yet"
    else:
        there = (
            f"{tables.format_count(status.running, 'job')} running on {tables.format_count(status.workers, 'worker')}"
        )
        if status.fitting < status.workers:
            there += f", {status.fitting} of which can run this one"
    parts = [ahead, there]
    if status.starts_at is not None:
        parts.append(f"it is tried again at {tables.format_value(status.starts_at)}")
    return ", ".join(parts)
