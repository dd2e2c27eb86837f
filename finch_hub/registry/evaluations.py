"""Measurements of versions and bases on data sets."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import values
from finch_hub.registry.tables import Adapter, AdapterVersion, Base, Evaluation
from finch_hub.specs.references import AdapterReference


def add(
    session: Session,
    *,
    base_id: int,
    dataset: str,
    evaluator: str,
    metrics: dict[str, Any],
    adapter: str | None = None,
    job_id: str | None = None,
) -> None:
    """Record a measurement.

    Args:
        dataset: digest of the data set.
        adapter: measured version as `name/3`; None for the bare base.

    Raises:
        NotFound: the version does not exist.

    """
    session.add(
        Evaluation(
            base_id=base_id,
            version_id=None if adapter is None else _version_id(session, adapter),
            dataset_digest=dataset,
            evaluator=evaluator,
            metrics=metrics,
            job_id=job_id,
        )
    )
    session.flush()


def find(
    session: Session, *, adapter: str | None = None, dataset: str | None = None, limit: int = 100
) -> list[values.Evaluation]:
    """Return measurements, newest first.

    Args:
        adapter: version as `name/3`; None for all.
        dataset: digest of a data set; None for all.

    Raises:
        NotFound: the version does not exist.

    """
    query = (
        sa.select(
            Evaluation, Base.name.label("base"), Adapter.name.label("adapter"), AdapterVersion.number.label("number")
        )
        .join(Base, Base.id == Evaluation.base_id)
        .outerjoin(AdapterVersion, AdapterVersion.id == Evaluation.version_id)
        .outerjoin(Adapter, Adapter.id == AdapterVersion.adapter_id)
        .order_by(Evaluation.id.desc())
        .limit(limit)
    )
    if adapter is not None:
        query = query.where(Evaluation.version_id == _version_id(session, adapter))
    if dataset is not None:
        query = query.where(Evaluation.dataset_digest == dataset)
    return [
        values.Evaluation(
            base=row.base,
            adapter=None if row.adapter is None else f"{row.adapter}/{row.number}",
            dataset=row.Evaluation.dataset_digest,
            evaluator=row.Evaluation.evaluator,
            metrics=row.Evaluation.metrics,
            job_id=row.Evaluation.job_id,
            created_at=row.Evaluation.created_at,
        )
        for row in session.execute(query)
    ]


def _version_id(session: Session, adapter: str) -> int:
    reference = AdapterReference.parse(adapter)
    found = session.scalar(
        sa.select(AdapterVersion.id)
        .join(AdapterVersion.adapter)
        .where(Adapter.name == reference.name, AdapterVersion.number == reference.version)
    )
    if found is None:
        raise errors.NotFound("adapter version", adapter)
    return found
