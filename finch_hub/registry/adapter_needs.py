"""Adapters that unfinished jobs read or make versions of, as the specifications of the jobs name them."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import adapter_names, adapter_versions
from finch_hub.registry.tables import Adapter, AdapterVersion, Parent, jobs
from finch_hub.registry.types import one_of, read_document
from finch_hub.specs.jobs import JobState, find_target, list_adapters
from finch_hub.specs.references import AdapterReference
from finch_hub.specs.value import JsonObject

_MAX_NAMED = 20  # jobs in a message
_REPRODUCE = "reproduce"  # the kind that also reads the parents of its version


def hold(session: Session, specs: Collection[JsonObject], *, pending: Container[str] = ()) -> None:
    """Keep the versions that new jobs read, and the adapters that they add to, from a deletion until the commit.

    Args:
        specs: JSON of the specifications of the jobs.
        pending: names of adapters of which other jobs are still making a version.

    Raises:
        NotFound: a version or an alias of a known adapter does not exist, because it was deleted meanwhile.
        Deleted: a job makes a version of a deleted adapter.
        Conflict: a job names an adapter without a number, and it has no ready version.
    """
    needs = dict.fromkeys(need for spec in specs for need in _list_needs(session, spec))
    targets = {target for spec in specs if (target := find_target(spec)) is not None}
    names = {need.name for need in needs} | targets
    if not names:
        return
    current = {name: adapter_names.find_current(session, name) for name in names}
    # Deletions lock the same rows, and new versions of the adapters do not wait.
    adapters = sa.select(Adapter.name, Adapter.deleted_at).where(one_of(Adapter.name, sorted(set(current.values()))))
    rows = session.execute(adapters.order_by(Adapter.name).with_for_update(read=True, key_share=True)).all()
    added = {current[target] for target in targets}
    for row in rows:
        if row.name in added and row.deleted_at is not None:
            raise errors.Deleted("adapter", row.name)
    held = {row.name for row in rows}
    for need in needs:
        if current[need.name] in held and need.name not in pending:
            adapter_versions.require(session, need)


def explain_version(session: Session, row: AdapterVersion) -> list[str]:
    """Return why unfinished jobs forbid the deletion of a version, nothing if none reads it.

    Until a running job ends, any version of an adapter counts that it names without a number.
    """
    newest = _find_newest(session, row.adapter_id)
    found = []
    for job_id, state, need in _list_unfinished(session, row.adapter_id):
        is_newest = need.version is None and need.alias is None and newest == row.number
        is_any = need.version is None and state is JobState.RUNNING
        if need.version == row.number or is_newest or is_any:
            found.append(job_id)
    return _explain(found)


def explain_adapter(session: Session, adapter_id: int) -> list[str]:
    """Return why unfinished jobs forbid the deletion of an adapter, nothing if none reads it or adds to it."""
    names = adapter_names.list_names(session, adapter_id)
    readers = [job_id for job_id, _, _ in _list_unfinished(session, adapter_id)]
    rows = _select_unfinished(session, names)
    return _explain([*readers, *(row.id for row in rows if find_target(read_document(row.spec)) in names)])


def refuse_coming(session: Session, name: str) -> None:
    """Refuse the name of a new adapter of which an unfinished job makes the first version.

    Raises:
        Conflict: a job does so.
    """
    rows = _select_unfinished(session, [name])
    for reason in _explain([row.id for row in rows if find_target(read_document(row.spec)) == name]):
        raise errors.Conflict(f"cannot give an adapter the name {name}: {reason}")


def refuse_needed_alias(session: Session, row: AdapterVersion, alias: str) -> None:
    """Refuse the deletion of an alias of a version that an unfinished job names.

    Raises:
        Conflict: a job names it.
    """
    found = [job_id for job_id, _, need in _list_unfinished(session, row.adapter_id) if need.alias == alias]
    for reason in _explain(found):
        raise errors.Conflict(f"cannot delete alias {row.adapter.name}@{alias}: {reason}")


def _explain(found: Collection[str]) -> list[str]:
    named = list(dict.fromkeys(found))[:_MAX_NAMED]
    if len(named) > 1:
        return [f"jobs {', '.join(named)} need it (cancel them or wait until they end)"]
    return [f"job {named[0]} needs it (cancel the job or wait until it ends)"] if named else []


def _list_unfinished(session: Session, adapter_id: int) -> Iterator[tuple[str, JobState, AdapterReference]]:
    """Yield the unfinished jobs that read an adapter, with each reference to it, by whichever of its names."""
    names = adapter_names.list_names(session, adapter_id)
    for row in _select_unfinished(session, names):
        for need in _list_needs(session, read_document(row.spec)):
            if need.name in names:
                yield row.id, row.state, need


def _select_unfinished(session: Session, names: Collection[str]) -> Sequence[sa.Row[Any, Any, Any]]:
    """Return the unfinished jobs that may name an adapter."""
    spec = sa.cast(jobs.c.spec, sa.Text())
    is_named = [spec.contains(f'"{name}', autoescape=True) for name in names]
    query = (
        sa.select(jobs.c.id, jobs.c.state, jobs.c.spec)
        .where(jobs.c.finished_at.is_(None), sa.or_(*is_named, jobs.c.kind == _REPRODUCE))
        .order_by(jobs.c.number)
    )
    return session.execute(query).all()


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
