"""Listeners, and the changes of jobs that each has not heard."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from finch_hub.registry.types import Instant, Prose

revision: str = "0010"
down_revision: str | Sequence[str] | None = "0009"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "listeners",
        sa.Column("name", sa.String(length=96), nullable=False),
        sa.Column("seen_at", Instant(), nullable=False),
        sa.Column("caller", sa.String(length=32), nullable=True),
        sa.Column("called_until", Instant(), nullable=True),
        sa.Column("skipped", sa.BigInteger(), nullable=False),
        sa.Column("trouble", Prose(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_listeners")),
    )
    op.create_table(
        "announcements",
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("listener", sa.String(length=96), nullable=False),
        sa.Column("failed_calls", sa.Integer(), nullable=False),
        sa.Column("due_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_announcements_job_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["listener"], ["listeners.name"], name=op.f("fk_announcements_listener"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "seq", "listener", name=op.f("pk_announcements")),
    )
    op.create_index("ix_announcements_due", "announcements", ["listener", "due_at", "seq"])


def downgrade() -> None:
    op.drop_table("announcements")
    op.drop_table("listeners")
