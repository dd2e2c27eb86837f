"""Jobs: submission, queries, cancellation, retry and deletion.

The functions for workers are in `claims` and `attempts`.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
import re
import secrets
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningInsert

from finch_hub import errors
from finch_hub.registry import adapter_needs, datasets, evidence, owner_limits, settlements, turns, values
from finch_hub.registry.tables import announcements, attempts, dependencies, job_datasets, job_events, jobs
from finch_hub.registry.transitions import (
    HAS_LISTENERS,
    JOB_COLUMNS,
    announce,
    build_transition,
    execute_transition,
    in_state,
    insert_events,
    to_job,
    to_jobs,
)
from finch_hub.registry.types import UNKNOWN_TIME, Columns, build_insert_new, later, now, once, one_of, read_document
from finch_hub.specs.events import Event
from finch_hub.specs.jobs import FINAL, Job, JobState, Requirements

_NUM_EXAMINED = 1000  # newest jobs of the queue that a check reads
LAST = "last"
_DIGITS = "234567abcdefghijklmnopqrstuvwxyz"  # of ids, in the order of their characters
_PREFIX = re.compile(f"[{_DIGITS}]{{1,15}}")  # of an id, which has 16 characters
_IS_NUMBERED = jobs.c.number > sa.literal_column("0")  # the condition of the index of an owner's jobs, ended ones too
_NUM_SHOWN = 3
_COPIED = ("spec", "base_key", "priority", "owner", "idempotency_key", "retry_of")  # from a new job to its row


def submit_many(session: Session, new: Sequence[values.NewJob], *, owner_unfinished: int | None = None) -> list[Job]:
    """Submit jobs in one transaction, and return them in order.

    A used idempotency key returns the job of the first submission. Send the wake-up messages of queued jobs after the
    commit.

    Args:
        owner_unfinished: maximum number of unfinished jobs of one owner; None sets no limit.

    Raises:
        NotFound: a job depends on a job that does not exist, or reads a version that was deleted.
        Conflict: a job depends on a failed or cancelled job, its key belongs to another specification, its data set
            was purged, or its owner would have too many unfinished jobs.
    """
    if not new:
        return []
    datasets.hold(session, {digest for item in new for digest in item.datasets})
    parents = _lock_parents(session, {parent for item in new for parent in item.depends_on})
    adapter_needs.hold(session, [item.spec for item in new], pending=_find_pending(session, parents))
    rows = [_row(item, parents) for item in new]
    if owner_unfinished is not None:
        for owner in sorted({item.owner for item in new}):
            owner_limits.hold_owner(session, owner, "unfinished")
    _assign_turns(session, rows)
    insert = _insert_jobs(session.get_bind().dialect.name)
    inserted = {row.id: row for row in session.execute(insert, rows)}
    if owner_unfinished is not None:
        owner_limits.refuse_beyond(session, {row.owner for row in inserted.values()}, owner_unfinished)
    by_id = {row["id"]: item for item, row in zip(new, rows, strict=True)}
    links = [
        {"job_id": job_id, "depends_on": parent, "position": position}
        for job_id in inserted
        for position, parent in enumerate(dict.fromkeys(by_id[job_id].depends_on))
    ]
    if links:
        session.execute(sa.insert(dependencies), links)
    reads = [
        {"job_id": job_id, "digest": digest} for job_id in inserted for digest in dict.fromkeys(by_id[job_id].datasets)
    ]
    if reads:
        session.execute(sa.insert(job_datasets), reads)
    if inserted:
        session.execute(sa.insert(job_events), [_first_event(row) for row in inserted.values()])
    for row in inserted.values():
        if row.has_listeners:
            announce(session, row.id, row.last_seq)
    keys = {item.idempotency_key for job_id, item in by_id.items() if job_id not in inserted}
    earlier = get_by_key(session, keys)
    submitted: list[Job] = []
    for job_id, item in by_id.items():
        if job_id in inserted:
            submitted.append(to_job(inserted[job_id], dict.fromkeys(item.depends_on)))
            continue
        job = earlier.get(item.idempotency_key)
        if job is None:
            raise errors.Conflict(
                f"could not submit with idempotency key {item.idempotency_key!r}: its job was just deleted (try again)"
            )
        if job.spec != item.spec:
            raise errors.Conflict(
                f"idempotency key {item.idempotency_key!r} belongs to job {job.id}: its specification differs"
                " (choose another key)"
            )
        submitted.append(job)
    return submitted


def get(session: Session, job_id: str) -> Job:
    """Return the job with that id.

    Raises:
        NotFound: the job does not exist.
    """
    return to_jobs(session, [_get_row(session, job_id)])[0]


def find_id(session: Session, text: str, *, owner: str) -> str:
    """Return the id that `text` begins if it is one job's, that of the newest job of an owner for "last", or `text`.

    Raises:
        NotFound: the owner has no job.
        InvalidReference: the ids of several jobs begin so.
    """
    if text == LAST:
        newest = sa.select(jobs.c.id).where(jobs.c.owner == owner, _IS_NUMBERED).order_by(jobs.c.number.desc()).limit(1)
        if (job_id := session.scalar(newest)) is None:
            raise errors.NotFound(f"job of {owner}", text)
        return str(job_id)
    if _PREFIX.fullmatch(text) is None:
        return text
    # In the order of bytes, since a collation may sort "ch" after "h". An index of PostgreSQL has the same order.
    id_bytes = jobs.c.id.collate("BINARY" if session.get_bind().dialect.name == "sqlite" else "C")
    end = text[:-1] + chr(ord(text[-1]) + 1)
    begun = sa.select(jobs.c.id).where(id_bytes >= text, id_bytes < end).order_by(id_bytes)
    found = list(session.scalars(begun.limit(_NUM_SHOWN + 1)))
    if len(found) > 1:
        shown = ", ".join(found[:_NUM_SHOWN]) + (" and others" if len(found) > _NUM_SHOWN else "")
        raise errors.InvalidReference(f"begins the ids of {shown}", where=f"job {text}", fix="write more of the id")
    return found[0] if found else text


def find(session: Session, *, before: str | None = None, **filters: Any) -> list[Job]:
    """Return jobs, newest first, with the filters of `find_page`; `before` is the id of the last job seen.

    Raises:
        NotFound: the job with that id does not exist.
    """
    number = None
    if before is not None:
        number = session.scalar(sa.select(jobs.c.number).where(jobs.c.id == before))
        if number is None:
            raise errors.NotFound("job", before, _recent_ids(session))
    return find_page(session, below=number, **filters)[0]


def find_page(
    session: Session,
    *,
    below: int | None = None,
    states: Collection[JobState] | None = None,
    kind: str | None = None,
    owner: str | None = None,
    limit: int = 50,
) -> tuple[list[Job], int | None]:
    """Return a page of jobs, newest first, and `below` of the next page, None after the last one.

    It is a number, not an id, since the last job of a page may be deleted before the next page is read.
    """
    query = sa.select(*JOB_COLUMNS).order_by(jobs.c.number.desc()).limit(limit)
    if states is not None:
        query = query.where(in_state(*sorted(states)))
        if FINAL.issuperset(states):
            query = query.where(jobs.c.finished_at.is_not(None))  # the condition of the index
        elif JobState.QUEUED in states and FINAL.isdisjoint(states):
            query = query.where(jobs.c.finished_at.is_(None))  # likewise; waiting and running jobs have their own
    if kind is not None:
        query = query.where(jobs.c.kind == kind)
    if owner is not None:
        query = query.where(jobs.c.owner == owner)
        if states is None:
            query = query.where(_IS_NUMBERED)
    if below is not None:
        query = query.where(jobs.c.number < below)
    rows = session.execute(query).all()
    return to_jobs(session, rows), rows[-1].number if rows and len(rows) == limit else None


def request_cancel(session: Session, job_id: str) -> Job:
    """Cancel a waiting or queued job, or request that a running job stops. A second request changes nothing.

    Raises:
        NotFound: the job does not exist.
        IllegalTransition: the job has succeeded or failed.
    """
    state = session.scalar(sa.select(jobs.c.state).where(jobs.c.id == job_id).with_for_update())
    if state in (JobState.WAITING, JobState.QUEUED):
        statement = build_transition(JobState.CANCELLED, jobs.c.id == job_id, changes={"cancel_requested": now()})
        execute_transition(session, statement, JobState.CANCELLED)
        settlements.settle_now(session, job_id)
    elif state is JobState.RUNNING:
        requested_at = sa.func.coalesce(jobs.c.cancel_requested, now())
        session.execute(sa.update(jobs).where(jobs.c.id == job_id).values(cancel_requested=requested_at))
    job = get(session, job_id)
    if job.state in FINAL and job.state is not JobState.CANCELLED:
        raise errors.IllegalTransition(job_id, job.state, JobState.CANCELLED)
    return job


def retry(session: Session, job_id: str, *, owner_unfinished: int | None = None) -> Job:
    """Submit a failed or cancelled job again, as a new job of its owner. Return an unfinished retry if there is one.

    Args:
        owner_unfinished: maximum number of unfinished jobs of one owner; None sets no limit.

    Raises:
        NotFound: the job does not exist.
        IllegalTransition: the job has not failed and was not cancelled.
        Conflict: this version cannot read the job, its data set was purged, or its owner would have too many
            unfinished jobs.
    """
    # The lock lasts until the commit: of two retries at once, the second finds the job of the first.
    row = _get_row(session, job_id, lock=True)
    old = to_jobs(session, [row])[0]
    if old.state not in (JobState.FAILED, JobState.CANCELLED):
        raise errors.IllegalTransition(job_id, old.state, JobState.QUEUED)
    if old.unreadable is not None:
        what = f"cannot retry job {job_id}: this version of Finch Hub cannot read it: {old.unreadable}"
        raise errors.Conflict(f"{what} (submit the job anew)")
    unfinished = sa.select(jobs.c.id).where(jobs.c.retry_of == job_id, jobs.c.finished_at.is_(None)).limit(1)
    if (retry_id := session.scalar(unfinished)) is not None:
        return get(session, retry_id)
    needs = (job_datasets.c.job_id == job_id, job_datasets.c.is_needed)
    reads = session.scalars(sa.select(job_datasets.c.digest).where(*needs))
    new = values.NewJob(
        spec=old.spec,
        datasets=tuple(reads),
        base_key=row.base_key,
        group_key=row.gang,
        requirements=old.requirements,
        priority=old.priority,
        depends_on=tuple(newest_retries(session, old.depends_on).values()),
        retry_of=old.id,
        owner=row.owner,
    )
    return submit_many(session, [new], owner_unfinished=owner_unfinished)[0]


def get_by_key(session: Session, keys: Collection[str | None]) -> dict[str | None, Job]:
    """Return the jobs that were submitted with these idempotency keys, by key."""
    if not keys:
        return {}
    rows = session.execute(sa.select(*JOB_COLUMNS).where(one_of(jobs.c.idempotency_key, keys))).all()
    return {row.idempotency_key: job for row, job in zip(rows, to_jobs(session, rows), strict=True)}


def newest_retries(session: Session, ids: Sequence[str]) -> dict[str, str]:
    """Return the id of the newest retry of each job that exists, or its own id if it has none, in their order."""
    first = sa.select(jobs.c.id.label("first_id"), jobs.c.id, jobs.c.number).where(one_of(jobs.c.id, ids))
    chain = first.cte(recursive=True)  # one statement, however often a job was tried again
    retries = sa.select(chain.c.first_id, jobs.c.id, jobs.c.number).join(chain, jobs.c.retry_of == chain.c.id)
    chain = chain.union_all(retries)
    newest = sa.select(chain.c.first_id, sa.func.max(chain.c.number).label("number")).group_by(chain.c.first_id)
    last = newest.subquery()
    rows = session.execute(sa.select(last.c.first_id, jobs.c.id).join(jobs, jobs.c.number == last.c.number))
    newest_of = {row.first_id: row.id for row in rows}
    return {job_id: newest_of[job_id] for job_id in ids if job_id in newest_of}


def select_unfinished(session: Session, ids: Collection[str], *, ended_within: float = 0.0) -> set[str]:
    """Return the ids of jobs that exist and have not ended, or ended within so many seconds."""
    is_wanted = sa.or_(jobs.c.finished_at.is_(None), jobs.c.finished_at > later(-ended_within))
    return set(session.scalars(sa.select(jobs.c.id).where(one_of(jobs.c.id, ids), is_wanted)))


def list_events(session: Session, job_id: str, *, after: int = 0, limit: int = 500) -> list[Event]:
    """Return the events of a job with numbers above `after`, in order."""
    insert_events(session)
    rows = session.execute(
        sa.select(job_events)
        .where(job_events.c.job_id == job_id, job_events.c.seq > after)
        .order_by(job_events.c.seq)
        .limit(limit)
    )
    return [_read_event(row) for row in rows]


def list_attempts(session: Session, job_id: str) -> list[values.Attempt]:
    """Return the attempts of a job, in order."""
    rows = session.execute(sa.select(attempts).where(attempts.c.job_id == job_id).order_by(attempts.c.fence))
    return [_read_attempt(row) for row in rows]


def count(session: Session) -> dict[JobState, int]:
    """Return the number of jobs in each state."""
    number = sa.func.count().label("number")
    ended = sa.select(jobs.c.state, number).where(jobs.c.finished_at.is_not(None)).group_by(jobs.c.state)
    # Each part reads one partial index. SQLite reads all rows if a statement groups them.
    unfinished = [
        sa.select(sa.literal(state, jobs.c.state.type).label("state"), number).where(in_state(state))
        for state in JobState
        if state not in FINAL
    ]
    rows = session.execute(sa.union_all(ended, *unfinished))
    return {**dict.fromkeys(JobState, 0), **{row.state: row.number for row in rows}}


def find_set_aside(session: Session, *, limit: int = 100) -> list[Job]:
    """Return unfinished jobs that some version of Finch Hub cannot read, newest first.

    Besides jobs that workers have set aside, these are any that this version finds unreadable among the newest.
    """
    marked = (
        sa.select(*JOB_COLUMNS)
        .where(jobs.c.set_aside.is_not(None), jobs.c.finished_at.is_(None))
        .order_by(jobs.c.number.desc())
        .limit(limit)
    )
    newest = find(session, states=[JobState.WAITING, JobState.QUEUED], limit=_NUM_EXAMINED)
    found = {job.id: job for job in newest if job.unreadable is not None}
    found |= {job.id: job for job in to_jobs(session, session.execute(marked).all())}
    return sorted(found.values(), key=lambda job: job.created_at, reverse=True)[:limit]


def prune(
    session: Session, *, older_than: float | None = None, beyond: int | None = None, limit: int = 1000
) -> list[str]:
    """Delete up to `limit` ended jobs with their events, oldest end first, and return their ids.

    Adapter versions and evaluations stay, with their specification, lineage and evidence. Jobs that an unfinished job
    depends on stay as well, and jobs of which a listener has not heard everything. The idempotency key of a deleted job
    goes to its newest retry.

    Args:
        older_than: seconds since the end after which a job is deleted.
        beyond: number of jobs that ended last and are kept.
    """
    expired = _select_expired(session, older_than, beyond)
    if expired is None:
        return []
    oldest = expired.order_by(jobs.c.finished_at, jobs.c.number).limit(limit)
    ids = list(session.scalars(oldest.with_for_update(of=jobs, skip_locked=True)))
    if ids:
        ids = evidence.keep_of_jobs(session, ids, limit=_MAX_KEPT)
        heirs = _find_heirs(session, ids)
        session.execute(sa.delete(jobs).where(one_of(jobs.c.id, ids)))
        if heirs:
            is_heir = jobs.c.id == sa.bindparam("heir")
            session.execute(sa.update(jobs).where(is_heir).values(idempotency_key=sa.bindparam("key")), heirs)
    return ids


def count_expired(session: Session, *, older_than: float | None = None, beyond: int | None = None) -> int:
    """Return the number of jobs that `prune` would delete, however many at once."""
    expired = _select_expired(session, older_than, beyond)
    return 0 if expired is None else session.scalar(sa.select(sa.func.count()).select_from(expired.subquery())) or 0


def _select_expired(session: Session, older_than: float | None, beyond: int | None) -> sa.Select[Any] | None:
    """Return the query of the ids of jobs that may be deleted, None if no job ended so long ago."""
    too_old = _find_last_expired(session, older_than, beyond)
    if too_old is None:
        return None
    child = jobs.alias("child")
    is_needed = sa.exists().where(
        dependencies.c.depends_on == jobs.c.id, child.c.id == dependencies.c.job_id, child.c.finished_at.is_(None)
    )
    is_unheard = sa.exists().where(announcements.c.job_id == jobs.c.id)
    return sa.select(jobs.c.id).where(jobs.c.finished_at.is_not(None), too_old >= _END, ~is_needed, ~is_unheard)


def _find_heirs(session: Session, ids: Sequence[str]) -> list[Columns]:
    """Return the idempotency keys of jobs that are deleted, each with the newest retry, which is not deleted."""
    with_key = sa.select(jobs.c.id, jobs.c.idempotency_key).where(jobs.c.idempotency_key.is_not(None))
    keys = {row.id: row.idempotency_key for row in session.execute(with_key.where(one_of(jobs.c.id, ids)))}
    newest = newest_retries(session, list(keys)) if keys else {}
    return [{"heir": heir, "key": keys[job_id]} for job_id, heir in newest.items() if heir not in ids]


_MAX_KEPT = 50  # versions whose evidence one transaction reads from jobs of earlier versions
_END = sa.tuple_(jobs.c.finished_at, jobs.c.number)  # the order of an index


def _find_last_expired(session: Session, older_than: float | None, beyond: int | None) -> sa.Tuple | None:
    """Return the end of the newest job that is too old or too many, None if there is no such job.

    Jobs that ended earlier are so, too. One statement for both conditions would read the whole history.
    """
    newest_first = (
        sa.select(jobs.c.finished_at, jobs.c.number)
        .where(jobs.c.finished_at.is_not(None))
        .order_by(jobs.c.finished_at.desc(), jobs.c.number.desc())
        .limit(1)
    )
    found = []
    if older_than is not None:
        found.append(newest_first.where(jobs.c.finished_at < once(later(-older_than))))
    if beyond is not None:
        found.append(newest_first.offset(beyond))
    ends = [tuple(row) for query in found if (row := session.execute(query).one_or_none()) is not None]
    ends = [end for end in ends if isinstance(end[0], datetime)]  # otherwise it is damaged
    if not ends:
        return None
    ended_at, number = max(ends)
    return sa.tuple_(sa.literal(ended_at, jobs.c.finished_at.type), sa.literal(number, jobs.c.number.type))


def _get_row(session: Session, job_id: str, *, lock: bool = False) -> sa.Row[Any]:
    query = sa.select(*JOB_COLUMNS).where(jobs.c.id == job_id)
    row = session.execute(query.with_for_update(of=jobs) if lock else query).one_or_none()
    if row is None:
        raise errors.NotFound("job", job_id, _recent_ids(session))
    return row


def _read_attempt(row: sa.Row[Any]) -> values.Attempt:
    """Return an attempt, with the times that can be read."""
    times = {name: row._mapping[name] for name in ("started_at", "ended_at", "not_before")}
    readable = {name: time for name, time in times.items() if isinstance(time, datetime)}
    return values.Attempt(
        **{**row._mapping, "started_at": UNKNOWN_TIME, "ended_at": None, "not_before": None, **readable}
    )


def _read_event(row: sa.Row[Any]) -> Event:
    """Return an event; one that this version cannot read becomes a message."""
    try:
        return Event(**row._mapping)
    except errors.InvalidSpec:
        text = f"event {row.type!r} of another version of Finch Hub: {row.message or row.data}"
        at = row.at if isinstance(row.at, datetime) else UNKNOWN_TIME
        return Event(job_id=row.job_id, seq=row.seq, at=at, type="message", level="warn", message=text)


@functools.cache
def _insert_jobs(dialect: str) -> ReturningInsert[Any]:
    return build_insert_new(dialect, jobs, "idempotency_key").returning(*jobs.c, HAS_LISTENERS)


def _row(new: values.NewJob, parents: dict[str, JobState]) -> Columns:
    is_ready = all(parents[parent] is JobState.SUCCEEDED for parent in new.depends_on)
    return {
        "id": base64.b32encode(secrets.token_bytes(10)).decode().lower(),  # 80 random bits in 16 characters
        "kind": new.spec["kind"],
        "state": JobState.QUEUED if is_ready else JobState.WAITING,
        **{column: getattr(new, column) for column in _COPIED},
        **new.requirements.model_dump(exclude={"together"}),
        "labels": sorted(set(new.requirements.labels)),
        "needs": hash_needs(new.spec["kind"], new.requirements),
        "gang": new.group_key if new.requirements.together else None,
        "last_seq": 1,
        "turn": 0,
    }


def _assign_turns(session: Session, rows: Sequence[Columns]) -> None:
    """Give turns to the new jobs that do not wait for others."""
    queued = [row for row in rows if row["state"] is JobState.QUEUED]
    lines = [turns.Line(**{name: row[name] for name in turns.Line._fields}) for row in queued]
    for row, turn in zip(queued, turns.assign_turns(session, lines), strict=True):
        row["turn"] = turn


def hash_needs(kind: str, requirements: Requirements) -> str:
    """Return a hash that jobs share if they fit the same slots, with memory in steps of a fifth."""
    step = int(4 * math.log2(requirements.memory_bytes)) if requirements.memory_bytes else -1
    labels = sorted(set(requirements.labels))
    text = json.dumps([kind, requirements.queue, requirements.device, step, labels])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _first_event(row: sa.Row[Any]) -> Columns:
    data = {"state": row.state.value, "attempt": 0}
    return {"job_id": row.id, "seq": 1, "type": "state", "level": "info", "message": "", "data": data}


def _lock_parents(session: Session, ids: set[str]) -> dict[str, JobState]:
    if not ids:
        return {}
    # The lock lasts until the commit: a parent that ends meanwhile sees the new row.
    rows = session.execute(
        sa.select(jobs.c.id, jobs.c.state)
        .where(one_of(jobs.c.id, ids))
        .order_by(jobs.c.number)
        .with_for_update(read=True)
    )
    states: dict[str, JobState] = {row.id: row.state for row in rows}
    for missing in sorted(ids - set(states)):
        raise errors.NotFound("job", missing, _recent_ids(session))
    for job_id, state in sorted(states.items()):
        if state in (JobState.FAILED, JobState.CANCELLED):
            raise errors.Conflict(f"no job can depend on job {job_id}: it is {state} (retry it first)")
    return states


def _find_pending(session: Session, parents: Collection[str]) -> frozenset[str]:
    """Return the names of the adapters of which some jobs make a version."""
    if not parents:
        return frozenset()
    specs = session.scalars(sa.select(jobs.c.spec).where(one_of(jobs.c.id, parents)))
    return frozenset(str(read_document(spec).get("adapter")) for spec in specs)


def _recent_ids(session: Session) -> list[str]:
    return list(session.scalars(sa.select(jobs.c.id).order_by(jobs.c.number.desc()).limit(200)))
