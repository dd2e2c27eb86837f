"""Measurements of versions and bases on data sets."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub.registry import values
from finch_hub.registry.adapter_versions import get_row
from finch_hub.registry.tables import Adapter, AdapterVersion, Base, Evaluation
from finch_hub.registry.types import read_document
from finch_hub.specs.value import JsonObject


def add(
    session: Session,
    *,
    base_id: int,
    dataset: str,
    evaluator: str,
    metrics: JsonObject,
    adapter: str | None = None,
    job_id: str | None = None,
) -> None:
    """Record metrics of the version `adapter`, or of the bare base, on the data set with that digest.

    Raises:
        NotFound: the version does not exist.
    """
    session.add(
        Evaluation(
            base_id=base_id,
            version_id=None if adapter is None else get_row(session, adapter, deleted=True).id,
            dataset_digest=dataset,
            evaluator=evaluator,
            metrics=metrics,
            job_id=job_id,
        )
    )
    session.flush()


def find(session: Session, *, adapter: str | None = None, limit: int = 100) -> list[values.Evaluation]:
    """Return measurements, newest first: all, or those of a version.

    Raises:
        NotFound: the version does not exist.
    """
    query = (
        sa.select(
            Base.name.label("base"),
            (Adapter.name + "/" + sa.cast(AdapterVersion.number, sa.String())).label("adapter"),
            Evaluation.dataset_digest.label("dataset"),
            *(Evaluation.evaluator, Evaluation.metrics, Evaluation.job_id, Evaluation.created_at),
        )
        .join(Base, Base.id == Evaluation.base_id)
        .outerjoin(AdapterVersion, AdapterVersion.id == Evaluation.version_id)
        .outerjoin(Adapter, Adapter.id == AdapterVersion.adapter_id)
        .order_by(Evaluation.id.desc())
        .limit(limit)
    )
    if adapter is not None:
        query = query.where(Evaluation.version_id == get_row(session, adapter, deleted=True).id)
    rows = session.execute(query)
    return [values.Evaluation(**{**row._mapping, "metrics": read_document(row.metrics)}) for row in rows]
