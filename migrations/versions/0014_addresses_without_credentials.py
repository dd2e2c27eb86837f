"""Addresses without the credentials with which earlier versions stored them."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

from finch_hub.registry.types import Json
from finch_hub.specs.addresses import strip_credentials
from finch_hub.texts.secret_shapes import redact

revision: str = "0014"
down_revision: str | Sequence[str] | None = "0013"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None
is_additive: bool = True

BATCH = 1000
BASES = sa.table("bases", sa.column("id"), sa.column("name"), sa.column("source"))
JOBS = sa.table(
    "jobs", sa.column("number"), sa.column("spec", Json), sa.column("base_key"), sa.column("gang"), sa.column("reason")
)
VERSIONS = sa.table("adapter_versions", sa.column("id"), sa.column("spec", Json), sa.column("card"))
ATTEMPTS = sa.table("attempts", sa.column("job_id"), sa.column("fence"), sa.column("reason"))
EVENTS = sa.table("events", sa.column("job_id"), sa.column("seq"), sa.column("message"))


def upgrade() -> None:
    for table, keys in ((BASES, "id"), (JOBS, "number"), (VERSIONS, "id"), (ATTEMPTS, "fence"), (EVENTS, "seq")):
        columns = [column for column in table.c if column.name not in (keys, "job_id")]
        clean_rows(table, [column for column in table.c if column not in columns], columns)


def downgrade() -> None:
    """Keep the addresses as they are, since the credentials are not known any more."""


def clean_rows(table: sa.TableClause, keys: list[Any], columns: list[Any]) -> None:
    """Take credentials off the addresses of a table. Most rows have no address, and are passed over by the database."""
    connection = op.get_bind()
    has_address = sa.or_(*(sa.cast(column, sa.Text).like("%:/%") for column in columns))
    last: Sequence[Any] | None = None
    while True:
        query = sa.select(*keys, *columns).where(has_address).order_by(*keys).limit(BATCH).with_for_update()
        if last is not None:
            query = query.where(sa.tuple_(*keys) > sa.tuple_(*map(sa.literal, last)))
        rows = connection.execute(query).all()
        if not rows:
            return
        last = rows[-1][: len(keys)]
        for row in rows:
            before = row._asdict()
            if changes := {name: text for name, text in clean(before).items() if text != before[name]}:
                is_row = sa.and_(*(key == before[key.name] for key in keys))
                connection.execute(sa.update(table).where(is_row).values(changes))
        if connection.dialect.name == "postgresql":
            with op.get_context().autocommit_block():  # commits, and so ends the locks
                pass


def clean(row: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of a row without credentials. Texts of a user and of a model stay as they are."""
    cleaned = {name: strip_credentials(row[name]) for name in ("name", "source") if row.get(name)}
    cleaned |= {name: redact(row[name]) for name in ("reason", "message") if row.get(name)}
    base = row["spec"].get("base") if isinstance(row.get("spec"), dict) else None
    if not isinstance(base, dict) or not isinstance(base.get("source"), str):
        return cleaned
    source, revision = base["source"], base.get("revision") or ""
    bare = strip_credentials(source)
    cleaned["spec"] = {**row["spec"], "base": {**base, "source": bare}}
    key, bare_key = f"{source}@{revision}"[:512], f"{bare}@{revision}"[:512]
    for name in ("base_key", "gang"):  # as `specs.jobs` makes them
        if (row.get(name) or "").startswith(key):
            cleaned[name] = bare_key + row[name][len(key) :]
    if row.get("card"):
        tail, bare_tail = source.rpartition("/")[2], bare.rpartition("/")[2]
        cleaned["card"] = row["card"].replace(source, bare)
        if tail != bare_tail:  # cards have the last part of an address
            cleaned["card"] = cleaned["card"].replace(tail, bare_tail)
    return cleaned
