"""What workers of several versions need to know of a job and of each other."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from finch_hub.registry.types import Json

revision: str = "0005"
down_revision: str | Sequence[str] | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

SET_ASIDE = sa.text("set_aside IS NOT NULL")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("set_aside", Json, nullable=True))
    op.add_column("jobs", sa.Column("claim_token", sa.String(length=32), nullable=True))
    op.add_column("workers", sa.Column("kinds", Json, nullable=True))
    op.create_index("ix_jobs_set_aside", "jobs", ["number"], sqlite_where=SET_ASIDE, postgresql_where=SET_ASIDE)


def downgrade() -> None:
    op.drop_index("ix_jobs_set_aside", "jobs")
    op.drop_column("workers", "kinds")
    op.drop_column("jobs", "claim_token")
    op.drop_column("jobs", "set_aside")
