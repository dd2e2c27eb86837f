"""What no constraint of the registry rules out, and should not be so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import progress
from finch_hub.artifacts import bundle_manifest
from finch_hub.registry import evidence, row_copies, search_index
from finch_hub.registry.tables import Adapter, AdapterVersion, Alias, Base, Evidence, Parent, jobs
from finch_hub.registry.types import json_shape, one_of
from finch_hub.specs.circles import find_circle
from finch_hub.specs.inspections import Finding
from finch_hub.specs.value import JsonObject
from finch_hub.texts.visible_text import to_line

_adapters, _versions, _aliases = Adapter.__table__, AdapterVersion.__table__, Alias.__table__
_bases, _links, _evidence = Base.__table__, Parent.__table__, Evidence.__table__
_MAX_NAMED = 20  # versions in a finding, and rows of a table
DATABASE = "database"  # place of findings that concern all of it
RESTORE = "restore a backup into a new hub with `finch-hub restore`"
_UPDATE = f"update finch-hub if a newer one wrote it, otherwise {RESTORE}"

ExplainSpec = Callable[[str, JsonObject], str | None]
"""Returns why a specification of a kind of jobs cannot be read, None if it can, or if the kind is not known."""


def find_damaged_file(session: Session) -> Iterator[Finding]:
    """Yield what is damaged in the structure of the file of SQLite."""
    if session.get_bind().dialect.name == "sqlite":
        for problem in session.scalars(sa.text("PRAGMA integrity_check(20)")):
            if problem != "ok":
                yield Finding(where=DATABASE, what=to_line(problem), fix=RESTORE)


def find_damaged_rows(session: Session, table: sa.Table, *, count: Callable[[int], None]) -> Iterator[Finding]:
    """Yield rows of a table with values of another type, or with references to rows that do not exist.

    PostgreSQL checks the types of values itself, but not what is in a document.

    Args:
        count: called with the number of rows of each batch that was read.
    """
    if session.get_bind().dialect.name == "sqlite":
        for note in row_copies.list_damaged(session, table, count=count):
            place, _, value = note.partition(": ")
            key_of_row = place.removeprefix(f"{table.name} ")
            yield Finding(where=_name_row(table, [key_of_row]), what=f"has a damaged value: {value}", fix=RESTORE)
    key = list(table.primary_key)
    for link in table.foreign_keys:
        parent = link.column.table.alias()
        is_orphan = link.parent.is_not(None), ~sa.exists().where(parent.c[link.column.name] == link.parent)
        for row in session.execute(sa.select(*key, link.parent).where(*is_orphan).order_by(*key).limit(_MAX_NAMED)):
            what = f"{link.parent.name} {row[-1]} names a row of {link.column.table.name} that does not exist"
            yield Finding(where=_name_row(table, row[:-1]), what=what, fix=RESTORE)
    for column in (column for column in table.c if isinstance(column.type, sa.JSON)):
        shape = json_shape(column)
        query = sa.select(*key, shape).where(column.is_not(None), shape != column.info["json"]).order_by(*key)
        for row in session.execute(query.limit(_MAX_NAMED)):
            problem = "not JSON" if row[-1] == "damaged" else f"not a JSON {column.info['json']}"
            what = f"has a damaged value: {column.name} is {problem}"
            yield Finding(where=_name_row(table, row[:-1]), what=what, fix=RESTORE)


def _name_row(table: sa.Table, key: Sequence[object]) -> str:
    return to_line(f"row {', '.join(map(str, key))} of {table.name}")


def find_wrong_documents(session: Session, *, explain_spec: ExplainSpec) -> Iterator[Finding]:
    """Yield versions and jobs whose documents are JSON, but not what their readers need."""
    named = sa.select(_versions.c.id, _name_version(), _versions.c.spec, _versions.c.metrics, _evidence.c.document)
    joined = _versions.join(_adapters, _adapters.c.id == _versions.c.adapter_id)
    query = named.select_from(joined.outerjoin(_evidence, _evidence.c.version_id == _versions.c.id))
    for row in _read_in_batches(session, query, _versions.c.id):
        if isinstance(row.spec, dict) and isinstance(row.metrics, dict):
            for problem in bundle_manifest.find_wrong_documents("", row.spec, row.metrics):
                what = f"{problem.where.removeprefix(': ')} {problem.what}"
                yield Finding(where=f"adapter {row.reference}", what=what, fix=RESTORE)
        if isinstance(row.document, dict) and evidence.read_stored(row.document) is None:
            yield Finding(where=f"adapter {row.reference}", what="its evidence cannot be read", fix=_UPDATE)
    ended = jobs.c.finished_at.is_not(None).label("is_ended")
    for row in _read_in_batches(session, sa.select(jobs.c.number, jobs.c.id, jobs.c.kind, jobs.c.spec, ended)):
        if not isinstance(row.spec, dict):
            continue
        other = "it names another kind of job" if row.spec.get("kind") != row.kind else None
        if why := other or explain_spec(row.kind, row.spec):
            fix = _UPDATE if row.is_ended else f"run `finch-hub jobs cancel {row.id}`, and submit it again"
            yield Finding(where=f"job {row.id}", what=f"its specification cannot be read: {why}", fix=fix)


def _name_version() -> sa.Label[str]:
    return (_adapters.c.name + "/" + sa.cast(_versions.c.number, sa.String())).label("reference")


def _read_in_batches(session: Session, query: sa.Select[Any], key: sa.Column[int] = jobs.c.number) -> Iterator[Any]:
    """Yield the rows of a query, whose first column is the key. One batch is in memory."""
    page = query.order_by(key).limit(row_copies.BATCH)
    while rows := session.execute(page).all():
        yield from rows
        page = query.where(key > rows[-1][0]).order_by(key).limit(row_copies.BATCH)


def find_circles(session: Session) -> Iterator[Finding]:
    """Yield versions that are their own ancestors."""
    parents: dict[int, set[int]] = {}
    for child, parent in session.execute(sa.select(_links.c.version_id, _links.c.parent_id)):
        parents.setdefault(child, set()).add(parent)
    circle = find_circle(parents)
    if circle:
        joined = _versions.join(_adapters, _adapters.c.id == _versions.c.adapter_id)
        names = sa.select(_name_version()).select_from(joined).where(one_of(_versions.c.id, sorted(circle)))
        named = session.scalars(names.order_by(_versions.c.id).limit(_MAX_NAMED)).all()
        yield Finding(where="lineage", what=f"has a circle of {', '.join(named)}", fix=RESTORE)


def find_inconsistencies(session: Session) -> Iterator[Finding]:
    """Yield rows that contradict one another."""
    reference = _name_version()
    of_alias = sa.select(_adapters.c.name, _aliases.c.name.label("alias"), reference).select_from(
        _aliases.join(_adapters, _adapters.c.id == _aliases.c.adapter_id).join(
            _versions, _versions.c.id == _aliases.c.version_id
        )
    )
    for row in session.execute(of_alias.where(_versions.c.adapter_id != _aliases.c.adapter_id)):
        what, fix = "points at a version of another adapter", f"run `finch-hub adapters alias {row.name}/N {row.alias}`"
        yield Finding(where=f"alias {row.name}@{row.alias}", what=what, fix=fix)
    for row in session.execute(of_alias.where(_versions.c.deleted_at.is_not(None))):
        what = f"points at {row.reference}, which is deleted"
        fix = f"run `finch-hub adapters alias {row.name} {row.alias} --delete`, or point it at another version"
        yield Finding(where=f"alias {row.name}@{row.alias}", what=what, fix=fix)
    numbers = sa.select(_adapters.c.name, _adapters.c.versions_made, sa.func.max(_versions.c.number).label("newest"))
    numbers = numbers.join(_versions, _versions.c.adapter_id == _adapters.c.id)
    numbers = numbers.group_by(_adapters.c.id, _adapters.c.name, _adapters.c.versions_made)
    for row in session.execute(numbers.having(sa.func.max(_versions.c.number) > _adapters.c.versions_made)):
        what = f"counts {row.versions_made} versions, and has a version {row.newest}, so no new one can be made"
        yield Finding(where=f"adapter {row.name}", what=what, fix=RESTORE)
    removed = sa.select(reference, _bases.c.source).select_from(
        _versions.join(_adapters, _adapters.c.id == _versions.c.adapter_id).join(
            _bases, _bases.c.id == _versions.c.base_id
        )
    )
    is_missing = _versions.c.deleted_at.is_(None), _bases.c.removed_at.is_not(None)
    for version, source in session.execute(removed.where(*is_missing)):
        yield Finding(
            where=f"adapter {version}", what="its base was removed", fix=f"run `finch-hub bases add {source}`"
        )


def find_stale_entries(session: Session) -> Iterator[Finding]:
    """Yield that the search index is not what the rows say, with a few versions that searches miss or find wrongly."""
    connection, stale = session.connection(), list[int]()
    batches = list(search_index.list_batches(connection))
    for first, last in progress.track(batches, "checking the search index", total=len(batches)):
        stale += search_index.find_stale(connection, first, last)
        if len(stale) > _MAX_NAMED:
            break
    if not stale:
        return
    joined = _versions.join(_adapters, _adapters.c.id == _versions.c.adapter_id)
    rows = session.execute(
        sa.select(_versions.c.id, _adapters.c.name, _versions.c.number)
        .select_from(joined)
        .where(one_of(_versions.c.id, stale))
    )
    names = {row.id: f"{row.name}/{row.number}" for row in rows}
    named = ", ".join(names.get(number, f"the removed version {number}") for number in stale[:_MAX_NAMED])
    more = " and more" if len(stale) > _MAX_NAMED else ""
    yield Finding(where="search index", what=f"is out of date for {named}{more}", fix="run `finch-hub db reindex`")
