"""Rows of adapter versions: the queries that load them, and their values."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.orm import Session, joinedload, selectinload
from sqlalchemy.sql.base import ExecutableOption

from finch_hub import errors
from finch_hub.registry import tables, values
from finch_hub.registry.tables import Adapter, AdapterVersion, Alias
from finch_hub.registry.types import Columns
from finch_hub.specs.references import LATEST, AdapterReference

_Key = Literal["number", "alias", "latest"]

# Core tables: SQLAlchemy prepares the relations of an entity anew for each query.
_adapters, _versions = Adapter.__table__, AdapterVersion.__table__
_bases, _aliases = tables.Base.__table__, Alias.__table__

_VERSION_COLUMNS = values.AdapterVersion.model_fields.keys() & _versions.c.keys()
_LINEAGE_COLUMNS = values.Lineage.model_fields.keys() & _versions.c.keys()
_SINGLE = (AdapterVersion.adapter, AdapterVersion.base)
_MULTIPLE = (AdapterVersion.aliases, AdapterVersion.tags, AdapterVersion.parents)
_FOR_MANY = (*map(joinedload, _SINGLE), *map(selectinload, _MULTIPLE))
# One statement, but a row for each combination of alias, tag and parent: cheap for a single version only.
_FOR_ONE = (*map(joinedload, _SINGLE), *map(joinedload, _MULTIPLE))


def select_versions(options: Sequence[ExecutableOption] = _FOR_MANY) -> sa.Select[AdapterVersion]:
    """Return a query of versions with their relations."""
    query = sa.select(AdapterVersion).join(AdapterVersion.adapter).options(*options)
    return query.execution_options(populate_existing=True)  # core statements and other processes change rows too


def get_row(session: Session, reference: AdapterReference | str, *, deleted: bool = False) -> AdapterVersion:
    """Return the row of a version, with the errors of `adapter_versions.resolve`; `deleted` allows deleted versions."""
    if isinstance(reference, str):
        reference = AdapterReference.parse(reference)
    query = _select_one(_key_of(reference), deleted=deleted)
    row = session.scalars(query, _parameters(reference)).unique().first()
    if row is None:
        raise _explain_missing(session, reference)
    return row


def get_files_row(session: Session, reference: AdapterReference) -> sa.Row[Any]:
    """Return name, number, digest and base columns of a version, with the same errors."""
    row = session.execute(_select_files(_key_of(reference)), _parameters(reference)).one_or_none()
    if row is None:
        raise _explain_missing(session, reference)
    return row


def to_value(row: AdapterVersion) -> values.AdapterVersion:
    """Return the value of a row."""
    parents = tuple(values.ParentVersion(reference=parent.reference, weight=parent.weight) for parent in row.parents)
    return values.AdapterVersion(
        **{column: getattr(row, column) for column in _VERSION_COLUMNS},
        name=row.adapter.name,
        base=values.Base(**{name: getattr(row.base, name) for name in values.Base.model_fields}),
        lineage=values.Lineage(parents=parents, **{column: getattr(row, column) for column in _LINEAGE_COLUMNS}),
        aliases=tuple(alias.name for alias in row.aliases),
        tags=tuple(tag.name for tag in row.tags),
    )


def adapter_not_found(session: Session, name: str) -> errors.NotFound:
    """Return the error for an unknown adapter, with names that resemble it."""
    return errors.NotFound("adapter", name, session.scalars(sa.select(Adapter.name).limit(1000)))


def _key_of(reference: AdapterReference) -> _Key:
    return "number" if reference.version is not None else "alias" if reference.alias is not None else "latest"


def _parameters(reference: AdapterReference) -> Columns:
    return {"of_name": reference.name, "of_number": reference.version, "of_alias": reference.alias}


# Most jobs begin with one of these statements. They are cached, because building one takes longer than running it.


@functools.cache
def _select_one(key: _Key, *, deleted: bool) -> sa.Select[AdapterVersion]:
    return _where_key(select_versions(_FOR_ONE), key, deleted=deleted)


@functools.cache
def _select_files(key: _Key) -> sa.Select[Any]:
    columns = [_versions.c.number, _versions.c.digest, _adapters.c.name]
    base = [_bases.c[name].label(f"base_{name}") for name in values.Base.model_fields]
    joined = _versions.join(_adapters, _adapters.c.id == _versions.c.adapter_id)
    query = sa.select(*columns, *base).select_from(joined.join(_bases, _bases.c.id == _versions.c.base_id))
    return _where_key(query, key, deleted=False)


def _where_key(query: sa.Select[Any], key: _Key, *, deleted: bool) -> sa.Select[Any]:
    query = query.where(_adapters.c.name == sa.bindparam("of_name"))
    if not deleted:
        query = query.where(_versions.c.deleted_at.is_(None))
    if key == "number":
        return query.where(_versions.c.number == sa.bindparam("of_number"))
    if key == "alias":
        has_alias = sa.exists().where(
            _aliases.c.version_id == _versions.c.id, _aliases.c.name == sa.bindparam("of_alias")
        )
        return query.where(has_alias)
    return query.where(_versions.c.state == "ready").order_by(_versions.c.number.desc()).limit(1)


def _explain_missing(session: Session, reference: AdapterReference) -> errors.FinchError:
    name = reference.name
    rows = session.execute(
        sa.select(AdapterVersion.number, AdapterVersion.state)
        .join(AdapterVersion.adapter)
        .where(Adapter.name == name, AdapterVersion.deleted_at.is_(None))
        .order_by(AdapterVersion.number.desc())
    ).all()
    if not rows:
        return adapter_not_found(session, name)
    if reference.version is not None:
        return errors.NotFound("adapter version", str(reference), [f"{name}/{row.number}" for row in rows])
    if reference.alias is not None:
        known = session.scalars(
            sa.select(Alias.name).join(Adapter, Adapter.id == Alias.adapter_id).where(Adapter.name == name)
        )
        return errors.NotFound("alias", str(reference), [f"{name}@{alias}" for alias in [*known, LATEST]])
    return errors.Conflict(
        f"adapter {name} has no ready version: {name}/{rows[0].number} is {rows[0].state}"
        f" (write {name}/{rows[0].number} to use it anyway)"
    )
