"""An index of claimed turns for each line."""

from collections.abc import Sequence

from finch_hub.registry import index_builds

revision: str = "0011"
down_revision: str | Sequence[str] | None = "0010"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None
is_additive: bool = True


def upgrade() -> None:
    columns = ["priority", "queue", "device", "turn"]
    index_builds.create_index("ix_jobs_claimed_of_line", "jobs", columns, where="fence > 0")


def downgrade() -> None:
    index_builds.drop_index("ix_jobs_claimed_of_line", "jobs")
