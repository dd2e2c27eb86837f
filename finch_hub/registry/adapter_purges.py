"""Purges of versions and of whole adapters. Rows stay, so that numbers are not reused and lineages can name them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import adapter_names, adapter_needs, artifact_lock, sqlite
from finch_hub.registry.adapter_deletion import explain_aliases, get_adapter, refuse
from finch_hub.registry.adapter_versions import get_row, lock_adapter
from finch_hub.registry.tables import Adapter, AdapterVersion, Alias, Evidence, Parent, Table
from finch_hub.registry.types import Columns, now
from finch_hub.specs.references import AdapterReference

_versions = AdapterVersion.__table__
_MAX_NAMED = 20  # children in a message
_KEPT = frozenset({Parent.__tablename__, Alias.__tablename__})  # the lineage stays, and there is no alias by then
_EMPTY: Columns = {
    **{name: {} for name in ("spec", "metrics", "versions", "environment")},
    **dict.fromkeys(("card", "notes"), ""),
    **dict.fromkeys(("preset", "seed", "card_edited_at")),
}


@dataclass(frozen=True, kw_only=True)
class PurgedRows:
    """Versions whose rows were purged, as references, and the trees of files and the sample answers that they had."""

    versions: tuple[str, ...]
    trees: tuple[str, ...]
    samples: tuple[str, ...]


def check(session: Session, reference: AdapterReference) -> list[str]:
    """Return the references of the versions that a purge would purge.

    Raises:
        NotFound: there is no such version or adapter.
        Deleted: it is purged already.
        Conflict: something depends on it; the text has all reasons.
    """
    reference = dataclasses.replace(reference, name=adapter_names.find_current(session, reference.name))
    if reference.version is not None:
        row = get_row(session, reference, deleted=True)
        if row.purged_at is not None:
            raise errors.Deleted("adapter version", str(reference), is_purged=True)
        aliases = explain_aliases(session, reference.name, Alias.version_id == row.id)
        needs = adapter_needs.explain_version(session, row)
    else:
        adapter = get_adapter(session, reference.name)
        aliases = explain_aliases(session, reference.name, Alias.adapter_id == adapter.id)
        needs = adapter_needs.explain_adapter(session, adapter.id)
    numbers = session.scalars(sa.select(_versions.c.number).where(*_select(session, reference))).all()
    if not numbers:
        raise errors.Deleted("adapter", reference.name, is_purged=True)
    # A job makes its version and ends in one transaction. So whoever looks for jobs first sees one of both.
    refuse(f"cannot purge adapter {reference}", [*aliases, *needs, *_explain_children(session, reference)])
    return [f"{reference.name}/{number}" for number in sorted(numbers)]


def purge(session: Session, reference: AdapterReference) -> PurgedRows:
    """Purge a version, or an adapter with all its versions, deleted or not.

    Tags, card, settings, figures and evaluations go. Number, identity, base and lineage stay. Nobody can restore it.
    The transaction owns the lock of the artifacts, so that nobody registers a child meanwhile.

    Raises:
        NotFound: there is no such version or adapter.
        Deleted: it is purged already.
        Conflict: something depends on it; the text has all reasons.
    """
    artifact_lock.own(session)
    reference = dataclasses.replace(reference, name=lock_adapter(session, reference.name))
    references = check(session, reference)
    is_meant = _select(session, reference)
    ids = sa.select(_versions.c.id).where(*is_meant).scalar_subquery()
    of_samples = Evidence.version_id.in_(ids), Evidence.samples.is_not(None)
    samples = session.scalars(sa.select(Evidence.samples).where(*of_samples).distinct()).all()
    for table in Table.metadata.sorted_tables:
        if "version_id" in table.c and table.name not in _KEPT:
            session.execute(sa.delete(table).where(table.c.version_id.in_(ids)))
    deleted_at = sa.func.coalesce(_versions.c.deleted_at, now())
    purged = sa.update(_versions).where(*is_meant).values(purged_at=now(), deleted_at=deleted_at, **_EMPTY)
    if session.get_bind().dialect.name == "sqlite":
        sqlite.mark_unclean(session)  # the index of texts had the words of its card
    trees = session.scalars(purged.returning(_versions.c.digest)).all()
    # Of a deleted adapter without versions, nothing can be restored, and its name is free.
    is_left = sa.exists().where(_versions.c.adapter_id == Adapter.id, _versions.c.purged_at.is_(None))
    of_adapter = Adapter.name == reference.name
    session.execute(sa.update(Adapter).where(of_adapter, ~is_left).values(deleted_at=None, description=""))
    return PurgedRows(versions=tuple(references), trees=tuple(sorted(set(trees))), samples=tuple(filter(None, samples)))


def _select(session: Session, reference: AdapterReference) -> Sequence[sa.ColumnElement[bool]]:
    """Return the conditions of the rows of the versions that are not purged."""
    of_adapter = sa.select(Adapter.id).where(Adapter.name == reference.name).scalar_subquery()
    conditions = [_versions.c.adapter_id == of_adapter, _versions.c.purged_at.is_(None)]
    return conditions if reference.version is None else [*conditions, _versions.c.number == reference.version]


def _explain_children(session: Session, reference: AdapterReference) -> list[str]:
    """Return why other versions forbid a purge, nothing if none was made of these. Purged ones do not count."""
    child = sa.orm.aliased(AdapterVersion)
    ids = sa.select(_versions.c.id).where(*_select(session, reference))
    rows = session.execute(
        sa.select(Adapter.name, child.number, child.deleted_at)
        .join_from(Parent, child, child.id == Parent.version_id)
        .join(Adapter, Adapter.id == child.adapter_id)
        .where(Parent.parent_id.in_(ids), child.purged_at.is_(None), child.id.not_in(ids))
        .distinct()
        .order_by(Adapter.name, child.number)
        .limit(_MAX_NAMED + 1)
    ).all()
    if not rows:
        return []
    named = [f"{row.name}/{row.number}{' (deleted)' if row.deleted_at else ''}" for row in rows[:_MAX_NAMED]]
    more = " and more" if len(rows) > _MAX_NAMED else ""
    verb, which = ("was", "that") if len(rows) == 1 else ("were", "those")
    return [f"{', '.join(named)}{more} {verb} made of it (purge {which} first)"]
