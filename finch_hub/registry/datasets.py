"""Data sets, identified by the digest of their examples."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import tables, values
from finch_hub.registry.tables import jobs
from finch_hub.registry.types import insert_new, now
from finch_hub.specs.options import write_options

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
    replace: bool = False,
) -> values.Dataset:
    """Register a stored data set. A known data set keeps its name if `name` is None.

    Args:
        replace: whether a name that is taken moves to this data set, and another name that it has is dropped.

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
    changes = {"purged_at": None, **({"name": name} if name else {})}
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
    found = find_named(session, name) or _first(session, sa.or_(datasets.c.digest == name, datasets.c.name == name))
    if found is None and len(name) >= 8:
        found = _first(session, datasets.c.digest.startswith(name, autoescape=True))
    if found is None:
        known = session.execute(sa.select(datasets.c.name, datasets.c.digest)).all()
        raise errors.NotFound("data set", name, [text for pair in known for text in pair if text])
    return found


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
