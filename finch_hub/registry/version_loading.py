"""Values of many versions, or of one, with two statements: a search shows fifty, and most jobs begin with one.

They are read as plain rows. With entities, the same takes five statements and several times as long.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence, Set
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from finch_hub.registry import tables, values
from finch_hub.registry.types import Columns, from_json, one_of, read_document

_adapters, _versions = tables.Adapter.__table__, tables.AdapterVersion.__table__
_bases, _aliases = tables.Base.__table__, tables.Alias.__table__
_tags, _lineage = tables.Tag.__table__, tables.Parent.__table__


def _label(names: Set[str]) -> tuple[tuple[str, str], ...]:
    """Return columns of a version with their labels in `select_versions`."""
    return tuple((name, f"v_{name}") for name in sorted(names))


_VERSION_COLUMNS = _label((values.AdapterVersion.model_fields.keys() & _versions.c.keys()) - {"updated_at"})
_LINEAGE_COLUMNS = _label(values.Lineage.model_fields.keys() & _versions.c.keys())
_DOCUMENTS = _label({"spec", "metrics", "versions", "environment"})
_BASE_COLUMNS = tuple(values.Base.model_fields)


class _collect(FunctionElement[str]):  # noqa: N801 - named like an SQL function
    """The texts of a group as a JSON array, null for none."""

    type = sa.String()
    inherit_cache = True
    name = "collect"


@compiles(_collect, "sqlite")
def _collect_sqlite(element: _collect, compiler: SQLCompiler, **kw: Any) -> str:
    return f"json_group_array({compiler.process(element.clauses, **kw)})"


@compiles(_collect, "postgresql")
def _collect_postgresql(element: _collect, compiler: SQLCompiler, **kw: Any) -> str:
    return f"CAST(json_agg({compiler.process(element.clauses, **kw)}) AS TEXT)"


@functools.cache
def select_versions() -> sa.Select[Any]:
    """Return a query of what `to_values` needs. Building one takes longer than running it."""
    labeled = (*_VERSION_COLUMNS, *_LINEAGE_COLUMNS, *_label({"updated_at"}))
    columns = [_versions.c[name].label(label) for name, label in labeled]
    base = [_bases.c[name].label(f"base_{name}") for name in _BASE_COLUMNS]
    tag = sa.case((_tags.c.value != "", _tags.c.name + "=" + _tags.c.value), else_=_tags.c.name)
    of_version = [
        sa.select(_collect(text)).where(table.c.version_id == _versions.c.id).correlate(_versions)
        for table, text in ((_aliases, _aliases.c.name), (_tags, tag))
    ]
    joined = _versions.join(_adapters, _adapters.c.id == _versions.c.adapter_id)
    return sa.select(
        _versions.c.id,
        _adapters.c.name.label("adapter"),
        _adapters.c.description,
        *columns,
        *base,
        of_version[0].scalar_subquery().label("aliases"),
        of_version[1].scalar_subquery().label("tags"),
    ).select_from(joined.join(_bases, _bases.c.id == _versions.c.base_id))


def load(session: Session, ids: Sequence[int]) -> tuple[values.AdapterVersion, ...]:
    """Return versions in the order of their ids, without those that are not there."""
    rows = session.execute(_select_by_id(), {"ids": list(ids)}).all()
    found = {row.id: version for row, version in zip(rows, to_values(session, rows), strict=True)}
    return tuple(found[number] for number in ids if number in found)


def to_values(session: Session, rows: Sequence[sa.Row[Any]]) -> list[values.AdapterVersion]:
    """Return the values of rows of `select_versions`."""
    parents: dict[int, list[values.ParentVersion]] = {row.id: [] for row in rows}
    if rows:
        for link in session.execute(_select_parents(), {"ids": list(parents)}):
            parent = values.ParentVersion(reference=f"{link.name}/{link.number}", weight=link.weight)
            parents[link.version_id].append(parent)
    bases: dict[int, values.Base] = {}
    return [_to_value(row._asdict(), tuple(parents[row.id]), bases) for row in rows]


def _to_value(
    row: Columns, parents: tuple[values.ParentVersion, ...], bases: dict[int, values.Base]
) -> values.AdapterVersion:
    for _, label in _DOCUMENTS:
        row[label] = read_document(row[label])
    if (base := bases.get(row["base_id"])) is None:
        base = bases[row["base_id"]] = values.Base(**{name: row[f"base_{name}"] for name in _BASE_COLUMNS})
    return values.AdapterVersion(
        **{name: row[label] for name, label in _VERSION_COLUMNS},
        name=row["adapter"],
        description=row["description"],
        updated_at=row["v_updated_at"] or row["v_created_at"],
        base=base,
        lineage=values.Lineage(parents=parents, **{name: row[label] for name, label in _LINEAGE_COLUMNS}),
        aliases=tuple(sorted(from_json(row["aliases"] or "[]"))),
        tags=tuple(sorted(from_json(row["tags"] or "[]"))),
    )


@functools.cache
def _select_by_id() -> sa.Select[Any]:
    return select_versions().where(one_of(_versions.c.id, "ids"))


@functools.cache
def _select_parents() -> sa.Select[Any]:
    of_parent = _lineage.join(_versions, _versions.c.id == _lineage.c.parent_id)
    return (
        sa.select(_lineage.c.version_id, _adapters.c.name, _versions.c.number, _lineage.c.weight)
        .select_from(of_parent.join(_adapters, _adapters.c.id == _versions.c.adapter_id))
        .where(one_of(_lineage.c.version_id, "ids"))
        .order_by(_lineage.c.version_id, _lineage.c.position)
    )
