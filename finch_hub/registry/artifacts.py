"""Which stored artefacts are still needed."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub.registry.datasets import LIVE, datasets, digests_of
from finch_hub.registry.tables import AdapterVersion
from finch_hub.registry.transitions import in_state, jobs


def referenced(session: Session) -> set[str]:
    """Return the digests that garbage collection must leave alone.

    Those of versions that are not deleted, of data sets that are not purged, and of what unfinished jobs read.
    """
    versions = session.scalars(sa.select(AdapterVersion.digest).where(AdapterVersion.deleted_at.is_(None)))
    kept = session.scalars(sa.select(datasets.c.digest).where(datasets.c.purged_at.is_(None)))
    needed = session.scalars(sa.select(jobs.c.spec).where(in_state(*LIVE)))
    return {*versions, *kept, *(digest for spec in needed for digest in digests_of(spec))}
