"""Histories of a metric over the versions of an adapter."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry.tables import Adapter, AdapterVersion
from finch_hub.registry.types import read_document
from finch_hub.specs.comparisons import MetricPoint

_EXAMINED = 20  # newest versions whose metrics a message names


def find(session: Session, name: str, metric: str) -> list[MetricPoint]:
    """Return a metric of each version of an adapter that is not deleted, oldest first.

    Raises:
        NotFound: the adapter does not exist, or none of its versions has the metric; names the metrics that they have.
    """
    of_adapter = (
        sa.select(AdapterVersion.number, AdapterVersion.state, AdapterVersion.created_at)
        .join(AdapterVersion.adapter)
        .where(Adapter.name == name, AdapterVersion.deleted_at.is_(None))
    )
    query = of_adapter.add_columns(AdapterVersion.metrics[metric].label("value")).order_by(AdapterVersion.number)
    rows = session.execute(query).all()
    if not rows:
        raise errors.NotFound("adapter", name, session.scalars(sa.select(Adapter.name).limit(1000)))
    if all(row.value is None for row in rows):
        newest = sa.select(AdapterVersion.metrics).join(AdapterVersion.adapter)
        newest = newest.where(Adapter.name == name, AdapterVersion.deleted_at.is_(None))
        documents = session.scalars(newest.order_by(AdapterVersion.number.desc()).limit(_EXAMINED))
        known = {key for document in documents for key in read_document(document)}
        raise errors.NotFound("metric", metric, known, lists_known=True)
    return [
        MetricPoint(version=f"{name}/{row.number}", value=row.value, state=row.state, created_at=row.created_at)
        for row in rows
    ]
