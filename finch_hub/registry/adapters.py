"""Adapters: the names that number versions, their aliases, and the search over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, joinedload

from finch_hub import errors
from finch_hub.registry import adapter_needs, tables, values
from finch_hub.registry.adapter_versions import get_row, lock_adapter, select_versions, to_value
from finch_hub.registry.tables import Adapter, AdapterVersion, Alias, Tag
from finch_hub.registry.types import now, one_of
from finch_hub.specs.references import AdapterReference, check_name

_is_present = AdapterVersion.deleted_at.is_(None)


def find(
    session: Session, *, name: str | None = None, tag: str | None = None, base: str | None = None, limit: int = 100
) -> list[values.AdapterSummary]:
    """Return adapters by name, each with its newest version among those that match.

    Args:
        name: part of the adapter's name.
        base: name or fingerprint of the version's base.
    """
    matching = (
        sa.select(AdapterVersion.adapter_id, sa.func.max(AdapterVersion.number).label("number"))
        .join(AdapterVersion.adapter)
        .where(_is_present)
        .group_by(AdapterVersion.adapter_id)
    )
    if name is not None:
        matching = matching.where(Adapter.name.icontains(name, autoescape=True))
    if tag is not None:
        matching = matching.where(AdapterVersion.tags.any(Tag.name == tag))
    if base is not None:
        matching = matching.join(AdapterVersion.base).where(
            sa.or_(tables.Base.name == base, tables.Base.fingerprint == base)
        )
    newest = matching.subquery()
    same = sa.and_(AdapterVersion.adapter_id == newest.c.adapter_id, AdapterVersion.number == newest.c.number)
    rows = session.scalars(select_versions().join(newest, same).order_by(Adapter.name).limit(limit)).all()
    ids = [row.adapter_id for row in rows]
    counts = _count_versions(session, ids)
    aliases = _load_aliases(session, ids)
    return [
        values.AdapterSummary(
            name=row.adapter.name,
            description=row.adapter.description,
            versions=counts[row.adapter_id].present,
            newest=to_value(row),
            latest=counts[row.adapter_id].latest,
            aliases=aliases[row.adapter_id],
        )
        for row in rows
    ]


def set_alias(session: Session, name: str, alias: str, version: int, *, expected: int | None = None) -> None:
    """Point `name@alias` at a version.

    Args:
        expected: number of the version that the alias points at now; 0 if the alias must not exist; None for any.

    Raises:
        NotFound: the version does not exist.
        Conflict: the version is quarantined or below its retention.
        AliasMoved: the alias does not point at the expected version.
        InvalidReference: the alias is reserved or not well formed.
    """
    check_name(alias, kind="alias")
    name = lock_adapter(session, name)
    row = get_row(session, AdapterReference(name, version=version))
    if row.state != "ready":
        raise errors.Conflict(f"cannot set alias {name}@{alias}: adapter {name}/{version} is {row.state}")
    current = session.get(Alias, (row.adapter_id, alias), options=[joinedload(Alias.version)], populate_existing=True)
    number = current.version.number if current else 0
    if expected is not None and number != expected:
        actual = f"points at {name}/{number}" if number else "does not exist"
        wanted = f"{name}/{expected}" if expected else "no such alias"
        what = f"alias {name}@{alias} {actual}: expected {wanted} (check the alias before you move it)"
        raise errors.AliasMoved(what)
    if current is None:
        session.add(Alias(adapter_id=row.adapter_id, name=alias, version_id=row.id))
    else:
        session.execute(
            sa.update(Alias)
            .where(Alias.adapter_id == row.adapter_id, Alias.name == alias)
            .values(version_id=row.id, moved_at=now())
        )
    row.updated_at = session.scalar(sa.select(now()))
    session.flush()


def delete_alias(session: Session, name: str, alias: str) -> None:
    """Remove `name@alias`.

    Raises:
        NotFound: the alias does not exist.
        Conflict: an unfinished job names it.
    """
    name = lock_adapter(session, name)
    row = get_row(session, AdapterReference(name, alias=alias))
    adapter_needs.refuse_needed_alias(session, row, alias)
    session.execute(sa.delete(Alias).where(Alias.adapter_id == row.adapter_id, Alias.name == alias))


def delete_version(session: Session, name: str, number: int) -> values.AdapterVersion:
    """Mark a version as deleted. Its number, its row and its place in other versions' lineage stay.

    Raises:
        NotFound: the version does not exist.
        Conflict: the version has an alias, or an unfinished job reads it.
    """
    name = lock_adapter(session, name)
    row = get_row(session, AdapterReference(name, version=number))
    if row.aliases:
        aliases = ", ".join(f"{name}@{alias.name}" for alias in row.aliases)
        what = f"cannot delete adapter {name}/{number}: it has the alias {aliases} (move or delete the alias first)"
        raise errors.Conflict(what)
    adapter_needs.refuse_needed(session, row)
    row.deleted_at = session.scalar(sa.select(now()))
    session.flush()
    return to_value(row)


def _count_versions(session: Session, ids: Sequence[int]) -> dict[int, sa.Row[Any]]:
    is_ready = sa.and_(AdapterVersion.state == "ready", _is_present)
    rows = session.execute(
        sa.select(
            AdapterVersion.adapter_id,
            sa.func.count(sa.case((_is_present, 1))).label("present"),
            sa.func.max(sa.case((is_ready, AdapterVersion.number))).label("latest"),
        )
        .where(one_of(AdapterVersion.adapter_id, ids))
        .group_by(AdapterVersion.adapter_id)
    )
    return {row.adapter_id: row for row in rows}


def _load_aliases(session: Session, ids: Sequence[int]) -> dict[int, dict[str, int]]:
    aliases: dict[int, dict[str, int]] = {adapter_id: {} for adapter_id in ids}
    for adapter_id, alias, number in session.execute(
        sa.select(Alias.adapter_id, Alias.name, AdapterVersion.number)
        .join(Alias.version)
        .where(one_of(Alias.adapter_id, ids))
        .order_by(Alias.name)
    ):
        aliases[adapter_id][alias] = number
    return aliases
