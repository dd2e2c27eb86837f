"""Environment of Alembic: runs the migrations on a given connection, or on the configured database."""

from alembic import context
from sqlalchemy import Connection

from finch_hub import settings
from finch_hub.registry import sqlite, tables
from finch_hub.registry.database import Database


def run(connection: Connection) -> None:
    is_sqlite = connection.dialect.name == "sqlite"
    if is_sqlite:
        sqlite.refuse_foreign_keys(connection)
    context.configure(
        connection=connection,
        target_metadata=tables.Table.metadata,
        compare_type=True,
        render_as_batch=True,  # SQLite alters a table by rebuilding it
        transactional_ddl=True,
        # SQLite upgrades as a whole. PostgreSQL commits each migration, so that a lock is held for one of them only.
        transaction_per_migration=not is_sqlite,
        user_module_prefix="types.",
    )
    with context.begin_transaction():
        context.run_migrations()
        if is_sqlite:
            sqlite.check_references(connection)


if context.is_offline_mode():
    raise SystemExit("cannot run offline: the migrations read the database that they change")
if (connection := context.config.attributes.get("connection")) is not None:
    run(connection)
else:
    database = Database(settings.load().database)
    with database.migrate() as connection:
        run(connection)
    database.close()
