"""References of the registry to artifacts: trees of versions, and texts of data sets."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub.registry.tables import AdapterVersion, Dataset, job_datasets, jobs


@dataclass(frozen=True, kw_only=True, slots=True)
class References:
    """Digests of artifacts, by what they are.

    Attributes:
        trees: trees of versions that are not deleted.
        texts: texts of data sets that are not purged.
        deleted: trees that only deleted versions have. A store may lack them.
    """

    trees: frozenset[str]
    texts: frozenset[str]
    deleted: frozenset[str]

    @property
    def needed(self) -> frozenset[str]:
        """Digests of all artifacts that the store must have."""
        return self.trees | self.texts


def find_references(session: Session) -> References:
    """Return the references of the registry.

    Other columns with digests, such as those of lineages and evaluations, name the same data sets, or ones that were
    purged or never stored here.
    """
    trees = frozenset(session.scalars(sa.select(AdapterVersion.digest).where(AdapterVersion.deleted_at.is_(None))))
    deleted = frozenset(session.scalars(sa.select(AdapterVersion.digest).where(AdapterVersion.deleted_at.is_not(None))))
    texts = frozenset(session.scalars(sa.select(Dataset.digest).where(Dataset.purged_at.is_(None))))
    # Jobs of early versions read data that has no row of its own.
    unregistered = sa.select(job_datasets.c.digest).where(
        job_datasets.c.job_id == jobs.c.id,
        jobs.c.finished_at.is_(None),
        ~sa.exists().where(Dataset.digest == job_datasets.c.digest),
    )
    return References(trees=trees, texts=texts | frozenset(session.scalars(unregistered)), deleted=deleted - trees)
