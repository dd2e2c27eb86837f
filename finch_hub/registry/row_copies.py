"""Copies of the rows of all tables, in batches, from one database to another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub.registry import column_values
from finch_hub.registry.tables import Table
from finch_hub.texts.visible_text import to_line

BATCH = 200  # rows in memory; a specification or a report may take 100 kB
_MAX_DAMAGED = 1000  # values that are named

Row = dict[str, Any]


def list_tables() -> list[sa.Table]:
    """Return all tables, each behind those that it refers to."""
    return Table.metadata.sorted_tables


def read_rows(session: Session, table: sa.Table) -> Iterator[list[Row]]:
    """Yield batches of rows in the order of their keys. One batch is in memory."""
    keys = list(table.primary_key)
    query = sa.select(table).order_by(*keys).limit(BATCH)
    page = query
    while rows := session.execute(page).all():
        yield [dict(row._mapping) for row in rows]
        if len(rows) < BATCH:
            return
        last = [sa.literal(rows[-1]._mapping[key], key.type) for key in keys]
        # The keys follow on the last ones, so that each batch is found by the index, without a cursor on the server.
        page = query.where(sa.tuple_(*keys) > sa.tuple_(*last) if len(keys) > 1 else keys[0] > last[0])


def copy_rows(source: Session, target: Session, table: sa.Table, *, count: Callable[[int], None]) -> list[str]:
    """Copy the rows of a table, and return a note for each value in them that was replaced, because it is damaged.

    Args:
        count: called with the number of rows of each batch.
    """
    damaged: list[str] = []
    for rows in read_rows(source, table):
        for row in rows:
            damaged += _repair(table, row)
        target.execute(sa.insert(table), rows)
        count(len(rows))
    return damaged[:_MAX_DAMAGED]


def list_damaged(session: Session, table: sa.Table, *, count: Callable[[int], None]) -> list[str]:
    """Return a note for each value in a table that one of the databases would refuse.

    Args:
        count: called with the number of rows of each batch.
    """
    damaged: list[str] = []
    for rows in read_rows(session, table):
        for row in rows:
            damaged += _repair(table, row)
        count(len(rows))
    return damaged[:_MAX_DAMAGED]


def count_rows(session: Session) -> dict[str, int]:
    """Return the number of rows by table."""
    return {table.name: session.scalars(sa.select(sa.func.count()).select_from(table)).one() for table in list_tables()}


def find_filled(session: Session) -> list[str]:
    """Return the names of the tables that have rows."""
    return [table.name for table in list_tables() if session.scalar(sa.select(sa.exists(sa.select(table))))]


def lock_tables(session: Session) -> None:
    """Keep others from writing to any table until the commit. On SQLite, each writer does so."""
    if session.get_bind().dialect.name == "postgresql":
        names = ", ".join(table.name for table in list_tables())
        session.execute(sa.text(f"LOCK TABLE {names} IN EXCLUSIVE MODE"))


def advance_sequences(session: Session) -> None:
    """Let PostgreSQL number new rows behind those that were copied. SQLite does so by itself."""
    if session.get_bind().dialect.name != "postgresql":
        return
    for table in list_tables():
        column = table.autoincrement_column
        if column is None:
            continue
        largest = session.scalar(sa.select(sa.func.max(column)))
        if largest is not None:
            sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
            session.execute(sa.select(sa.func.setval(sequence, largest)))


def _repair(table: sa.Table, row: Row) -> list[str]:
    """Replace the values of a damaged row that one of the databases would refuse, and return a note for each."""
    notes = []
    for column in table.c:
        value = row[column.name]
        repaired = column_values.repair(column, value)
        if repaired is not value:
            row[column.name] = repaired
            key = ", ".join(str(row[key.name]) for key in table.primary_key)
            notes.append(to_line(f"{table.name} {key}: {column.name} {str(value)[:50]!r}"))
    return notes
