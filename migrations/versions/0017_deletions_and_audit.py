"""Deleted adapters, purged versions, the history of aliases, and the audit."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from finch_hub.registry import index_builds
from finch_hub.registry.types import BigId, Instant, Json, Prose

revision: str = "0017"
down_revision: str | Sequence[str] | None = "0016"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None
is_additive: bool = True

COLUMNS = (("adapters", "deleted_at"), ("adapter_versions", "purged_at"), ("adapter_versions", "restored_at"))
INDEXES = {
    "ix_adapter_versions_deleted": ("deleted_at", "deleted_at IS NOT NULL AND purged_at IS NULL"),
    "ix_adapter_versions_restored": ("restored_at", "restored_at IS NOT NULL"),
}
# Otherwise the history of an alias would begin with a move from a version that it never names.
FIRST_MOVES = """
    INSERT INTO alias_moves (adapter_id, alias, to_number, at, who)
    SELECT aliases.adapter_id, aliases.name, adapter_versions.number, aliases.moved_at, ''
    FROM aliases JOIN adapter_versions ON adapter_versions.id = aliases.version_id
    WHERE NOT EXISTS (
        SELECT 1 FROM alias_moves
        WHERE alias_moves.adapter_id = aliases.adapter_id AND alias_moves.alias = aliases.name
    )
"""


def upgrade() -> None:
    is_repeatable = op.get_bind().dialect.name == "postgresql" or None
    for table, name in COLUMNS:
        op.add_column(table, sa.Column(name, Instant(), nullable=True), if_not_exists=is_repeatable)
    op.create_table(
        "alias_moves",
        sa.Column("id", BigId, autoincrement=True, nullable=False),
        sa.Column("adapter_id", BigId, nullable=False),
        sa.Column("alias", sa.String(96), nullable=False),
        sa.Column("from_number", sa.Integer(), nullable=True),
        sa.Column("to_number", sa.Integer(), nullable=True),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("who", sa.String(96), nullable=False),
        sa.Column("why", Prose(), nullable=True),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name="fk_alias_moves_adapter_id"),
        sa.PrimaryKeyConstraint("id", name="pk_alias_moves"),
        if_not_exists=is_repeatable,
    )
    op.create_table(
        "audit",
        sa.Column("id", BigId, autoincrement=True, nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("who", sa.String(96), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("subject", Prose(), nullable=False),
        sa.Column("subject_name", Prose(), nullable=False),
        sa.Column("job_id", sa.String(32), nullable=True),
        sa.Column("details", Json, nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("reason", Prose(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        if_not_exists=is_repeatable,
    )
    for name, table, columns in (
        ("ix_alias_moves_alias", "alias_moves", ["adapter_id", "alias", "id"]),
        ("ix_audit_at", "audit", ["at"]),
        ("ix_audit_who", "audit", ["who", "id"]),
        ("ix_audit_action", "audit", ["action", "id"]),
        ("ix_audit_subject", "audit", ["subject_name", "id"]),
    ):
        op.create_index(name, table, columns, if_not_exists=is_repeatable)
    op.execute(FIRST_MOVES)
    for name, (column, where) in INDEXES.items():
        index_builds.create_index(name, "adapter_versions", [column], where=where)


def downgrade() -> None:
    for name in INDEXES:
        index_builds.drop_index(name, "adapter_versions")
    op.drop_table("audit")
    op.drop_table("alias_moves")
    for table, name in COLUMNS:
        op.drop_column(table, name)
