"""Aliases: movable names of adapter versions."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session, joinedload

from finch_hub import errors
from finch_hub.registry import adapters
from finch_hub.registry.tables import Alias
from finch_hub.registry.types import now
from finch_hub.registry.version_rows import get_row
from finch_hub.specs.references import AdapterReference, check_name


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
    adapters.lock(session, name)
    row = get_row(session, AdapterReference(name, version=version))
    if row.state != "ready":
        raise errors.Conflict(f"cannot set alias {name}@{alias}: adapter {name}/{version} is {row.state}")
    current = session.get(Alias, (row.adapter_id, alias), options=[joinedload(Alias.version)], populate_existing=True)
    number = current.version.number if current else 0
    if expected is not None and number != expected:
        actual = f"points at {name}/{number}" if number else "does not exist"
        wanted = f"{name}/{expected}" if expected else "no such alias"
        raise errors.AliasMoved(
            f"alias {name}@{alias} {actual}: expected {wanted} (check the alias before you move it)"
        )
    if current is None:
        session.add(Alias(adapter_id=row.adapter_id, name=alias, version_id=row.id))
    else:
        session.execute(
            sa.update(Alias)
            .where(Alias.adapter_id == row.adapter_id, Alias.name == alias)
            .values(version_id=row.id, moved_at=now())
        )
    session.flush()


def delete_alias(session: Session, name: str, alias: str) -> None:
    """Remove `name@alias`.

    Raises:
        NotFound: the alias does not exist.
    """
    row = get_row(session, AdapterReference(name, alias=alias))
    session.execute(sa.delete(Alias).where(Alias.adapter_id == row.adapter_id, Alias.name == alias))
