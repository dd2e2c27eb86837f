"""Data sets, identified by the digest of their examples."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import tables, values
from finch_hub.registry.tables import jobs
from finch_hub.registry.types import insert_new, now

datasets = tables.Dataset.__table__
_COLUMNS = [datasets.c[name] for name in values.Dataset.model_fields]
_DATASET_FIELDS = ("train", "validation", "dataset")  # of specifications


def add(
    session: Session,
    *,
    digest: str,
    format: str,  # noqa: A002  (as everywhere)
    examples: int,
    size: int = 0,
    name: str | None = None,
) -> values.Dataset:
    """Register a stored data set. A known data set keeps its name if `name` is None."""
    session.execute(
        insert_new(session, datasets, "digest").values(
            digest=digest, format=format, examples=examples, bytes=size, name=name
        )
    )
    changes = {"purged_at": None, **({"name": name} if name else {})}
    session.execute(sa.update(datasets).where(datasets.c.digest == digest).values(changes))
    return get(session, digest)


def get(session: Session, name: str) -> values.Dataset:
    """Return the data set with that digest, or the newest data set with that name.

    Eight or more characters of the digest are enough.

    Raises:
        NotFound: no data set has that digest or name.
    """
    wanted = sa.or_(datasets.c.digest == name, datasets.c.name == name)
    if len(name) >= 8:
        wanted |= datasets.c.digest.startswith(name, autoescape=True)
    row = session.execute(sa.select(*_COLUMNS).where(wanted).order_by(datasets.c.id.desc()).limit(1)).one_or_none()
    if row is None:
        known = session.execute(sa.select(datasets.c.name, datasets.c.digest)).all()
        raise errors.NotFound("data set", name, [text for pair in known for text in pair if text])
    return values.Dataset(**row._mapping)


def find(session: Session, *, limit: int = 100) -> list[values.Dataset]:
    """Return the data sets, newest first."""
    rows = session.execute(sa.select(*_COLUMNS).order_by(datasets.c.id.desc()).limit(limit))
    return [values.Dataset(**row._mapping) for row in rows]


def purge(session: Session, name: str) -> values.Dataset:
    """Record that the text of a data set is deleted. The caller deletes the artifact.

    The digest and the sizes stay.

    Raises:
        NotFound: the data set does not exist.
        Conflict: an unfinished job needs it.
    """
    dataset = get(session, name)
    unfinished = session.execute(sa.select(jobs.c.id, jobs.c.spec).where(jobs.c.finished_at.is_(None)))
    readers = sorted(row.id for row in unfinished if dataset.digest in map(row.spec.get, _DATASET_FIELDS))
    if readers:
        what = f"cannot purge data set {name}: job {', '.join(readers)} needs it (cancel the job or wait until it ends)"
        raise errors.Conflict(what)
    session.execute(sa.update(datasets).where(datasets.c.digest == dataset.digest).values(purged_at=now()))
    return get(session, dataset.digest)
