"""Words of the search index that both databases fold in the same way, in all scripts."""

from collections.abc import Sequence

from alembic import op

from finch_hub.registry import search_index

revision: str = "0023"
down_revision: str | Sequence[str] | None = "0022"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None
is_additive: bool = True


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        search_index.build(connection)
        return
    search_index.create_fold(connection)
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        for first, last in search_index.list_batches(connection):
            search_index.refresh(connection, first, last)


def downgrade() -> None:
    pass  # earlier versions search the new index too
