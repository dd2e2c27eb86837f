"""References of the registry to artifacts: trees and samples of versions, and texts of data sets."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub.registry.tables import Adapter, AdapterVersion, Dataset, Evidence, job_datasets, jobs
from finch_hub.registry.types import later, now, once, one_of


@dataclass(frozen=True, kw_only=True, slots=True)
class References:
    """Digests of artifacts, by what they are.

    Attributes:
        trees: trees of versions that are not deleted.
        texts: texts of data sets that are not purged.
        samples: sample answers of versions that are not deleted.
        deleted_trees: trees that only deleted versions have. A store may lack them.
        deleted_samples: sample answers that only deleted versions have. A store may lack them.
    """

    trees: frozenset[str]
    texts: frozenset[str]
    samples: frozenset[str]
    deleted_trees: frozenset[str]
    deleted_samples: frozenset[str]

    @property
    def all_trees(self) -> frozenset[str]:
        """Digests of the trees of all versions that are not purged."""
        return self.trees | self.deleted_trees

    @property
    def all_samples(self) -> frozenset[str]:
        """Digests of the sample answers of all versions that are not purged."""
        return self.samples | self.deleted_samples

    @property
    def needed(self) -> frozenset[str]:
        """Digests of all artifacts that the store must have."""
        return self.trees | self.blobs

    @property
    def blobs(self) -> frozenset[str]:
        """Digests of the blobs that belong to no tree, and that the store must have."""
        return self.texts | self.samples


def find_references(session: Session) -> References:
    """Return the references of the registry.

    Other columns with digests, such as those of lineages and evaluations, name the same data sets, or ones that were
    purged or never stored here.
    """
    trees = frozenset(session.scalars(sa.select(AdapterVersion.digest).where(AdapterVersion.deleted_at.is_(None))))
    is_deleted = AdapterVersion.deleted_at.is_not(None), AdapterVersion.purged_at.is_(None)
    samples = find_samples(session)
    texts = frozenset(session.scalars(sa.select(Dataset.digest).where(Dataset.purged_at.is_(None))))
    return References(
        trees=trees,
        texts=texts | frozenset(session.scalars(_UNREGISTERED)),
        samples=samples,
        deleted_trees=frozenset(session.scalars(sa.select(AdapterVersion.digest).where(*is_deleted))) - trees,
        deleted_samples=find_samples(session, kept_seconds=None) - samples,
    )


def select_blobs(session: Session, digests: Collection[str]) -> frozenset[str]:
    """Return those digests that are texts of data sets, samples of versions, or that unfinished jobs read.

    A thousand at most are given.
    """
    texts = sa.select(Dataset.digest).where(Dataset.digest.in_(digests), Dataset.purged_at.is_(None))
    unregistered = _UNREGISTERED.where(job_datasets.c.digest.in_(digests))
    samples = _SAMPLES.where(Evidence.samples.in_(digests), AdapterVersion.deleted_at.is_(None))
    return frozenset(digest for query in (texts, unregistered, samples) for digest in session.scalars(query) if digest)


def find_trees(session: Session, *, kept_seconds: float | None = 0.0) -> frozenset[str]:
    """Return the trees of versions that are not deleted, or were deleted within so many seconds and not purged.

    Args:
        kept_seconds: None for any time.
    """
    return frozenset(session.scalars(sa.select(AdapterVersion.digest).where(_is_kept(kept_seconds))))


def find_samples(session: Session, *, kept_seconds: float | None = 0.0) -> frozenset[str]:
    """Return the sample answers of the versions whose trees `find_trees` returns."""
    query = _SAMPLES.where(Evidence.samples.is_not(None), _is_kept(kept_seconds))
    return frozenset(digest for digest in session.scalars(query) if digest is not None)


def _is_kept(seconds: float | None) -> sa.ColumnElement[bool]:
    is_kept: sa.ColumnElement[bool] = AdapterVersion.purged_at.is_(None)
    if seconds is None:
        return is_kept
    is_recent = AdapterVersion.deleted_at > once(later(-seconds))
    return sa.and_(is_kept, sa.or_(AdapterVersion.deleted_at.is_(None), is_recent))


def name_versions(session: Session, tree: str, *, deleted: bool = False, limit: int = 5) -> list[str]:
    """Return the references of versions that have a tree and are not deleted, or are deleted and can be restored."""
    return _name(session, AdapterVersion.digest == tree, deleted=deleted, limit=limit)


def name_sampled(session: Session, samples: str, *, deleted: bool = False, limit: int = 5) -> list[str]:
    """Return the references of versions with some sample answers, of which `name_versions` returns the others."""
    of_samples = sa.select(Evidence.version_id).where(Evidence.samples == samples)
    return _name(session, AdapterVersion.id.in_(of_samples), deleted=deleted, limit=limit)


def name_misidentified(session: Session, tree: str, identity: str) -> list[tuple[str, str]]:
    """Return the versions that have a tree and another identity than its files, with that identity."""
    named = sa.select(Adapter.name, AdapterVersion.number, AdapterVersion.identity).join_from(AdapterVersion, Adapter)
    is_wrong = AdapterVersion.digest == tree, AdapterVersion.identity != identity, AdapterVersion.purged_at.is_(None)
    rows = session.execute(named.where(*is_wrong).order_by(AdapterVersion.id))
    return [(f"{row.name}/{row.number}", row.identity) for row in rows]


def find_identities(session: Session, trees: Collection[str]) -> dict[str, set[str]]:
    """Return the identities of the versions that have some trees and are not purged, by their trees."""
    found: dict[str, set[str]] = {}
    is_meant = one_of(AdapterVersion.digest, trees), AdapterVersion.purged_at.is_(None)
    query = sa.select(AdapterVersion.digest, AdapterVersion.identity).where(*is_meant)
    for digest, identity in session.execute(query):
        found.setdefault(digest, set()).add(identity)
    return found


def _name(session: Session, is_meant: sa.ColumnElement[bool], *, deleted: bool, limit: int) -> list[str]:
    is_kept = AdapterVersion.purged_at.is_(None), AdapterVersion.deleted_at.is_not(None) == deleted
    named = sa.select(Adapter.name, AdapterVersion.number).join_from(AdapterVersion, Adapter).where(is_meant, *is_kept)
    rows = session.execute(named.order_by(AdapterVersion.id).limit(limit))
    return [f"{row.name}/{row.number}" for row in rows]


def name_datasets(session: Session, text: str, *, limit: int = 5) -> list[str]:
    """Return the names of data sets that have a text and are not purged, or the digest if they have none."""
    having = sa.select(Dataset.name).where(Dataset.digest == text, Dataset.purged_at.is_(None))
    names = [name for name in session.scalars(having.order_by(Dataset.id).limit(limit)) if name]
    return names or [text[:12]]


def name_users(session: Session, digest: str) -> str:
    """Return what an artifact belongs to, as users write it: adapters, their sample answers, or data sets."""
    found = [
        f"{kind} {', '.join(named)}"
        for kind, named in (
            ("adapter", name_versions(session, digest)),
            ("sample answers of adapter", name_sampled(session, digest)),
            ("data set", name_datasets(session, digest)),
        )
        if named
    ]
    return found[0]


def find_newest_version(session: Session) -> int:
    """Return the number of the registration of the newest version, 0 if there is none."""
    return session.scalar(sa.select(sa.func.max(AdapterVersion.id))) or 0


def list_trees(session: Session, *, after: int) -> list[tuple[int, str, bool]]:
    """Return the trees of newer versions with the numbers of their registrations, in this order.

    The last part tells whether the version is deleted, as one that came without its files is from the beginning.
    """
    query = sa.select(AdapterVersion.id, AdapterVersion.digest, AdapterVersion.deleted_at.is_not(None).label("deleted"))
    rows = session.execute(query.where(AdapterVersion.id > after).order_by(AdapterVersion.id))
    return [(row.id, row.digest, row.deleted) for row in rows]


def list_restored(session: Session, *, since: datetime) -> list[str]:
    """Return the trees of versions that were restored since a time of the database's clock."""
    is_restored = AdapterVersion.restored_at.is_not(None), AdapterVersion.restored_at >= since
    return list(session.scalars(sa.select(AdapterVersion.digest).where(*is_restored)))


def read_time(session: Session) -> datetime:
    """Return the time by the database's clock."""
    return session.scalars(sa.select(now())).one()


_SAMPLES = sa.select(Evidence.samples).join(AdapterVersion, AdapterVersion.id == Evidence.version_id)
# Jobs of early versions read data that has no row of its own.
_UNREGISTERED = sa.select(job_datasets.c.digest).where(
    job_datasets.c.job_id == jobs.c.id,
    jobs.c.finished_at.is_(None),
    ~sa.exists().where(Dataset.digest == job_datasets.c.digest),
)
