"""Builds of indexes in migrations, during which other transactions write to the table."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa


def create_index(
    name: str, table: str, columns: Sequence[str | sa.TextClause], *, where: str | None = None, unique: bool = False
) -> None:
    """Create an index in the current migration.

    On PostgreSQL this commits the migration so far. A build that is interrupted runs again with the whole migration.
    So what stands before it in the migration must be repeatable, for example with `if_not_exists`.
    """
    from alembic import op

    condition = None if where is None else sa.text(where)
    if op.get_bind().dialect.name == "sqlite":  # its upgrade is one transaction
        op.create_index(name, table, columns, unique=unique, sqlite_where=condition)
        return
    with op.get_context().autocommit_block():
        # An interrupted build leaves an index that is never used, and that `if_not_exists` would take for whole.
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)
        op.create_index(name, table, columns, unique=unique, postgresql_where=condition, postgresql_concurrently=True)


def drop_index(name: str, table: str) -> None:
    """Drop an index in the current migration. The same holds as for `create_index`."""
    from alembic import op

    if op.get_bind().dialect.name == "sqlite":
        op.drop_index(name, table)
        return
    with op.get_context().autocommit_block():
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)
