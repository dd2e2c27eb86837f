"""Data sets, identified by the digest of their examples."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import tables, values
from finch_hub.registry.tables import job_datasets, jobs
from finch_hub.registry.types import Columns, insert_new, now, one_of
from finch_hub.specs.options import write_options

datasets = tables.Dataset.__table__
_COLUMNS = [datasets.c[name] for name in values.Dataset.model_fields]
_PREFIX = re.compile(r"[0-9a-f]{8,63}")
_MAX_NAMED = 20  # jobs in a message
_MAX_NEAR = 1000  # newest data sets whose names are compared with a wrong one


def _lock(digest: str) -> sa.Select[tuple[str | None, datetime | None]]:
    query = sa.select(datasets.c.name, datasets.c.purged_at).where(datasets.c.digest == digest)
    return query.with_for_update()


def add(
    session: Session,
    *,
    digest: str,
    format: str,  # noqa: A002  (as everywhere)
    examples: int,
    size: int = 0,
    name: str | None = None,
    replace: bool = False,
    restore: Callable[[], object] = lambda: None,
) -> values.Dataset:
    """Register a stored data set. A known data set keeps its name if `name` is None.

    Args:
        replace: whether a name that is taken moves to this data set, and another name that it has is dropped.
        restore: called for a data set that was purged. No purge removes its text until the commit, but one may have
            removed what the caller stored before. So it must see that the text is there, or raise an error.

    Raises:
        Conflict: the name is that of other examples, or the data set has another name.
    """
    if name is not None:
        _free_name(session, name, digest=digest, examples=examples, replace=replace)
    session.execute(
        insert_new(session, datasets, "digest").values(
            digest=digest, format=format, examples=examples, bytes=size, name=name
        )
    )
    known = session.execute(_lock(digest)).one()
    if known.purged_at is not None:
        restore()
    changes: Columns = {} if known.purged_at is None else {"purged_at": None}
    changes |= {"name": name} if name not in (None, known.name) else {}
    if changes:
        session.execute(sa.update(datasets).where(datasets.c.digest == digest).values(changes))
    return get(session, digest)


def _free_name(session: Session, name: str, *, digest: str, examples: int, replace: bool) -> None:
    """Refuse a name that stands for other examples, or take it from them."""
    replacing = write_options({"replace": True})
    holder = find_named(session, name)
    if holder is not None and holder.digest != digest and not replace:
        what = f"data set {name} ({holder.digest[:12]}) has other rows, {holder.examples:,} in number"
        fix = f"choose another name, or move the name to the {examples:,} of {digest[:12]} with {replacing}"
        raise errors.Conflict(f"{what}: a name stands for one data set ({fix})")
    same = find_digest(session, digest)
    if same is not None and same.name not in (None, name) and same.purged_at is None and not replace:
        what = f"these examples are already stored as data set {same.name} ({digest[:12]})"
        raise errors.Conflict(f"{what}: a data set has one name (use that name, or rename it with {replacing})")
    session.execute(sa.update(datasets).where(datasets.c.name == name, datasets.c.digest != digest).values(name=None))


def find_named(session: Session, name: str) -> values.Dataset | None:
    """Return the data set with that name whose text is still there, the newest of them."""
    return _first(session, datasets.c.name == name, datasets.c.purged_at.is_(None))


def find_digest(session: Session, digest: str) -> values.Dataset | None:
    """Return the data set with that whole digest."""
    return _first(session, datasets.c.digest == digest)


def _first(session: Session, *conditions: sa.ColumnElement[bool]) -> values.Dataset | None:
    query = sa.select(*_COLUMNS).where(*conditions).order_by(datasets.c.id.desc()).limit(1)
    row = session.execute(query).one_or_none()
    return values.Dataset(**row._mapping) if row is not None else None


def get(session: Session, name: str) -> values.Dataset:
    """Return the data set with that name or digest.

    Eight or more characters of the digest are enough.

    Raises:
        NotFound: no data set has that digest or name.
    """
    # Each look is at one index: a condition with OR, or a pattern, would read all rows.
    found = find_named(session, name) or find_digest(session, name) or _first(session, datasets.c.name == name)
    if found is None and _PREFIX.fullmatch(name):
        end = f"{name}g"  # the digits of a digest end with f
        with_prefix = sa.select(datasets.c.id).where(datasets.c.digest >= name, datasets.c.digest < end)
        found = _first(session, datasets.c.id.in_(with_prefix))
    if found is None:
        newest = sa.select(datasets.c.name, datasets.c.digest).order_by(datasets.c.id.desc()).limit(_MAX_NEAR)
        known = session.execute(newest).all()
        raise errors.NotFound("data set", name, [text for pair in known for text in pair if text])
    return found


def find(session: Session, *, limit: int = 100) -> list[values.Dataset]:
    """Return the data sets, newest first."""
    rows = session.execute(sa.select(*_COLUMNS).order_by(datasets.c.id.desc()).limit(limit))
    return [values.Dataset(**row._mapping) for row in rows]


def hold(session: Session, digests: Collection[str]) -> None:
    """Keep data sets from a purge until the commit of the jobs that read them.

    Raises:
        Conflict: a data set was purged.
    """
    if not digests:
        return
    rows = session.execute(
        sa.select(datasets.c.digest, datasets.c.name, datasets.c.purged_at)
        .where(one_of(datasets.c.digest, digests))
        .order_by(datasets.c.id)
        .with_for_update(read=True)
    )
    for row in rows:
        if row.purged_at is not None:
            raise errors.Conflict(f"data set {row.name or row.digest[:12]} was purged (add its data again)")


def lock_purged(session: Session, digest: str) -> bool:
    """Lock a data set until the commit, and return whether it is purged. Then its text may be removed."""
    return session.execute(_lock(digest)).one().purged_at is not None


def purge(session: Session, name: str) -> values.Dataset:
    """Record that the text of a data set is deleted. The caller deletes it afterwards, with `lock_purged`.

    The digest and the sizes stay.

    Raises:
        NotFound: the data set does not exist.
        Conflict: an unfinished job needs it.
    """
    dataset = get(session, name)
    session.execute(_lock(dataset.digest))  # waits for jobs that are being submitted, which the query below then sees
    unfinished = (
        sa.select(jobs.c.id)
        .join(job_datasets, job_datasets.c.job_id == jobs.c.id)
        .where(job_datasets.c.digest == dataset.digest, jobs.c.finished_at.is_(None))
        .order_by(jobs.c.id)
        .limit(_MAX_NAMED)
    )
    if readers := session.scalars(unfinished).all():
        what = f"cannot purge data set {name}: job {', '.join(readers)} needs it (cancel the job or wait until it ends)"
        raise errors.Conflict(what)
    session.execute(sa.update(datasets).where(datasets.c.digest == dataset.digest).values(purged_at=now()))
    return get(session, dataset.digest)


def record_purges(session: Session, digests: Collection[str]) -> None:
    """Record purges in a copy of a registry, except those of data sets that an unfinished job of the copy needs."""
    needed = sa.exists().where(
        job_datasets.c.digest == datasets.c.digest, job_datasets.c.job_id == jobs.c.id, jobs.c.finished_at.is_(None)
    )
    for digest in digests:  # one statement for all could have more parameters than SQLite takes
        purging = sa.update(datasets).where(datasets.c.digest == digest, ~needed).values(purged_at=now())
        session.execute(purging)
