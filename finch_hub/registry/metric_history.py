"""Histories of a metric over the versions of an adapter."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import adapter_names
from finch_hub.registry.tables import AdapterVersion
from finch_hub.registry.types import read_document
from finch_hub.specs.comparisons import MetricPoint


def find(session: Session, name: str, metric: str) -> list[MetricPoint]:
    """Return a metric of each version of an adapter that is not deleted, oldest first.

    Raises:
        NotFound: the adapter does not exist, or none of its versions has the metric; names the metrics that they have.
    """
    adapter_id, current = adapter_names.find_id(session, name), adapter_names.find_current(session, name)
    query = (
        sa.select(
            AdapterVersion.number,
            AdapterVersion.state,
            AdapterVersion.created_at,
            AdapterVersion.metrics,
            AdapterVersion.validation_digest,
        )
        .where(AdapterVersion.adapter_id == adapter_id, AdapterVersion.deleted_at.is_(None))
        .order_by(AdapterVersion.number)
    )
    points: list[MetricPoint] = []
    known: set[str] = set()
    for row in session.execute(query):
        metrics = read_document(row.metrics)  # not looked up by SQL, since SQLite has no path for some names
        known.update(metrics)
        value, version = metrics.get(metric), f"{current}/{row.number}"
        known_of = {"state": row.state, "held_out": row.validation_digest, "created_at": row.created_at}
        points.append(MetricPoint(version=version, value=value, **known_of))
    if not points:
        raise adapter_names.not_found(session, name)
    if all(point.value is None for point in points):
        raise errors.NotFound("metric", metric, known, lists_known=True)
    return points
