"""When the store got its marker, why workers claim nothing, and which workers leave a job for a while."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from finch_hub.registry.types import Instant

revision: str = "0007"
down_revision: str | Sequence[str] | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("deployment", sa.Column("store_marked_at", Instant(), nullable=True))
    op.add_column("workers", sa.Column("remark", sa.Text(), nullable=True))
    op.add_column("attempts", sa.Column("not_before", Instant(), nullable=True))


def downgrade() -> None:
    op.drop_column("attempts", "not_before")
    op.drop_column("workers", "remark")
    op.drop_column("deployment", "store_marked_at")
