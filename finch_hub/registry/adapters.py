"""Adapters: the names that number versions, and their aliases."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import errors
from finch_hub.registry import adapter_needs, alias_moves, tables, values
from finch_hub.registry.adapter_versions import explain_missing, get_row, lock_adapter
from finch_hub.registry.tables import AdapterVersion, Alias
from finch_hub.registry.types import now, one_of, read_document
from finch_hub.registry.version_filters import entries
from finch_hub.specs.cursors import check_limit, read_cursor, write_cursor
from finch_hub.specs.references import AdapterReference, check_name

_adapters, _versions = tables.Adapter.__table__, AdapterVersion.__table__
_bases, _aliases = tables.Base.__table__, tables.Alias.__table__
_SCOPE = "adapters"  # of cursors


def find(session: Session, *, limit: int = 100, after: str | None = None) -> values.AdapterPage:
    """Return a page of the adapters that have versions, by name, each with its newest version.

    Args:
        after: cursor of the page before, None for the first page.

    Raises:
        InvalidSpec: the limit or the cursor is invalid.
    """
    check_limit(limit)
    own = entries.c.name == _adapters.c.name
    newest = sa.select(entries.c.version_id).where(own).order_by(entries.c.number.desc()).limit(1).correlate(_adapters)
    ready = newest.where(entries.c.state == "ready").with_only_columns(entries.c.number)
    query = sa.select(
        _adapters.c.id,
        _adapters.c.name,
        _adapters.c.description,
        newest.scalar_subquery().label("newest"),
        ready.scalar_subquery().label("latest"),
        sa.select(sa.func.count()).where(own).correlate(_adapters).scalar_subquery().label("versions"),
    ).where(sa.exists().where(own).correlate(_adapters))
    if after is not None:
        (last,) = read_cursor(_SCOPE, after, (str,))
        query = query.where(_adapters.c.name > last)
    rows = session.execute(query.order_by(_adapters.c.name).limit(limit + 1)).all()
    shown = rows[:limit]
    found = _load_newest(session, shown)
    aliases = _load_aliases(session, [row.id for row in shown])
    return values.AdapterPage(
        adapters=tuple(
            values.AdapterSummary(
                name=row.name,
                description=row.description,
                versions=row.versions,
                newest=found[row.id],
                latest=row.latest,
                aliases=aliases[row.id],
            )
            for row in shown
            if row.id in found
        ),
        next=write_cursor(_SCOPE, (shown[-1].name,)) if len(rows) > limit else None,
    )


def set_alias(
    session: Session,
    name: str,
    alias: str,
    version: int,
    *,
    expected: int | None = None,
    who: str = "",
    why: str | None = None,
) -> int | None:
    """Point `name@alias` at a version, and return the number of the version that it pointed at.

    Args:
        expected: number of the version that the alias points at now; 0 if the alias must not exist; None for any.
        who: name of the user, for the history.
        why: reason of the move, for the history.

    Raises:
        NotFound: the version does not exist.
        Conflict: the version is quarantined or below its retention.
        AliasMoved: the alias does not point at the expected version.
        InvalidReference: the alias is reserved or not well formed.
    """
    check_name(alias, kind="alias")
    name = lock_adapter(session, name)
    named = {"of_name": name, "of_alias": alias, "of_number": version}
    row = session.execute(_select_target(), named).one_or_none()
    if row is None:
        raise explain_missing(session, AdapterReference(name, version=version))
    if row.state != "ready":
        raise errors.Conflict(f"cannot set alias {name}@{alias}: adapter {name}/{version} is {row.state}")
    number = row.pointed_at or 0
    if not number and alias.isdigit():  # earlier hubs allowed it
        what, fix = f"{alias!r} is all digits, which is how versions are written", f"use a name such as v{alias}"
        raise errors.InvalidReference(what, where="alias", fix=fix)
    _check_expected(name, alias, number, expected)
    if number:
        moved = {"of_adapter": row.adapter_id, "of_alias": alias, "version_id": row.id}
        session.execute(_move_alias(), moved)
    else:
        session.execute(sa.insert(_aliases), {"adapter_id": row.adapter_id, "name": alias, "version_id": row.id})
    session.execute(_touch_versions(), {"of_adapter": row.adapter_id, "new": version, "old": number})
    if number != version:
        before = number or None
        alias_moves.add(session, row.adapter_id, alias, from_number=before, to_number=version, who=who, why=why)
    return number or None


def _check_expected(name: str, alias: str, number: int, expected: int | None) -> None:
    if expected is None or number == expected:
        return
    actual = f"points at {name}/{number}" if number else "does not exist"
    wanted = f"{name}/{expected}" if expected else "no such alias"
    what = f"alias {name}@{alias} {actual}: expected {wanted} (check the alias before you change it)"
    raise errors.AliasMoved(what)


# Each alias is set with these statements. Building one takes longer than running it.


@functools.cache
def _select_target() -> sa.Select[Any]:
    target = _versions.alias()
    pointed_at = (
        sa.select(_versions.c.number)
        .join(_aliases, _aliases.c.version_id == _versions.c.id)
        .where(_aliases.c.adapter_id == target.c.adapter_id, _aliases.c.name == sa.bindparam("of_alias"))
    )
    return (
        sa.select(target.c.id, target.c.adapter_id, target.c.state, pointed_at.scalar_subquery().label("pointed_at"))
        .join(_adapters, _adapters.c.id == target.c.adapter_id)
        .where(_adapters.c.name == sa.bindparam("of_name"), target.c.number == sa.bindparam("of_number"))
        .where(target.c.deleted_at.is_(None))
    )


@functools.cache
def _move_alias() -> sa.Update:
    of_alias = _aliases.c.adapter_id == sa.bindparam("of_adapter"), _aliases.c.name == sa.bindparam("of_alias")
    return sa.update(_aliases).where(*of_alias).values(version_id=sa.bindparam("version_id"), moved_at=now())


@functools.cache
def _touch_versions() -> sa.Update:
    is_changed = _versions.c.number.in_([sa.bindparam("new"), sa.bindparam("old")])
    of_adapter = _versions.c.adapter_id == sa.bindparam("of_adapter")
    # All who lock several versions lock them by their ids.
    ids = sa.select(_versions.c.id).where(of_adapter, is_changed).order_by(_versions.c.id)
    ids = ids.with_for_update(key_share=True)  # nobody who refers to a version has to wait
    return sa.update(_versions).where(_versions.c.id.in_(ids)).values(updated_at=now())


def delete_alias(
    session: Session, name: str, alias: str, *, expected: int | None = None, who: str = "", why: str | None = None
) -> int:
    """Remove `name@alias`, and return the number of the version that it pointed at.

    Args:
        expected: number of the version that the alias points at now; None for any.
        who: name of the user, for the history.
        why: reason of the removal, for the history.

    Raises:
        NotFound: the alias does not exist.
        AliasMoved: the alias does not point at the expected version.
        Conflict: an unfinished job names it.
    """
    name = lock_adapter(session, name)
    row = get_row(session, AdapterReference(name, alias=alias), deleted=True)
    _check_expected(name, alias, row.number, expected)
    adapter_needs.refuse_needed_alias(session, row, alias)
    session.execute(sa.delete(Alias).where(Alias.adapter_id == row.adapter_id, Alias.name == alias))
    session.execute(sa.update(_versions).where(_versions.c.id == row.id).values(updated_at=now()))
    alias_moves.add(session, row.adapter_id, alias, from_number=row.number, to_number=None, who=who, why=why)
    return row.number


def _load_newest(session: Session, rows: Sequence[Any]) -> dict[int, values.NewestVersion]:
    """Return what is shown of the newest versions, by their adapters. The rest of their rows is not read."""
    names = {row.id: row.name for row in rows}
    columns = [_versions.c[name] for name in ("adapter_id", "number", "state", "kind", "metrics", "created_at")]
    query = sa.select(*columns, _bases.c.name.label("base")).join(_bases, _bases.c.id == _versions.c.base_id)
    return {
        row.adapter_id: values.NewestVersion(
            reference=f"{names[row.adapter_id]}/{row.number}",
            number=row.number,
            state=row.state,
            kind=row.kind,
            base=row.base,
            metrics=read_document(row.metrics),
            created_at=row.created_at,
        )
        for row in session.execute(query.where(one_of(_versions.c.id, [row.newest for row in rows])))
    }


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
