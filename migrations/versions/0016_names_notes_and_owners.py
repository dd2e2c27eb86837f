"""Former names of renamed adapters, descriptions, notes, values of tags, and who made a version with which preset."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from finch_hub.registry.types import BigId, Instant, Prose

revision: str = "0016"
down_revision: str | Sequence[str] | None = "0015"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None
is_additive: bool = True

COLUMNS = [
    ("adapters", "description", Prose(), ""),
    ("adapter_versions", "notes", Prose(), ""),
    ("adapter_versions", "owner", sa.String(96), ""),
    ("adapter_versions", "preset", sa.String(96), None),
    ("adapter_versions", "updated_at", Instant(), None),
    ("tags", "value", sa.String(256), ""),
]
FILL = """
    UPDATE adapter_versions SET
        owner = coalesce((SELECT jobs.owner FROM jobs WHERE jobs.id = adapter_versions.job_id), ''),
        preset = {preset}
"""
PRESETS = {
    "sqlite": "CASE WHEN json_valid(spec) THEN substr(json_extract(spec, '$.preset'), 1, 96) END",
    "postgresql": "left(spec ->> 'preset', 96)",
}


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    for table, name, kind, default in COLUMNS:
        op.add_column(table, sa.Column(name, kind, server_default=default, nullable=default is None))
    op.execute(FILL.format(preset=PRESETS[dialect]))
    op.create_table(
        "former_names",
        sa.Column("name", sa.String(96), nullable=False),
        sa.Column("adapter_id", BigId, nullable=False),
        sa.Column("renamed_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name="fk_former_names_adapter_id"),
        sa.PrimaryKeyConstraint("name", name="pk_former_names"),
    )
    op.create_index("ix_former_names_adapter_id", "former_names", ["adapter_id"])


def downgrade() -> None:
    op.drop_table("former_names")
    for table, name, _, _ in reversed(COLUMNS):
        op.drop_column(table, name)
