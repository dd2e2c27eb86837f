"""Evidence of versions, and the references to their sample answers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import adapter_versions
from finch_hub.registry.tables import Adapter, AdapterVersion, Dataset, Parent, job_events, jobs
from finch_hub.registry.tables import Evidence as EvidenceRow
from finch_hub.registry.types import insert_new, now, one_of, read_document
from finch_hub.specs.evidence import Absence, Evidence, LossCurve, SamplesState, curve_of_events
from finch_hub.specs.references import AdapterReference

_evidence, _versions = EvidenceRow.__table__, AdapterVersion.__table__
_adapters, _lineage = Adapter.__table__, Parent.__table__
_CURVE_EVENTS = ("progress", "metrics")


class StoredSamples(NamedTuple):
    """Reference of a version to its sample answers.

    Attributes:
        is_of_purged: whether the data of the version was purged.
    """

    version_id: int
    digest: str
    is_of_purged: bool


def find(session: Session, reference: str) -> tuple[Evidence, str | None]:
    """Return the evidence of a version, also of a deleted one, and the digest of its sample answers.

    Parents have the names and numbers that they have in this hub now. The evidence of a version that an earlier Finch
    Hub made is that of its job, until the job is pruned. Without any, it says why.

    Raises:
        NotFound: the version does not exist.
    """
    parsed = AdapterReference.parse(reference)
    version = adapter_versions.get_row(session, parsed, deleted=parsed.version is not None)
    row = session.execute(sa.select(_evidence).where(_evidence.c.version_id == version.id)).one_or_none()
    found: Evidence | None = None
    absence: Absence | None = "not recorded"
    if row is not None:
        found = read_stored(row.document)
        absence = "not recorded" if found is not None else "unreadable"
    elif version.purged_at is not None:
        absence = "purged"
    elif version.job_id is not None:
        found = _read_job(session, version.job_id, version.kind)
        absence = "unreadable" if found is None and _has_report(session, version.job_id) else "not recorded"
    elif version.kind != "import":
        absence = "pruned"
    if found is not None and not found.is_empty:
        absence = None
    state: SamplesState = "none"
    if row is not None:
        state = "stored" if row.samples else "purged" if row.samples_purged_at else "none"
    reference = f"{version.adapter.name}/{version.number}"
    environment = read_document(version.environment)
    known = found or Evidence(kind=version.kind)
    if known.composition is not None:  # of which the reports name parents
        known = known.name_parents(_list_parents(session, version.id))
    evidence = known.evolve(adapter=reference, environment=environment, samples=state, absence=absence)
    return evidence, None if row is None else row.samples


def _list_parents(session: Session, version_id: int) -> list[str]:
    """Return the references of the parents of a version, in their order."""
    of_parent = _lineage.join(_versions, _versions.c.id == _lineage.c.parent_id)
    query = (
        sa.select(_adapters.c.name, _versions.c.number)
        .select_from(of_parent.join(_adapters, _adapters.c.id == _versions.c.adapter_id))
        .where(_lineage.c.version_id == version_id)
        .order_by(_lineage.c.position)
    )
    return [f"{row.name}/{row.number}" for row in session.execute(query)]


def keep_of_jobs(session: Session, ids: Sequence[str], *, limit: int) -> list[str]:
    """Keep the evidence of versions that have none but their job's, and return the jobs that may be deleted.

    Args:
        ids: jobs that are to be deleted, in order.
        limit: number of versions whose evidence is kept. Of further ones the jobs stay, for the next time.
    """
    without = (
        sa.select(_versions.c.id, _versions.c.job_id, _versions.c.kind)
        .where(
            one_of(_versions.c.job_id, ids),
            _versions.c.purged_at.is_(None),
            ~sa.exists().where(_evidence.c.version_id == _versions.c.id),
        )
        .order_by(_versions.c.id)
    )
    rows = session.execute(without).all()
    insert = insert_new(session, _evidence, "version_id")
    for row in rows[:limit]:
        found = _read_job(session, row.job_id, row.kind)
        if found is not None:
            session.execute(insert.values(version_id=row.id, document=found.to_document()))
    left = {row.job_id for row in rows[limit:]}
    return [job_id for job_id in ids if job_id not in left]


def list_samples(session: Session, *, after: int = 0, limit: int = 500) -> list[StoredSamples]:
    """Return a page of the references to sample answers, in the order of the versions' ids."""
    is_of_purged = sa.exists().where(
        Dataset.purged_at.is_not(None), Dataset.digest.in_([_versions.c.train_digest, _versions.c.validation_digest])
    )
    query = (
        sa.select(_evidence.c.version_id, _evidence.c.samples, is_of_purged.label("is_of_purged"))
        .join(_versions, _versions.c.id == _evidence.c.version_id)
        .where(_evidence.c.samples.is_not(None), _evidence.c.version_id > after)
        .order_by(_evidence.c.version_id)
        .limit(limit)
    )
    return [StoredSamples(*row) for row in session.execute(query)]


def forget_samples(session: Session, digests: Collection[str]) -> int:
    """Record that sample answers are purged, and return the number of versions that had them."""
    had_them = sa.update(_evidence).where(one_of(_evidence.c.samples, digests))
    rows = session.scalars(had_them.values(samples=None, samples_purged_at=now()).returning(_evidence.c.version_id))
    return len(rows.all())


def read_stored(document: Any) -> Evidence | None:
    """Return the evidence of a stored document, None if it is damaged, or of a later version."""
    try:
        return Evidence.of_stored(document)
    except errors.InvalidSpec:
        return None


def _read_job(session: Session, job_id: str, kind: str) -> Evidence | None:
    """Return the evidence that a job has, None if it is gone or has no report."""
    result = session.scalar(sa.select(jobs.c.result).where(jobs.c.id == job_id))
    if not isinstance(result, dict) or "report" not in result:
        return None
    return Evidence.of_report(kind, result["report"], read_curve(session, job_id) if kind == "train" else None)


def _has_report(session: Session, job_id: str) -> bool:
    result = session.scalar(sa.select(jobs.c.result).where(jobs.c.id == job_id))
    return result is not None and not (isinstance(result, dict) and "report" not in result)


def read_curve(session: Session, job_id: str) -> LossCurve:
    """Return the curve that the events of a job have so far, which is empty for a job that trains nothing."""
    events = session.execute(
        sa.select(job_events.c.type, job_events.c.data)
        .where(job_events.c.job_id == job_id, job_events.c.type.in_(_CURVE_EVENTS))
        .order_by(job_events.c.seq)
    )
    return curve_of_events((event.type, event.data) for event in events if isinstance(event.data, dict))
