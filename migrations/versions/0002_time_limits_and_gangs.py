"""Time limits of jobs, and keys of jobs that can be trained in one step."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from finch_hub.registry import index_builds

revision: str = "0002"
down_revision: str | Sequence[str] | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # A build of the index that was interrupted begins here again.
    is_repeatable = op.get_bind().dialect.name == "postgresql" or None
    op.add_column("jobs", sa.Column("time_limit", sa.Double(), nullable=True), if_not_exists=is_repeatable)
    op.add_column("jobs", sa.Column("gang", sa.String(length=600), nullable=True), if_not_exists=is_repeatable)
    index_builds.create_index("ix_jobs_gang", "jobs", ["gang", "number"], where="state = 'queued' AND gang IS NOT NULL")


def downgrade() -> None:
    index_builds.drop_index("ix_jobs_gang", "jobs")
    op.drop_column("jobs", "gang")
    op.drop_column("jobs", "time_limit")
