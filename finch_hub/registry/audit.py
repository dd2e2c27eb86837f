"""Audit: a row for each change of the registry, and for each that was refused."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, get_args

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import adapter_names, tables
from finch_hub.registry.tables import AuditRow, jobs
from finch_hub.registry.types import later, once, read_document
from finch_hub.specs.references import AdapterReference
from finch_hub.specs.value import JsonObject, Value

Action = Literal[
    "adapter.delete", "adapter.describe", "adapter.purge", "adapter.rename", "adapter.restore",
    "alias.move", "alias.remove",
    "base.add", "base.remove",
    "card.edit", "card.reset",
    "dataset.add", "dataset.purge",
    "hub.restore", "hub.unbundle",
    "job.cancel", "jobs.prune",
    "version.check", "version.create", "version.delete", "version.note", "version.purge", "version.push",
    "version.quarantine", "version.restore", "version.tag", "version.untag",
    "worker.drain", "worker.stop",
]  # fmt: skip
Outcome = Literal["done", "refused"]

_audit = AuditRow.__table__
_NAMES = (tables.Adapter.__table__.c.name, tables.Base.__table__.c.name, tables.Dataset.__table__.c.name)
_SUBJECTS = (
    *(*_NAMES, tables.FormerName.__table__.c.name, tables.Base.__table__.c.fingerprint),
    *(tables.Dataset.__table__.c.digest, jobs.c.id, tables.Worker.__table__.c.id),
    *(tables.Base.__table__.c.source, tables.Base.__table__.c.public_id),
)
_DIGEST = re.compile(r"[0-9a-f]{8,63}")  # the beginning of one
_MAX_NEAR = 1000  # names of each kind that are compared with a wrong one
_OWNER = sa.select(jobs.c.owner).where(jobs.c.id == sa.bindparam("of_job")).scalar_subquery()


class AuditEntry(Value):
    """A change of the registry, or one that was refused.

    Attributes:
        id: number of the entry. Later entries have larger ones.
        who: name of the user, or the owner of the job that made the change.
        action: an `Action`; another version of Finch Hub may know others.
        on: what was changed, as users write it: a reference, a name, or an id.
        job_id: the job that made the change; None if a user did.
        details: what else is known of the change.
        outcome: `done` or `refused`.
        reason: why it was refused; None if it was not.
    """

    id: int
    at: datetime
    who: str
    action: str
    on: str
    job_id: str | None = None
    details: JsonObject
    outcome: str
    reason: str | None = None


def add(
    session: Session,
    *,
    who: str,
    action: Action,
    on: str,
    details: JsonObject,
    outcome: Outcome = "done",
    reason: str | None = None,
) -> int:
    """Add the entry of a user's change to the transaction that makes it, and return its number."""
    changes = {"who": who, "action": action, "outcome": outcome, "reason": reason}
    insert = sa.insert(_audit).values(**changes, **_describe(on, details)).returning(_audit.c.id)
    number: int = session.scalars(insert).one()
    return number


def add_all(session: Session, *, who: str, action: Action, details: Mapping[str, JsonObject]) -> None:
    """Add the entries of a user's changes to the transaction that makes them, each with what it changed."""
    changes = {"who": who, "action": action, "outcome": "done"}
    if rows := [changes | _describe(on, described) for on, described in details.items()]:
        session.execute(sa.insert(_audit), rows)


def add_of_job(session: Session, job_id: str, *, action: Action, on: str, details: JsonObject) -> None:
    """Add the entry of a job's change to the transaction that makes it. The owner of the job is who made it."""
    who = sa.func.coalesce(_OWNER, "")
    insert = sa.insert(_audit).values(who=who, action=action, job_id=job_id, outcome="done", **_describe(on, details))
    session.execute(insert, {"of_job": job_id})


def describe_more(session: Session, number: int, *, on: str, details: JsonObject) -> None:
    """Replace what an entry says of its change, of which another transaction makes the rest."""
    session.execute(sa.update(_audit).where(_audit.c.id == number).values(**_describe(on, details)))


def find(
    session: Session,
    *,
    who: str | None = None,
    action: str | None = None,
    on: str | None = None,
    since: datetime | None = None,
    limit: int = 100,
    after: int | None = None,
) -> list[AuditEntry]:
    """Return entries, newest first.

    Args:
        on: a name, present or former, which stands for all that has it, or a reference of a version or an alias.
        since: time of the oldest entry.
        after: number of the last entry on the previous page.

    Raises:
        InvalidSpec: there is no such action.
        NotFound: nothing of the name has entries or exists; offers similar names.
    """
    query = sa.select(_audit).order_by(_audit.c.id.desc()).limit(limit)
    if who is not None:
        query = query.where(_audit.c.who == who)
    if action is not None:
        if action not in get_args(Action):
            fix = f"use one of {', '.join(get_args(Action))}"
            raise errors.InvalidSpec(f"there is no action {errors.shorten(action)!r}", where="action", fix=fix)
        query = query.where(_audit.c.action == action)
    if on is not None:
        name = name_of(on)
        adapter_id = adapter_names.find_id(session, name)
        names = [name] if adapter_id is None else adapter_names.list_names(session, adapter_id)
        query = query.where(_audit.c.subject_name.in_(names))
        if name != on:
            query = query.where(_audit.c.subject.in_([f"{other}{on.removeprefix(name)}" for other in names]))
    if since is not None:
        query = query.where(_audit.c.at >= since)
    if after is not None:
        query = query.where(_audit.c.id < after)
    entries = [
        AuditEntry(
            id=row.id,
            at=row.at,
            who=row.who,
            action=row.action,
            on=row.subject,
            job_id=row.job_id,
            details=read_document(row.details),
            outcome=row.outcome,
            reason=row.reason,
        )
        for row in session.execute(query)
    ]
    if on is not None and not entries:
        _require_subject(session, on, names)
    return entries


def _require_subject(session: Session, on: str, names: Sequence[str]) -> None:
    """Refuse a subject that has no entries and does not exist. The entries of an old one may be pruned.

    Raises:
        NotFound: there is no such adapter, base, data set, job or worker; offers similar names.
    """
    is_subject = _audit.c.subject_name.in_(names)
    digest = tables.Dataset.__table__.c.digest
    is_digest = sa.and_(digest >= on, digest < f"{on}g") if _DIGEST.fullmatch(on) else sa.false()
    places = (
        sa.select(_audit.c.id).where(is_subject),
        sa.select(digest).where(is_digest),
        *(sa.select(column).where(column.in_([*names, on])) for column in _SUBJECTS),
    )
    if any(session.scalar(place.limit(1)) is not None for place in places):
        return
    known = {name for column in _NAMES for name in session.scalars(sa.select(column).limit(_MAX_NEAR)) if name}
    raise errors.NotFound("adapter, base, data set, job or worker", on, known)


def name_of(subject: str) -> str:
    """Return the name of the adapter that a reference names. Other subjects are names themselves."""
    try:
        return AdapterReference.parse(subject).name
    except errors.InvalidReference:
        return subject


def is_empty(session: Session) -> bool:
    """Return whether nothing was changed. Refused changes do not count."""
    return session.scalar(sa.select(_audit.c.id).where(_audit.c.outcome == "done").limit(1)) is None


def prune(session: Session, *, older_than: float, limit: int = 1000) -> int:
    """Delete entries by their age in seconds, the oldest first, and return their number."""
    is_old = _audit.c.at < once(later(-older_than))
    old = sa.select(_audit.c.id).where(is_old).order_by(_audit.c.at).limit(limit)
    deleted = sa.delete(_audit).where(_audit.c.id.in_(old.scalar_subquery())).returning(_audit.c.id)
    return len(session.scalars(deleted).all())


def clear(session: Session) -> None:
    """Remove all entries, those of a hub that gets the entries of a backup."""
    session.execute(sa.delete(_audit))


def _describe(on: str, details: JsonObject) -> JsonObject:
    subject = errors.shorten(on)
    return {"subject": subject, "subject_name": name_of(subject), "details": details}
