"""Runs the migrations: on the connection that Finch Hub hands over, or on the configured database."""

from alembic import context
from sqlalchemy import Connection

from finch_hub import settings
from finch_hub.registry import tables
from finch_hub.registry.database import Database


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=tables.Table.metadata,
        compare_type=True,
        render_as_batch=True,  # SQLite alters a table by rebuilding it
        transactional_ddl=True,
        user_module_prefix="types.",
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    raise SystemExit("migrations look at the database they change; run them online")
if (given := context.config.attributes.get("connection")) is not None:
    run(given)
else:
    database = Database(settings.load().database)
    with database.write() as session:
        run(session.connection())
    database.close()
