"""Indexes of the jobs of an owner and of the bytes of ids, and whether the memory of a job was estimated or given."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from finch_hub.registry import index_builds

revision: str = "0024"
down_revision: str | Sequence[str] | None = "0023"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None
is_additive: bool = True


def upgrade() -> None:
    is_estimated = sa.Column("is_memory_estimated", sa.Boolean(), nullable=False, server_default=sa.true())
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    op.add_column("jobs", is_estimated, if_not_exists=is_postgresql or None)
    index_builds.create_index("ix_jobs_of_owner", "jobs", ["owner", "number"], where="number > 0")
    if is_postgresql:  # SQLite compares bytes in each index
        index_builds.create_index("ix_jobs_id_bytes", "jobs", [sa.text('id COLLATE "C"')])


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        index_builds.drop_index("ix_jobs_id_bytes", "jobs")
    index_builds.drop_index("ix_jobs_of_owner", "jobs")
    op.drop_column("jobs", "is_memory_estimated")
