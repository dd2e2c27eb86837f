"""Jobs as their submitters see them: submit, look, cancel, retry, follow, prune.

What a worker does with a job that it claimed is in `finch_hub.registry.attempts`.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import values
from finch_hub.registry.transitions import (
    WHOLE,
    attempts,
    dependencies,
    events,
    in_state,
    insert_events,
    job_of,
    jobs,
    jobs_of,
    move,
)
from finch_hub.registry.types import insert_new, later, now, once
from finch_hub.specs.events import Event
from finch_hub.specs.jobs import FINAL, Job, JobSpec, JobState, Requirements

# Who submits rings the bell itself right after the commit; the reconciler only where it did not live to do so.
RING_GRACE_SECONDS = 5.0


def submit(
    session: Session,
    spec: JobSpec,
    *,
    requirements: Requirements = Requirements(),  # noqa: B008  (frozen)
    priority: int = 0,
    depends_on: Sequence[str] = (),
    idempotency_key: str | None = None,
) -> Job:
    """Insert a job, which is its own outbox entry; see `submit_many`."""
    new = values.NewJob.of_spec(
        spec,
        requirements=requirements,
        priority=priority,
        depends_on=tuple(depends_on),
        idempotency_key=idempotency_key,
    )
    return submit_many(session, [new])[0]


def submit_many(session: Session, new: Sequence[values.NewJob]) -> list[Job]:
    """Insert jobs in one transaction and return them in order; they wait for what they depend on.

    A key that was used before gives the job of the first submission.

    Raises:
        NotFound: it depends on a job that does not exist.
        Conflict: it depends on a job that failed or was cancelled, or the key belongs to another specification.

    """
    if not new:
        return []
    parents = _lock_parents(session, {parent for item in new for parent in item.depends_on})
    rows = [_row(item, parents) for item in new]
    insert = insert_new(session, jobs, "idempotency_key").values(ring_at=later(RING_GRACE_SECONDS))
    inserted = session.execute(insert.returning(*jobs.c), rows).all()
    made = {row.id: row for row in inserted}
    waits = [
        {"job_id": row["id"], "depends_on": parent, "position": position}
        for item, row in zip(new, rows, strict=True)
        for position, parent in enumerate(dict.fromkeys(item.depends_on))
        if row["id"] in made
    ]
    if waits:
        session.execute(sa.insert(dependencies), waits)
    if made:
        session.execute(sa.insert(events), [_first_event(row) for row in inserted])
    earlier = _by_key(
        session, {item.idempotency_key for item, row in zip(new, rows, strict=True) if row["id"] not in made}
    )
    found: list[Job] = []
    for item, row in zip(new, rows, strict=True):
        if row["id"] in made:
            found.append(job_of(made[row["id"]], dict.fromkeys(item.depends_on)))
            continue
        job = earlier.get(item.idempotency_key)
        if job is None:
            raise errors.Conflict(
                f"the job of the idempotency key {item.idempotency_key!r} was just deleted: try again"
            )
        if job.spec != item.spec:
            raise errors.Conflict(
                f"the idempotency key {item.idempotency_key!r} belongs to job {job.id}, whose specification differs"
            )
        found.append(job)
    return found


def get(session: Session, job_id: str) -> Job:
    """Return a job by its id.

    Raises:
        NotFound: there is none.

    """
    row = session.execute(sa.select(*WHOLE).where(jobs.c.id == job_id)).one_or_none()
    if row is None:
        raise errors.NotFound("job", job_id, _recent_ids(session))
    return jobs_of(session, [row])[0]


def find(
    session: Session,
    *,
    states: Collection[JobState] | None = None,
    kind: str | None = None,
    limit: int = 50,
    before: str | None = None,
) -> list[Job]:
    """Return jobs, newest first; `before` is the id after which to go on."""
    query = sa.select(*WHOLE).order_by(jobs.c.number.desc()).limit(limit)
    if states is not None:
        query = query.where(in_state(*sorted(states)))
        if FINAL.issuperset(states):
            query = query.where(jobs.c.finished_at.is_not(None))  # which the index of these is limited to
    if kind is not None:
        query = query.where(jobs.c.kind == kind)
    if before is not None:
        query = query.where(jobs.c.number < sa.select(jobs.c.number).where(jobs.c.id == before).scalar_subquery())
    return jobs_of(session, session.execute(query).all())


def request_cancel(session: Session, job_id: str) -> Job:
    """Cancel a job that waits or is queued; ask the owner of a running one to stop. Repeating it changes nothing.

    Raises:
        NotFound: there is no such job.
        IllegalTransition: it succeeded or failed already.

    """
    state = session.scalar(sa.select(jobs.c.state).where(jobs.c.id == job_id).with_for_update())
    if state in (JobState.WAITING, JobState.QUEUED):
        move(session, JobState.CANCELLED, jobs.c.id == job_id, changes={"cancel_requested": now()})
    elif state is JobState.RUNNING:
        asked = sa.func.coalesce(jobs.c.cancel_requested, now())
        session.execute(sa.update(jobs).where(jobs.c.id == job_id).values(cancel_requested=asked))
    job = get(session, job_id)
    if job.state in FINAL and job.state is not JobState.CANCELLED:
        raise errors.IllegalTransition(job_id, job.state, JobState.CANCELLED)
    return job


def retry(session: Session, job_id: str) -> Job:
    """Submit a failed or cancelled job again, as a new job that names the old one; one that is not done yet will do.

    Raises:
        NotFound: there is no such job.
        IllegalTransition: it has not failed, and was not cancelled.

    """
    # Held until the commit, so that of two who ask at once the second finds what the first submitted.
    session.execute(sa.select(jobs.c.id).where(jobs.c.id == job_id).with_for_update())
    old = get(session, job_id)
    if old.state not in (JobState.FAILED, JobState.CANCELLED):
        raise errors.IllegalTransition(job_id, old.state, JobState.QUEUED)
    going = sa.select(jobs.c.id).where(jobs.c.retry_of == job_id, jobs.c.finished_at.is_(None)).limit(1)
    if (again := session.scalar(going)) is not None:
        return get(session, again)
    keys = session.execute(sa.select(jobs.c.base_key, jobs.c.gang).where(jobs.c.id == job_id)).one()
    new = values.NewJob(
        spec=old.spec,
        base_key=keys.base_key,
        group_key=keys.gang,
        requirements=old.requirements,
        priority=old.priority,
        depends_on=_newest_retries(session, old.depends_on),
        retry_of=old.id,
    )
    return submit_many(session, [new])[0]


def unfinished(session: Session, ids: Collection[str]) -> set[str]:
    """Return which of these jobs exist and have not ended."""
    return set(session.scalars(sa.select(jobs.c.id).where(jobs.c.id.in_(ids), jobs.c.finished_at.is_(None))))


def list_events(session: Session, job_id: str, *, after: int = 0, limit: int = 500) -> list[Event]:
    """Return the job's events with numbers over `after`, in order."""
    insert_events(session)
    rows = session.execute(
        sa.select(events).where(events.c.job_id == job_id, events.c.seq > after).order_by(events.c.seq).limit(limit)
    )
    return [Event(**row._mapping) for row in rows]


def list_attempts(session: Session, job_id: str) -> list[values.Attempt]:
    """Return the claims of a job, in order."""
    rows = session.execute(sa.select(attempts).where(attempts.c.job_id == job_id).order_by(attempts.c.fence))
    return [values.Attempt(**row._mapping) for row in rows]


def count(session: Session) -> dict[JobState, int]:
    """Return how many jobs are in each state."""
    rows = session.execute(sa.select(jobs.c.state, sa.func.count().label("number")).group_by(jobs.c.state))
    return {**dict.fromkeys(JobState, 0), **{row.state: row.number for row in rows}}


def prune(
    session: Session, *, older_than: float | None = None, beyond: int | None = None, limit: int = 1000
) -> list[str]:
    """Delete up to `limit` jobs with their events, those that ended first, and return their ids.

    Adapter versions and evaluations stay, with their specification and lineage, and so does every job that an
    unfinished one waits for.

    Args:
        older_than: seconds; jobs that ended longer ago are deleted.
        beyond: jobs that ended before the last so many are deleted.

    """
    too_old = []
    if older_than is not None:
        too_old.append(jobs.c.finished_at < once(later(-older_than)))
    if beyond is not None:
        when, number = jobs.c.finished_at, jobs.c.number
        ended = sa.select(when, number).where(when.is_not(None)).order_by(when.desc(), number.desc())
        last_to_go = ended.offset(beyond).limit(1).subquery()
        its_end = sa.select(last_to_go.c.finished_at).scalar_subquery()
        its_number = sa.select(last_to_go.c.number).scalar_subquery()
        too_old.append(sa.or_(when < its_end, sa.and_(when == its_end, number <= its_number)))
    child = jobs.alias("child")
    needed = sa.exists().where(
        dependencies.c.depends_on == jobs.c.id, child.c.id == dependencies.c.job_id, child.c.finished_at.is_(None)
    )
    old = (
        sa.select(jobs.c.id)
        .where(jobs.c.finished_at.is_not(None), sa.or_(sa.false(), *too_old), ~needed)
        .order_by(jobs.c.finished_at)
        .limit(limit)
        .with_for_update(of=jobs, skip_locked=True)
    )
    ids = list(session.scalars(old))
    if ids:
        session.execute(sa.delete(jobs).where(jobs.c.id.in_(ids)))
    return ids


def new_id() -> str:
    """Return an id of 16 small letters and digits: 80 random bits."""
    return base64.b32encode(secrets.token_bytes(10)).decode().lower()


def _row(new: values.NewJob, parents: dict[str, JobState]) -> dict[str, Any]:
    done = all(parents[parent] is JobState.SUCCEEDED for parent in new.depends_on)
    return {
        "id": new_id(),
        "kind": new.spec["kind"],
        "state": JobState.QUEUED if done else JobState.WAITING,
        "spec": new.spec,
        "queue": new.requirements.queue,
        "device": new.requirements.device,
        "memory_bytes": new.requirements.memory_bytes,
        "labels": sorted(set(new.requirements.labels)),
        "time_limit": new.requirements.time_limit,
        "gang": new.group_key if new.requirements.together else None,
        "base_key": new.base_key,
        "priority": new.priority,
        "idempotency_key": new.idempotency_key,
        "retry_of": new.retry_of,
        "last_seq": 1,
    }


def _first_event(row: sa.Row[Any]) -> dict[str, Any]:
    data = {"state": row.state.value, "attempt": 0}
    return {"job_id": row.id, "seq": 1, "type": "state", "level": "info", "message": "", "data": data}


def _lock_parents(session: Session, ids: set[str]) -> dict[str, JobState]:
    if not ids:
        return {}
    # Held until our commit, so that a parent cannot end between this look and our row, and overlook it.
    rows = session.execute(
        sa.select(jobs.c.id, jobs.c.state).where(jobs.c.id.in_(ids)).order_by(jobs.c.number).with_for_update(read=True)
    )
    found: dict[str, JobState] = {row.id: row.state for row in rows}
    for missing in sorted(ids - set(found)):
        raise errors.NotFound("job", missing, _recent_ids(session))
    for job_id, state in sorted(found.items()):
        if state in (JobState.FAILED, JobState.CANCELLED):
            raise errors.Conflict(f"job {job_id} is {state}, so nothing can wait for it: retry it first")
    return found


def _by_key(session: Session, keys: set[str | None]) -> dict[str | None, Job]:
    if not keys:
        return {}
    rows = session.execute(sa.select(*WHOLE).where(jobs.c.idempotency_key.in_(keys))).all()
    return {row.idempotency_key: job for row, job in zip(rows, jobs_of(session, rows), strict=True)}


def _newest_retries(session: Session, ids: Sequence[str]) -> tuple[str, ...]:
    """Put the newest retry in the place of each job that did not succeed."""
    current = []
    for job_id in ids:
        newest = job_id
        while (
            again := session.scalar(
                sa.select(jobs.c.id).where(jobs.c.retry_of == newest).order_by(jobs.c.number.desc()).limit(1)
            )
        ) is not None:
            newest = again
        current.append(newest)
    return tuple(current)


def _recent_ids(session: Session) -> list[str]:
    return list(session.scalars(sa.select(jobs.c.id).order_by(jobs.c.number.desc()).limit(200)))
