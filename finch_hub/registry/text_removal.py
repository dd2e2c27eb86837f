"""Removal of texts from what jobs and versions tell: events, reports, reasons, cards and figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub.progress import Meter
from finch_hub.registry import sqlite, tables
from finch_hub.registry.database import Database

REMOVED = "(purged)"
"""What stands for a text that was removed."""

Finder = Callable[[Sequence[str]], Sequence[bool]]
"""Tells for each text whether it is to be removed."""

_PAGE = 500


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Columns of a table with texts that do not come from the code.

    Attributes:
        within: field of a JSON column to which the removal is limited. The rest are options of the user.
    """

    table: sa.Table
    columns: tuple[str, ...]
    within: dict[str, str]


def _place(table: sa.FromClause | sa.Table, *columns: str, **within: str) -> _Place:
    assert isinstance(table, sa.Table)  # noqa: S101 - the type of `__table__`
    return _Place(table=table, columns=columns, within=within)


_PLACES = (
    _place(tables.jobs, "spec", "reason", "result", spec="reading"),
    _place(tables.job_events, "message", "data"),
    _place(tables.attempts, "reason"),
    _place(tables.settlements, "trouble"),
    _place(tables.AdapterVersion.__table__, "spec", "metrics", "card", "notes", spec="reading"),
    _place(tables.Adapter.__table__, "description"),
    _place(tables.Tag.__table__, "value"),
    _place(tables.Evaluation.__table__, "metrics"),
    _place(tables.Evidence.__table__, "document"),
    _place(tables.listeners, "trouble"),
    _place(tables.AliasMove.__table__, "why"),
    _place(tables.AuditRow.__table__, "details", "reason"),
)


def remove_texts(database: Database, finder: Finder) -> int:
    """Replace the texts that a finder finds, in all rows, and return the number of rows that changed.

    Rows are read in pages. Each page with such a text is changed in a transaction of its own.

    Raises:
        Unavailable: the database does not answer.
    """
    meter = Meter("searching rows")
    return sum(_remove_from(place, database, finder, meter) for place in _PLACES)


def _remove_from(place: _Place, database: Database, finder: Finder, meter: Meter) -> int:
    keys = list(place.table.primary_key)
    last: tuple[Any, ...] | None = None
    num_changed = 0
    while True:
        query = sa.select(*keys, *(place.table.c[name] for name in place.columns)).order_by(*keys).limit(_PAGE)
        if last is not None:
            query = query.where(sa.tuple_(*keys) > sa.tuple_(*map(sa.literal, last, [key.type for key in keys])))
        with database.read() as session:
            rows = session.execute(query).all()
        if not rows:
            return num_changed
        last = tuple(rows[-1][: len(keys)])
        meter.add(len(rows))
        found = _find_rows(place, rows, finder)
        if found:
            with database.write() as session:
                if database.is_sqlite:
                    sqlite.mark_unclean(session)
                num_changed += sum(_change(place, session, row[: len(keys)], finder) for row in found)


def _find_rows(place: _Place, rows: Sequence[sa.Row[Any]], finder: Finder) -> list[sa.Row[Any]]:
    texts: list[str] = []
    owners: list[int] = []
    for number, row in enumerate(rows):
        for name in place.columns:
            found = list(_walk(_part(row._mapping[name], place.within.get(name))))
            texts += found
            owners += [number] * len(found)
    hits = {owner for owner, is_hit in zip(owners, finder(texts), strict=True) if is_hit}
    return [rows[number] for number in sorted(hits)]


def _change(place: _Place, session: Session, key: Sequence[Any], finder: Finder) -> bool:
    """Change one row, as it is now."""
    is_row = sa.and_(*(column == value for column, value in zip(place.table.primary_key, key, strict=True)))
    columns = [place.table.c[name] for name in place.columns]
    row = session.execute(sa.select(*columns).where(is_row).with_for_update()).one_or_none()
    if row is None:
        return False
    changes = {}
    for name in place.columns:
        value, field = row._mapping[name], place.within.get(name)
        texts = list(_walk(_part(value, field)))
        unwanted = {text for text, is_hit in zip(texts, finder(texts), strict=True) if is_hit}
        if unwanted:
            changed = _replace(_part(value, field), unwanted)
            changes[name] = changed if field is None else {**value, field: changed}
    if changes:
        session.execute(sa.update(place.table).where(is_row).values(changes))
    return bool(changes)


def _part(value: Any, field: str | None) -> Any:
    return value if field is None else value.get(field) if isinstance(value, dict) else None


def _walk(value: Any) -> Iterator[str]:
    """Yield the texts of a value, and the names of its fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from _walk(item)


def _replace(value: Any, unwanted: set[str]) -> Any:
    if isinstance(value, str):
        return REMOVED if value in unwanted else value
    if isinstance(value, list):
        return [_replace(item, unwanted) for item in value]
    if isinstance(value, dict):
        return {_replace(name, unwanted): _replace(item, unwanted) for name, item in value.items()}
    return value
