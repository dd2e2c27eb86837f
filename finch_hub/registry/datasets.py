"""Data sets, told apart by the digest of their examples."""

from __future__ import annotations

from typing import cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import tables, values
from finch_hub.registry.transitions import in_state, jobs
from finch_hub.registry.types import insert_new, now
from finch_hub.specs.jobs import JobState

datasets = cast(sa.Table, tables.Dataset.__table__)
_COLUMNS = [datasets.c[name] for name in values.Dataset.model_fields]
LIVE = (JobState.WAITING, JobState.QUEUED, JobState.RUNNING)


def add(
    session: Session,
    *,
    digest: str,
    format: str,  # noqa: A002  (as everywhere)
    examples: int,
    size: int = 0,
    name: str | None = None,
) -> values.Dataset:
    """Register a data set whose text is stored; a known one keeps its name unless another is given."""
    session.execute(
        insert_new(session, datasets, "digest").values(
            digest=digest, format=format, examples=examples, bytes=size, name=name
        )
    )
    changes = {"purged_at": None, **({"name": name} if name else {})}
    session.execute(sa.update(datasets).where(datasets.c.digest == digest).values(changes))
    return get(session, digest)


def get(session: Session, name: str) -> values.Dataset:
    """Return the data set with that digest (or its first eight signs and more), or the newest one with that name.

    Raises:
        NotFound: there is none.

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
    """Note that the text of a data set is gone; its hash and figures stay. The caller removes the artefact.

    Raises:
        NotFound: there is no such data set.
        Conflict: an unfinished job needs it.

    """
    found = get(session, name)
    live = session.execute(sa.select(jobs.c.id, jobs.c.spec).where(in_state(*LIVE)))
    needed = sorted(row.id for row in live if found.digest in digests_of(row.spec))
    if needed:
        raise errors.Conflict(f"data set {name} is needed by job {', '.join(needed)}: cancel it or wait for it")
    session.execute(sa.update(datasets).where(datasets.c.digest == found.digest).values(purged_at=now()))
    return get(session, found.digest)


def digests_of(spec: dict[str, object]) -> set[str]:
    """Return the data sets that a stored specification names."""
    return {str(spec[field]) for field in ("train", "validation", "dataset") if spec.get(field)}
