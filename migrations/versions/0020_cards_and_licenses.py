"""Licenses of bases and of data, and the time at which a user edited a card.

Cards that were edited before are known by the audit. Of later ones, an older Finch Hub leaves the time empty.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from finch_hub.registry.types import Instant

revision: str = "0020"
down_revision: str | Sequence[str] | None = "0019"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None
is_additive: bool = True

COLUMNS = [
    ("bases", "license", sa.String(96)),
    ("bases", "license_link", sa.String(500)),
    ("datasets", "license", sa.String(96)),
    ("adapter_versions", "card_edited_at", Instant()),
]
AUDIT = sa.table("audit", sa.column("subject"), sa.column("action"), sa.column("outcome"), sa.column("at", Instant()))
ADAPTERS = sa.table("adapters", sa.column("id"), sa.column("name"))
FORMER_NAMES = sa.table("former_names", sa.column("name"), sa.column("adapter_id"))
VERSIONS = sa.table(
    "adapter_versions",
    sa.column("adapter_id"),
    sa.column("number"),
    sa.column("card_edited_at", Instant()),
    sa.column("purged_at", Instant()),
)


def upgrade() -> None:
    for table, name, kind in COLUMNS:
        op.add_column(table, sa.Column(name, kind, nullable=True))
    connection = op.get_bind()
    edits = sa.select(AUDIT.c.subject, sa.func.max(AUDIT.c.at).label("at"))
    edits = edits.where(AUDIT.c.action == "card.edit", AUDIT.c.outcome == "done").group_by(AUDIT.c.subject)
    for edit in connection.execute(edits).all():
        name, _, number = edit.subject.rpartition("/")
        if not number.isdecimal():
            continue
        named = sa.select(ADAPTERS.c.id).where(ADAPTERS.c.name == name)
        renamed = sa.select(FORMER_NAMES.c.adapter_id).where(FORMER_NAMES.c.name == name)
        is_version = VERSIONS.c.number == int(number), VERSIONS.c.adapter_id.in_(named.union(renamed))
        edited = sa.update(VERSIONS).where(*is_version, VERSIONS.c.purged_at.is_(None))
        connection.execute(edited.values(card_edited_at=edit.at))


def downgrade() -> None:
    for table, name, _ in reversed(COLUMNS):
        op.drop_column(table, name)
