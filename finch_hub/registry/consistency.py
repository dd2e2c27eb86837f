"""What no constraint of the registry rules out, and should not be so."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub import progress
from finch_hub.registry import row_copies, search_index
from finch_hub.registry.tables import Adapter, AdapterVersion, Alias, Base
from finch_hub.registry.types import one_of
from finch_hub.specs.inspections import Finding

_adapters, _versions, _aliases = Adapter.__table__, AdapterVersion.__table__, Alias.__table__
_bases = Base.__table__
_MAX_NAMED = 20  # versions in a finding
_RESTORE = "restore the database from a backup"


def find_damaged_rows(session: Session, *, count: Callable[[int], None]) -> Iterator[Finding]:
    """Yield what is damaged in the file of SQLite: its structure, its references, and values of another type.

    PostgreSQL checks types and references itself.

    Args:
        count: called with the number of rows of each batch that was read.
    """
    if session.get_bind().dialect.name != "sqlite":
        return
    for problem in session.scalars(sa.text("PRAGMA integrity_check(20)")):
        if problem != "ok":
            yield Finding(where="database", what=problem, fix=_RESTORE)
    for table, row, parent, _ in session.execute(sa.text("PRAGMA foreign_key_check")).fetchmany(20):
        what = f"names a row of {parent} that does not exist"
        yield Finding(where=f"table {table}, row {row}", what=what, fix=_RESTORE)
    for table in row_copies.list_tables():
        for note in row_copies.list_damaged(session, table, count=count):
            place, _, value = note.partition(": ")
            yield Finding(where=f"table {place}", what=f"has a damaged value: {value}", fix=_RESTORE)
        for column in (column for column in table.c if isinstance(column.type, sa.JSON)):
            key = list(table.primary_key)
            is_damaged = sa.func.json_valid(sa.cast(column, sa.Text())) == 0
            for row in session.execute(sa.select(*key).where(column.is_not(None), is_damaged).limit(20)):
                place = f"table {table.name} {', '.join(map(str, row))}"
                yield Finding(where=place, what=f"has a damaged value: {column.name} is not JSON", fix=_RESTORE)


def find_inconsistencies(session: Session) -> Iterator[Finding]:
    """Yield rows that contradict one another."""
    reference = (_adapters.c.name + "/" + sa.cast(_versions.c.number, sa.String())).label("reference")
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
        yield Finding(where=f"adapter {row.name}", what=what, fix=_RESTORE)
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
