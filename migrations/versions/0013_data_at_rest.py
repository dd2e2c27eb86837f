"""Names of data sets that stand for one, who stored them, removed bases, and the time of the last collection."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from finch_hub.registry.types import Instant

revision: str = "0013"
down_revision: str | Sequence[str] | None = "0012"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None
is_additive: bool = True

COLUMNS = {
    "datasets": ("of_jobs", sa.Boolean, sa.false()),
    "job_datasets": ("is_needed", sa.Boolean, sa.true()),
    "bases": ("removed_at", Instant, None),
    "deployment": ("collected_at", Instant, None),
}
# Of several data sets of one name, commands mean the newest one.
FREE_NAMES = """
    UPDATE datasets SET name = NULL WHERE purged_at IS NULL AND EXISTS (
        SELECT 1 FROM datasets AS newer
        WHERE newer.name = datasets.name AND newer.purged_at IS NULL AND newer.id > datasets.id
    )
"""


def upgrade() -> None:
    is_repeatable = op.get_bind().dialect.name == "postgresql" or None
    for table, (name, kind, default) in COLUMNS.items():
        column = sa.Column(name, kind(), server_default=default, nullable=default is None)
        op.add_column(table, column, if_not_exists=is_repeatable)
    op.execute(FREE_NAMES)


def downgrade() -> None:
    for table, (name, _, _) in COLUMNS.items():
        op.drop_column(table, name)
