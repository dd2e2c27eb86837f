"""References to stored artifacts."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub.registry.datasets import UNFINISHED, datasets, digests_of
from finch_hub.registry.tables import Adapter, AdapterVersion
from finch_hub.registry.transitions import in_state, jobs
from finch_hub.specs.references import AdapterReference


def referenced(session: Session) -> set[str]:
    """Return the digests of artifacts that garbage collection must keep.

    These are versions that are not deleted, data sets that are not purged, and the inputs of unfinished jobs.
    """
    specs = session.scalars(sa.select(jobs.c.spec).where(in_state(*UNFINISHED))).all()
    read = {name for spec in specs for name in _adapters_of(spec)}
    versions = session.scalars(
        sa.select(AdapterVersion.digest)
        .join(AdapterVersion.adapter)
        .where(sa.or_(AdapterVersion.deleted_at.is_(None), Adapter.name.in_(read)))
    )
    kept = session.scalars(sa.select(datasets.c.digest).where(datasets.c.purged_at.is_(None)))
    return {*versions, *kept, *(digest for spec in specs for digest in digests_of(spec))}


def _adapters_of(spec: dict[str, Any]) -> set[str]:
    """Return the names of the adapters that a stored specification refers to."""
    texts = [spec.get("adapter"), *spec.get("adapters", ()), *(parent["adapter"] for parent in spec.get("parents", ()))]
    return {AdapterReference.parse(text).name for text in texts if text}
