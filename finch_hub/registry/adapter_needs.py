"""Adapter versions that unfinished jobs read, as the specifications of the jobs name them."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import adapter_names, adapter_versions
from finch_hub.registry.tables import Adapter, AdapterVersion, Parent, jobs
from finch_hub.registry.types import one_of, read_document
from finch_hub.specs.jobs import JobState, list_adapters
from finch_hub.specs.references import AdapterReference
from finch_hub.specs.value import JsonObject

_MAX_NAMED = 20  # jobs in a message
_REPRODUCE = "reproduce"  # the kind that also reads the parents of its version


def hold(session: Session, specs: Collection[JsonObject], *, pending: Container[str] = ()) -> None:
    """Keep the versions that new jobs read from a deletion until the commit of the jobs.

    Args:
        specs: JSON of the specifications of the jobs.
        pending: names of adapters of which other jobs are still making a version.

    Raises:
        NotFound: a version or an alias of a known adapter does not exist, because it was deleted meanwhile.
        Conflict: a job names an adapter without a number, and it has no ready version.
    """
    needs = dict.fromkeys(need for spec in specs for need in _list_needs(session, spec))
    if not needs:
        return
    current = {name: adapter_names.find_current(session, name) for name in {need.name for need in needs}}
    # Deletions lock the same rows, and new versions of the adapters do not wait.
    adapters = sa.select(Adapter.name).where(one_of(Adapter.name, sorted(set(current.values()))))
    held = session.scalars(adapters.order_by(Adapter.name).with_for_update(read=True, key_share=True)).all()
    for need in needs:
        if current[need.name] in held and need.name not in pending:
            adapter_versions.require(session, need)


def refuse_needed(session: Session, row: AdapterVersion) -> None:
    """Refuse the deletion of a version that an unfinished job reads.

    Until a running job ends, any version of an adapter counts that it names without a number.

    Raises:
        Conflict: a job reads it.
    """
    name, newest = row.adapter.name, _find_newest(session, row.adapter_id)
    found = []
    for job_id, state, need in _list_unfinished(session, row.adapter_id):
        is_newest = need.version is None and need.alias is None and newest == row.number
        is_any = need.version is None and state is JobState.RUNNING
        if need.version == row.number or is_newest or is_any:
            found.append(job_id)
    _refuse(found, f"cannot delete adapter {name}/{row.number}")


def refuse_needed_alias(session: Session, row: AdapterVersion, alias: str) -> None:
    """Refuse the deletion of an alias of a version that an unfinished job names.

    Raises:
        Conflict: a job names it.
    """
    found = [job_id for job_id, _, need in _list_unfinished(session, row.adapter_id) if need.alias == alias]
    _refuse(found, f"cannot delete alias {row.adapter.name}@{alias}")


def _refuse(found: Collection[str], what: str) -> None:
    if found:
        named = ", ".join(list(dict.fromkeys(found))[:_MAX_NAMED])
        raise errors.Conflict(f"{what}: job {named} needs it (cancel the job or wait until it ends)")


def _list_unfinished(session: Session, adapter_id: int) -> Iterator[tuple[str, JobState, AdapterReference]]:
    """Yield the unfinished jobs that read an adapter, with each reference to it, by whichever of its names."""
    names, spec = adapter_names.list_names(session, adapter_id), sa.cast(jobs.c.spec, sa.Text())
    is_named = [spec.contains(f'"{name}', autoescape=True) for name in names]
    rows = session.execute(
        sa.select(jobs.c.id, jobs.c.state, jobs.c.spec)
        .where(jobs.c.finished_at.is_(None), sa.or_(*is_named, jobs.c.kind == _REPRODUCE))
        .order_by(jobs.c.number)
    ).all()
    for row in rows:
        for need in _list_needs(session, read_document(row.spec)):
            if need.name in names:
                yield row.id, row.state, need


def _list_needs(session: Session, spec: JsonObject) -> list[AdapterReference]:
    needs = list_adapters(spec)
    if spec.get("kind") == _REPRODUCE:
        needs += [parent for need in needs for parent in _find_parents(session, need)]
    return needs


def _find_parents(session: Session, child: AdapterReference) -> list[AdapterReference]:
    of_child = (
        sa.select(AdapterVersion.id)
        .join(AdapterVersion.adapter)
        .where(Adapter.name == adapter_names.find_current(session, child.name), AdapterVersion.number == child.version)
    )
    parents = session.scalars(sa.select(Parent.reference).where(Parent.version_id.in_(of_child)))
    return [AdapterReference.parse(parent) for parent in parents]


def _find_newest(session: Session, adapter_id: int) -> int | None:
    """Return the number of the version for which the bare name of an adapter stands."""
    is_ready = AdapterVersion.state == "ready", AdapterVersion.deleted_at.is_(None)
    numbers = sa.select(sa.func.max(AdapterVersion.number)).where(AdapterVersion.adapter_id == adapter_id, *is_ready)
    return session.scalar(numbers)
