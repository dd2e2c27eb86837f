"""An index of the jobs of an owner, and whether the memory of a job was estimated or given."""

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
    op.add_column("jobs", is_estimated, if_not_exists=op.get_bind().dialect.name == "postgresql" or None)
    index_builds.create_index("ix_jobs_of_owner", "jobs", ["owner", "number"], where="number > 0")


def downgrade() -> None:
    index_builds.drop_index("ix_jobs_of_owner", "jobs")
    op.drop_column("jobs", "is_memory_estimated")
