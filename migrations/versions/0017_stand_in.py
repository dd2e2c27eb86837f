"""Columns that other changes add."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from finch_hub.registry.types import Instant

revision: str = "0017"
down_revision: str | Sequence[str] | None = "0016"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None
is_additive: bool = True

COLUMNS = (("adapters", "deleted_at", Instant, None),)


def upgrade() -> None:
    is_repeatable = op.get_bind().dialect.name == "postgresql" or None
    for table, name, kind, default in COLUMNS:
        column = sa.Column(name, kind(), server_default=default, nullable=default is None)
        op.add_column(table, column, if_not_exists=is_repeatable)


def downgrade() -> None:
    for table, name, *_ in COLUMNS:
        op.drop_column(table, name)
