"""The index for searches of versions, and indexes for filters by data, tag and parent."""

from collections.abc import Sequence

from alembic import op

from finch_hub.registry import index_builds, search_index

revision: str = "0018"
down_revision: str | Sequence[str] | None = "0017"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None
is_additive: bool = True


def upgrade() -> None:
    for name, (table, columns, where) in search_index.SOURCE_INDEXES.items():
        index_builds.create_index(name, table, columns, where=where)
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        search_index.build(connection)
        return
    # In the order in which workers write to them, so that none that finishes its job waits for another way round.
    op.execute("LOCK TABLE datasets, adapters, adapter_versions, tags IN ACCESS EXCLUSIVE MODE")
    # The triggers are there before the first batch, so that no change is missed, and each batch is committed.
    search_index.drop(connection)
    search_index.create(connection)
    with op.get_context().autocommit_block():
        search_index.fill(op.get_bind())
        for statement in search_index.list_indexes("postgresql", concurrently=True):
            op.execute(statement)
        search_index.analyze(op.get_bind())


def downgrade() -> None:
    search_index.drop(op.get_bind())
    for name, (table, _, _) in search_index.SOURCE_INDEXES.items():
        index_builds.drop_index(name, table)
