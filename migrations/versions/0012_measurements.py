"""A table for what one process measures for all of the deployment."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from finch_hub.registry.types import Instant, Json

revision: str = "0012"
down_revision: str | Sequence[str] | None = "0011"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None
is_additive: bool = True


def upgrade() -> None:
    op.create_table(
        "measurements",
        sa.Column("name", sa.String(96), nullable=False),
        sa.Column("due_at", Instant(), nullable=False),
        sa.Column("result", Json, nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_measurements"),
        if_not_exists=op.get_bind().dialect.name == "postgresql" or None,  # finished migrations before it are kept
    )


def downgrade() -> None:
    op.drop_table("measurements")
