"""A table for what was measured when a version was made, which stays when the job is pruned.

Versions of before have no row. Their evidence is read from their job, and kept when the job is pruned.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from finch_hub.registry import index_builds
from finch_hub.registry.types import BigId, Instant, Json

revision: str = "0019"
down_revision: str | Sequence[str] | None = "0018"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None
is_additive: bool = True


def upgrade() -> None:
    op.create_table(
        "evidence",
        sa.Column("version_id", BigId, autoincrement=False, nullable=False),
        sa.Column("document", Json, nullable=False),
        sa.Column("samples", sa.String(64), nullable=True),
        sa.Column("samples_purged_at", Instant(), nullable=True),
        sa.ForeignKeyConstraint(
            ["version_id"], ["adapter_versions.id"], name="fk_evidence_version_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("version_id", name="pk_evidence"),
        if_not_exists=op.get_bind().dialect.name == "postgresql" or None,  # finished migrations before it are kept
    )
    index_builds.create_index("ix_evidence_samples", "evidence", ["samples"], where="samples IS NOT NULL")
    index_builds.create_index("ix_evidence_sampled_versions", "evidence", ["version_id"], where="samples IS NOT NULL")


def downgrade() -> None:
    op.drop_table("evidence")
