"""Owners of jobs, and the turns by which claims go through the owners."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from finch_hub.registry import index_builds

revision: str = "0009"
down_revision: str | Sequence[str] | None = "0008"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

QUEUED = "state = 'queued'"
BY_TURN = [sa.text("priority DESC"), "turn", "owner", "number"]
LINE = ["priority", "queue", "device"]
BY_NUMBER = [sa.text("priority DESC"), "number"]


def upgrade() -> None:
    # A build of an index that was interrupted begins here again.
    is_repeatable = op.get_bind().dialect.name == "postgresql" or None
    # Workers of the version before insert and queue jobs without either, which the defaults serve.
    owner = sa.Column("owner", sa.String(length=96), server_default="", nullable=False)
    turn = sa.Column("turn", sa.BigInteger(), server_default="0", nullable=False)
    op.add_column("jobs", owner, if_not_exists=is_repeatable)
    op.add_column("jobs", turn, if_not_exists=is_repeatable)
    columns = ["owner", "state", "needs", sa.text("priority DESC"), "turn", "number"]
    index_builds.create_index("ix_jobs_owner", "jobs", columns, where="finished_at IS NULL")
    fill_turns()  # after the commit before the build, so that no lock keeps others from the table
    index_builds.create_index("ix_jobs_claim_by_turn", "jobs", BY_TURN, where=QUEUED)
    index_builds.create_index("ix_jobs_needs_by_turn", "jobs", ["needs", *BY_TURN], where=QUEUED)
    index_builds.create_index("ix_jobs_own_turns", "jobs", ["owner", *LINE, "turn"], where="finished_at IS NULL")
    index_builds.create_index("ix_jobs_front", "jobs", [*LINE, "turn"], where=QUEUED)
    index_builds.create_index("ix_jobs_claimed", "jobs", ["priority", "turn"], where="fence > 0")
    index_builds.drop_index("ix_jobs_claim", "jobs")
    index_builds.drop_index("ix_jobs_needs", "jobs")


def fill_turns() -> None:
    """Give queued jobs the turns of one owner who submitted them in this order."""
    op.execute(
        "UPDATE jobs SET turn = queued.turn FROM (SELECT id AS job_id, row_number() OVER"
        " (PARTITION BY priority, queue, device ORDER BY number) - 1 AS turn FROM jobs WHERE state = 'queued')"
        " AS queued WHERE jobs.id = queued.job_id"
    )


def downgrade() -> None:
    index_builds.create_index("ix_jobs_claim", "jobs", BY_NUMBER, where=QUEUED)
    index_builds.create_index("ix_jobs_needs", "jobs", ["needs", *BY_NUMBER], where=QUEUED)
    for name in ("owner", "own_turns", "front", "claimed", "claim_by_turn", "needs_by_turn"):
        index_builds.drop_index(f"ix_jobs_{name}", "jobs")
    op.drop_column("jobs", "turn")
    op.drop_column("jobs", "owner")
