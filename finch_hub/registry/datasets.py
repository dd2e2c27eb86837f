"""Data sets, identified by the digest of their examples."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import artifact_lock, sqlite, tables, values
from finch_hub.registry.tables import job_datasets, jobs
from finch_hub.registry.types import Columns, insert_new, later, now, once, one_of
from finch_hub.specs.options import write_options

datasets = tables.Dataset.__table__
_sources = tables.DatasetSource.__table__
_COLUMNS = [datasets.c[name] for name in values.Dataset.model_fields]
_PREFIX = re.compile(r"[0-9a-f]{8,63}")
_MAX_NAMED = 20  # jobs in a message
_MAX_NEAR = 1000  # newest data sets whose names are compared with a wrong one


def _lock(digest: str) -> sa.Select[tuple[str | None, datetime | None, bool]]:
    query = sa.select(datasets.c.name, datasets.c.purged_at, datasets.c.of_jobs).where(datasets.c.digest == digest)
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
    of_jobs: bool = False,
    check_stored: Callable[[], object] = lambda: None,
) -> values.Dataset:
    """Register a stored data set. A known data set keeps its name if `name` is None.

    Args:
        replace: whether a name that is taken moves to this data set, and another name that it has is dropped.
        of_jobs: whether a job stores it, and not a user.
        check_stored: called for a data set that is new, or was purged. Nobody removes its text until the commit, but
            it may have been removed since the caller stored it. So it must see that the text is there, or raise an
            error.

    Raises:
        Conflict: the name is that of other examples, or the data set has another name.
    """
    if name is not None:
        artifact_lock.own_name(session, name)
    artifact_lock.share(session)
    if name is not None:
        _free_name(session, name, digest=digest, examples=examples, replace=replace)
    inserted = session.execute(
        insert_new(session, datasets, "digest")
        .values(digest=digest, format=format, examples=examples, bytes=size, name=name, of_jobs=of_jobs)
        .returning(datasets.c.id)
    )
    is_new = inserted.scalar() is not None
    known = session.execute(_lock(digest)).one()
    if is_new or known.purged_at is not None:
        check_stored()
    changes: Columns = {}
    if known.purged_at is not None:
        earlier = None if of_jobs else _free_or_none(session, known.name)  # a job brings no name back
        changes = {"purged_at": None, "of_jobs": of_jobs, "name": earlier}
    elif known.of_jobs and not of_jobs:
        changes = {"of_jobs": False}
    if name not in (None, known.name):
        changes["name"] = name
    if changes:
        session.execute(sa.update(datasets).where(datasets.c.digest == digest).values(changes))
    return get(session, digest)


def set_license(session: Session, digest: str, license: str) -> values.Dataset:  # noqa: A002  (as everywhere)
    """Record the license of a data set.

    Raises:
        NotFound: no data set has that digest.
    """
    session.execute(sa.update(datasets).where(datasets.c.digest == digest).values(license=license))
    return get(session, digest)


def add_sources(session: Session, digest: str, sources: Collection[str]) -> None:
    """Record of which stored data sets another one was made. One that was removed meanwhile is left out."""
    known = session.scalars(sa.select(datasets.c.digest).where(one_of(datasets.c.digest, sources))) if sources else ()
    if rows := [{"digest": digest, "source": source} for source in known if source != digest]:
        session.execute(insert_new(session, _sources, "digest", "source"), rows)


def list_made(session: Session, digests: Collection[str]) -> list[str]:
    """Return the digests of data sets, and of all that were made of them, directly or not."""
    found, last = dict.fromkeys(digests), list(digests)
    while last:
        made = sa.select(_sources.c.digest).where(one_of(_sources.c.source, last)).distinct()
        last = [digest for digest in session.scalars(made) if digest not in found]
        found |= dict.fromkeys(last)
    return list(found)


def list_source_names(session: Session, digests: Collection[str]) -> list[str]:
    """Return the names of data sets, and of those that they were made of, directly or not."""
    found, last = dict.fromkeys(digests), list(digests)
    while last:
        sources = sa.select(_sources.c.source).where(one_of(_sources.c.digest, last)).distinct()
        last = [source for source in session.scalars(sources) if source not in found]
        found |= dict.fromkeys(last)
    is_named = one_of(datasets.c.digest, list(found)), datasets.c.name.is_not(None)
    return list(session.scalars(sa.select(datasets.c.name).where(*is_named).order_by(datasets.c.name)))


def lock_rows(session: Session, digests: Collection[str]) -> None:
    """Lock the rows of data sets until the commit, in the order of their digests."""
    rows = sa.select(datasets.c.digest).where(one_of(datasets.c.digest, digests)).order_by(datasets.c.digest)
    session.execute(rows.with_for_update())


def list_licenses(session: Session, digests: Collection[str]) -> dict[str, str]:
    """Return the licenses of those data sets that have one, by digest."""
    is_known = one_of(datasets.c.digest, digests), datasets.c.license.is_not(None)
    rows = session.execute(sa.select(datasets.c.digest, datasets.c.license).where(*is_known))
    return {row.digest: row.license for row in rows}


def _free_or_none(session: Session, name: str | None) -> str | None:
    """Return the name that a purged data set had, unless another one has it by now."""
    return name if name is None or find_named(session, name) is None else None


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
    """Keep data sets from a purge until the commit of what is made of them, or of the jobs that read them.

    Raises:
        Conflict: a data set was purged.
    """
    if not digests:
        return
    artifact_lock.share(session)
    rows = session.execute(
        sa.select(datasets.c.digest, datasets.c.name, datasets.c.purged_at)
        .where(one_of(datasets.c.digest, digests))
        .order_by(datasets.c.digest)  # in one order for all who lock several
        .with_for_update(read=True)
    )
    for row in rows:
        if row.purged_at is not None:
            raise errors.Conflict(f"data set {row.name or row.digest[:12]} was purged (add its data again)")


def hold_for_job(session: Session, job_id: str, digest: str) -> bool:
    """Keep a data set from a purge until a job has ended, which reads it if it is there. Return whether it is there."""
    row = session.execute(_lock(digest)).one_or_none()
    if row is None or row.purged_at is not None:
        return False
    session.execute(
        insert_new(session, job_datasets, "job_id", "digest").values(job_id=job_id, digest=digest, is_needed=False)
    )
    return True


def lock_purged(session: Session, digest: str) -> bool:
    """Lock a data set until the commit, and return whether it is purged. Then its text may be removed.

    A collection may have removed the data set meanwhile, if only jobs had stored it.
    """
    row = session.execute(_lock(digest)).one_or_none()
    return row is not None and row.purged_at is not None


def list_live(session: Session) -> list[str]:
    """Return the digests of all data sets that are not purged."""
    return list(session.scalars(sa.select(datasets.c.digest).where(datasets.c.purged_at.is_(None))))


def list_purged(session: Session) -> set[str]:
    """Return the digests of all data sets that are purged."""
    return set(session.scalars(sa.select(datasets.c.digest).where(datasets.c.purged_at.is_not(None))))


def purge(session: Session, name: str, *, parts: Collection[str] = ()) -> values.Dataset:
    """Record that the text of a data set is deleted. The caller deletes it afterwards, with `lock_purged`.

    The digest and the sizes stay.

    Args:
        parts: digests of data sets that are purged with it.

    Raises:
        NotFound: the data set does not exist.
        Conflict: an unfinished job needs it, or a part of it.
    """
    artifact_lock.own(session)
    dataset = get(session, name)
    for digest in (dataset.digest, *parts):
        session.execute(_lock(digest))  # waits for jobs that are being submitted, which the query below then sees
    refuse_needed(session, name, [dataset.digest, *parts])
    for digest in (dataset.digest, *parts):
        at = sa.func.coalesce(datasets.c.purged_at, now(), type_=datasets.c.purged_at.type)  # a second purge keeps it
        session.execute(sa.update(datasets).where(datasets.c.digest == digest).values(purged_at=at))
    if session.get_bind().dialect.name == "sqlite":
        sqlite.mark_unclean(session)  # the index of texts had the names
    return get(session, dataset.digest)


def name_trained(session: Session, digests: Sequence[str], *, limit: int) -> list[str]:
    """Return the references of versions that are not deleted and were trained or validated on some data."""
    adapters, versions = tables.Adapter.__table__, tables.AdapterVersion.__table__
    is_trained = sa.or_(one_of(versions.c.train_digest, digests), one_of(versions.c.validation_digest, digests))
    query = (
        sa.select(adapters.c.name, versions.c.number)
        .join(versions, versions.c.adapter_id == adapters.c.id)
        .where(versions.c.deleted_at.is_(None), versions.c.kind == "train", is_trained)
        .order_by(versions.c.id)
        .limit(limit)
    )
    return [f"{row.name}/{row.number}" for row in session.execute(query)]


def refuse_needed(session: Session, name: str, digests: Sequence[str]) -> None:
    """Refuse the purge of a data set if an unfinished job needs it, or one of its parts.

    Raises:
        Conflict: a job needs it.
    """
    readers: list[str] = []
    for digest in digests:
        unfinished = (
            sa.select(jobs.c.id)
            .join(job_datasets, job_datasets.c.job_id == jobs.c.id)
            .where(job_datasets.c.digest == digest, jobs.c.finished_at.is_(None))
            .order_by(jobs.c.id)
            .limit(_MAX_NAMED)
        )
        readers += session.scalars(unfinished)
    if readers:
        named = list(dict.fromkeys(readers[:_MAX_NAMED]))
        need = f"job {named[0]} needs it (cancel the job or wait until it ends)"
        if len(named) > 1:
            need = f"jobs {', '.join(named)} need it (cancel them or wait until they end)"
        raise errors.Conflict(f"cannot purge data set {name}: {need}")


def find_unused(session: Session, *, seconds: float) -> list[str]:
    """Return the digests of data that only jobs stored, so many seconds ago, and that nothing refers to any more.

    A job refers to it as long as the history has it, a version until it was deleted so many seconds ago, and figures of
    a version that is not deleted or of a base.
    """
    versions, evaluations = tables.AdapterVersion.__table__, tables.Evaluation.__table__
    is_kept = sa.or_(versions.c.deleted_at.is_(None), versions.c.deleted_at > once(later(-seconds)))
    of_versions = evaluations.outerjoin(versions, evaluations.c.version_id == versions.c.id)
    references = (
        sa.select(job_datasets.c.digest),
        sa.select(versions.c.train_digest).where(is_kept),
        sa.select(versions.c.validation_digest).where(is_kept),
        sa.select(evaluations.c.dataset_digest)
        .select_from(of_versions)
        .where(sa.or_(evaluations.c.version_id.is_(None), is_kept)),
        sa.select(_sources.c.source),  # what links a data set to one that was made of its parts
    )
    needed = {digest for query in references for digest in session.scalars(query)}
    unused = sa.select(datasets.c.digest).where(
        datasets.c.of_jobs,
        datasets.c.name.is_(None),
        datasets.c.purged_at.is_(None),
        datasets.c.created_at < once(later(-seconds)),
    )
    return [digest for digest in session.scalars(unused) if digest not in needed]


def remove_unused(session: Session, digests: Sequence[str]) -> list[str]:
    """Remove those rows of `find_unused` that no job reads now, and return their digests.

    The caller owns the lock of the artifacts, so no job that reads them is being submitted.
    """
    is_unused = (
        datasets.c.digest.in_(digests),
        datasets.c.of_jobs,
        datasets.c.name.is_(None),
        ~sa.exists().where(job_datasets.c.digest == datasets.c.digest),
        ~sa.exists().where(_sources.c.source == datasets.c.digest),
    )
    return list(session.scalars(sa.delete(datasets).where(*is_unused).returning(datasets.c.digest)))


def record_purges(session: Session, digests: Collection[str]) -> None:
    """Record purges in a copy of a registry, except those of data sets that an unfinished job of the copy needs."""
    needed = sa.exists().where(
        job_datasets.c.digest == datasets.c.digest, job_datasets.c.job_id == jobs.c.id, jobs.c.finished_at.is_(None)
    )
    for digest in digests:  # one statement for all could have more parameters than SQLite takes
        purging = sa.update(datasets).where(datasets.c.digest == digest, ~needed).values(purged_at=now())
        session.execute(purging)
