"""The public id of a base, and the state `unchecked` of adapter versions."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | Sequence[str] | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

VERSIONS = sa.table("adapter_versions", sa.column("state", sa.String))
CHECK = "ck_adapter_versions_state"
OLD = "state IN ('ready', 'quarantined', 'below_retention')"
NEW = "state IN ('ready', 'quarantined', 'below_retention', 'unchecked')"


def upgrade() -> None:
    is_repeatable = op.get_bind().dialect.name == "postgresql" or None
    op.add_column("bases", sa.Column("public_id", sa.String(length=200), nullable=True), if_not_exists=is_repeatable)
    replace_check(OLD, NEW)


def downgrade() -> None:
    # An older hub knows no unchecked versions. Quarantined ones are as hard to use by mistake.
    op.execute(sa.update(VERSIONS).where(VERSIONS.c.state == "unchecked").values(state="quarantined"))
    replace_check(NEW, OLD)
    op.drop_column("bases", "public_id")


def replace_check(old: str, new: str) -> None:
    if op.get_bind().dialect.name == "sqlite":
        rebuild(old, new)
    else:
        op.drop_constraint(op.f(CHECK), "adapter_versions", type_="check")
        op.create_check_constraint(op.f(CHECK), "adapter_versions", new, postgresql_not_valid=True)
        # The rows are checked after the lock for the new constraint is released. Others may write meanwhile.
        with op.get_context().autocommit_block():
            op.execute(f"ALTER TABLE adapter_versions VALIDATE CONSTRAINT {CHECK}")


def rebuild(old: str, new: str) -> None:
    """Make the table anew, since SQLite changes no constraint. References to its rows are checked at the end."""
    connection = op.get_bind()
    table = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'adapter_versions'").scalar_one()
    indexes = connection.exec_driver_sql(
        "SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'adapter_versions' AND sql IS NOT NULL"
    ).scalars()
    statements = [
        "CREATE TEMPORARY TABLE kept_versions AS SELECT * FROM adapter_versions",
        "DROP TABLE adapter_versions",
        table.replace(old, new),
        "INSERT INTO adapter_versions SELECT * FROM kept_versions",
        "DROP TABLE kept_versions",
        *indexes,
    ]
    for statement in statements:
        connection.exec_driver_sql(statement)
