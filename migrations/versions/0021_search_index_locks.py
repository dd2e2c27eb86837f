"""Locks between new versions and names of data sets, so that PostgreSQL's search index misses none of them.

An index of before may have missed names. `finch-hub fsck` finds such versions, and `finch-hub db reindex` mends them.
"""

from collections.abc import Sequence

from alembic import op

from finch_hub.registry import search_index

revision: str = "0021"
down_revision: str | Sequence[str] | None = "0020"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None
is_additive: bool = True


def upgrade() -> None:
    search_index.renew_triggers(op.get_bind())


def downgrade() -> None:
    pass  # locks and condition disturb no earlier version
