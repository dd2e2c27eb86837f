"""The deployment: one database with its workers and clients, and its artifact store."""

from __future__ import annotations

import re

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub.registry.tables import AdapterVersion, Dataset, Deployment, Job, JobDataset
from finch_hub.registry.types import later, now

_DIGEST = re.compile(r"[0-9a-f]{64}")


def find_id(session: Session) -> str:
    """Return the id of the deployment, which the migration that made its table chose at random."""
    return session.scalars(sa.select(Deployment.id)).one()


def record_store(session: Session) -> bool:
    """Record that the deployment's store has a marker, and return whether this was not recorded before.

    Others that record it wait for the end of the transaction.
    """
    unmarked = Deployment.store_marked_at.is_(None)
    statement = sa.update(Deployment).where(unmarked).values(store_marked_at=now()).returning(Deployment.id)
    return session.scalar(statement) is not None


def has_store(session: Session) -> bool:
    """Return whether the deployment's store is known to have a marker."""
    return session.scalars(sa.select(Deployment.store_marked_at)).one() is not None


def begin_collection(session: Session, *, seconds: float) -> bool:
    """Record that a collection begins, and return whether the last one began at least so many seconds ago."""
    is_recent = Deployment.collected_at.between(later(-seconds), now())  # a clock that jumped may leave a later time
    is_due = sa.or_(Deployment.collected_at.is_(None), ~is_recent)
    return (
        session.scalar(sa.update(Deployment).where(is_due).values(collected_at=now()).returning(Deployment.id))
        is not None
    )


def list_artifacts(session: Session, *, limit: int = 20) -> list[str]:
    """Return digests of artifacts that a store should have: of the newest versions and data sets, and of jobs' data."""
    versions = sa.select(AdapterVersion.digest).order_by(AdapterVersion.id.desc()).limit(limit)
    datasets = sa.select(Dataset.digest).where(Dataset.purged_at.is_(None)).order_by(Dataset.id.desc()).limit(limit)
    unfinished = sa.select(Job.id).where(Job.finished_at.is_(None))
    needed = sa.select(JobDataset.digest).where(JobDataset.job_id.in_(unfinished)).limit(limit)
    return [digest for query in (versions, datasets, needed) for digest in session.scalars(query)]


def list_past_data(session: Session, *, limit: int = 20) -> list[str]:
    """Return digests of artifacts that a store may have: of the data of the newest jobs, unless it was purged."""
    specs = session.scalars(sa.select(Job.spec).order_by(Job.number.desc()).limit(limit))
    fields = (field for spec in specs if isinstance(spec, dict) for field in spec.values())
    return [field for field in fields if isinstance(field, str) and _DIGEST.fullmatch(field)]
