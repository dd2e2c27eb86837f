"""Time limits of jobs, and keys of jobs that can be trained in one step."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | Sequence[str] | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("time_limit", sa.Double(), nullable=True))
    op.add_column("jobs", sa.Column("gang", sa.String(length=600), nullable=True))
    waiting = sa.text("state = 'queued' AND gang IS NOT NULL")
    op.create_index("ix_jobs_gang", "jobs", ["gang", "number"], sqlite_where=waiting, postgresql_where=waiting)


def downgrade() -> None:
    op.drop_index("ix_jobs_gang", "jobs")
    op.drop_column("jobs", "gang")
    op.drop_column("jobs", "time_limit")
