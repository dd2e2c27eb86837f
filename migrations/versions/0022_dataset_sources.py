"""A table of the data sets that others were made of, so that searches find what was trained on a half of one.

Data that was stored before has no row.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from finch_hub.registry import index_builds

revision: str = "0022"
down_revision: str | Sequence[str] | None = "0021"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None
is_additive: bool = True


def upgrade() -> None:
    op.create_table(
        "dataset_sources",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(["digest"], ["datasets.digest"], name="fk_dataset_sources_digest", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["source"], ["datasets.digest"], name="fk_dataset_sources_source", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("digest", "source", name="pk_dataset_sources"),
        if_not_exists=op.get_bind().dialect.name == "postgresql" or None,  # finished migrations before it are kept
    )
    index_builds.create_index("ix_dataset_sources_source", "dataset_sources", ["source"])


def downgrade() -> None:
    op.drop_table("dataset_sources")
