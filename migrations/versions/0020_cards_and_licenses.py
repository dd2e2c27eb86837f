"""Licenses of bases and of data, and the time at which a user edited a card.

Cards that were edited before are known by the audit, or because they begin as no written card does. The metadata that
such a text may begin with are taken off, since cards have metadata of their own now. Of later edits, an older Finch Hub
leaves the time empty.
"""

import re
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
    sa.column("id"),
    sa.column("adapter_id"),
    sa.column("number"),
    sa.column("card"),
    sa.column("created_at", Instant()),
    sa.column("updated_at", Instant()),
    sa.column("card_edited_at", Instant()),
    sa.column("purged_at", Instant()),
)
# How a card begins that was written by this version or an earlier one, and what a purge leaves of it.
WRITTEN = ('---\nlibrary_name: "peft"%', "# %\n\nA LoRA adapter for %, made by Finch Hub (%", "(purged)")
FRONT = re.compile(r"---[ \t]*\n(.*?)\n---[ \t]*(?:\n+|\Z)", re.DOTALL)
FIELD = re.compile(r"[\w-]+[ \t]*:(?=\s|\Z)")
LINE = re.compile(r"[\w-]+[ \t]*:(\s.*)?|[ \t]+\S.*|- .*|#.*")


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
        connection.execute(sa.update(VERSIONS).where(*is_version).values(card_edited_at=edit.at))
    is_written = sa.or_(*(VERSIONS.c.card.like(text) for text in WRITTEN))
    changed_at = sa.func.coalesce(VERSIONS.c.updated_at, VERSIONS.c.created_at)
    connection.execute(
        sa.update(VERSIONS).where(VERSIONS.c.card_edited_at.is_(None), ~is_written).values(card_edited_at=changed_at)
    )
    is_without = sa.or_(sa.func.trim(VERSIONS.c.card, " \t\r\n") == "", VERSIONS.c.purged_at.is_not(None))
    connection.execute(sa.update(VERSIONS).where(is_without).values(card_edited_at=None))
    is_edited = VERSIONS.c.card_edited_at.is_not(None), VERSIONS.c.card.like("---%")
    edited = connection.execute(sa.select(VERSIONS.c.id, VERSIONS.c.card).where(*is_edited)).all()
    for version in edited:
        front = FRONT.match(version.card)
        lines = [] if front is None else front[1].split("\n")
        if front is None or not FIELD.match(lines[0]) or not all(map(LINE.fullmatch, lines)):
            continue
        body = version.card[front.end() :]
        changes = {"card": body} if body.strip() else {"card_edited_at": None}
        connection.execute(sa.update(VERSIONS).where(VERSIONS.c.id == version.id).values(**changes))


def downgrade() -> None:
    for table, name, _ in reversed(COLUMNS):
        op.drop_column(table, name)
