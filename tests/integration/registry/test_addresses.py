"""Migration 0014: addresses that an earlier version stored with credentials lose them, and nothing else changes."""

from __future__ import annotations

import sqlalchemy as sa
from support import registry

from finch_hub.registry import jobs, tables
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import BaseModelSource

SECRET = "C4nary-7f3aQz"
ADDRESS, BARE = f"store://user:{SECRET}@models.example/birds", "store://models.example/birds"
TOKEN, BARE_TOKEN = f"https://{SECRET}@models.example", "https://models.example"
JOBS, VERSIONS, BASES = tables.Job.__table__, tables.AdapterVersion.__table__, tables.Base.__table__
ATTEMPTS, EVENTS = tables.Attempt.__table__, tables.Event.__table__


def read_all(connection: sa.Connection) -> dict[str, list[tuple[object, ...]]]:
    """Return all rows of the tables that the revision has."""
    names = set(sa.inspect(connection).get_table_names()) - {"alembic_version"}
    select_all = {name: sa.text(f'SELECT * FROM "{name}"') for name in names}
    return {name: sorted(map(tuple, connection.execute(query)), key=str) for name, query in select_all.items()}


def test_credentials_leave_every_table_and_the_rest_stays(old_hub: sa.Engine) -> None:
    registry.migrate(old_hub, "0013")
    with old_hub.begin() as connection:
        before = read_all(connection)
    registry.migrate(old_hub, "0014")
    with old_hub.begin() as connection:
        assert read_all(connection) == before, "rows without credentials stay as they are"
    registry.migrate(old_hub, "0013")

    with old_hub.begin() as connection:
        number, spec = connection.execute(
            sa.select(JOBS.c.number, JOBS.c.spec).where(JOBS.c.kind == "train").order_by(JOBS.c.number).limit(1)
        ).one()
        job_id = connection.scalar(sa.select(JOBS.c.id).where(JOBS.c.number == number))
        leaked = {**spec, "base": {"source": ADDRESS, "revision": "v1"}, "system": f"write to {ADDRESS}"}
        connection.execute(
            sa.update(JOBS)
            .where(JOBS.c.number == number)
            .values(spec=leaked, base_key=f"{ADDRESS}@v1", gang=f"{ADDRESS}@v1 auto None", reason=f"lost {ADDRESS}")
        )
        version = connection.scalar(sa.select(sa.func.min(VERSIONS.c.id)))
        connection.execute(
            sa.update(VERSIONS)
            .where(VERSIONS.c.id == version)
            .values(spec={"base": {"source": TOKEN}}, card=f"for `{TOKEN.partition('//')[2]}`")
        )
        connection.execute(sa.update(BASES).values(source=ADDRESS, name=ADDRESS))
        connection.execute(sa.update(ATTEMPTS).values(reason=f"no answer from {TOKEN}"))
        connection.execute(sa.update(EVENTS).values(message=f"fetching {ADDRESS}"))
    registry.migrate(old_hub, "0014")
    with old_hub.begin() as connection:
        columns = JOBS.c.spec, JOBS.c.base_key, JOBS.c.gang
        row = connection.execute(sa.select(*columns).where(JOBS.c.number == number)).one()
        key = BaseModelSource(source=BARE, revision="v1").key
        assert row.spec == {**leaked, "base": {"source": BARE, "revision": "v1"}}, "the prompt is a user's text"
        assert (row.base_key, row.gang) == (key, f"{key} auto None")
        card = connection.execute(sa.select(VERSIONS.c.spec, VERSIONS.c.card).where(VERSIONS.c.id == version)).one()
        assert card.spec["base"] == {"source": BARE_TOKEN}
        assert card.card == "for `models.example`"
        assert set(connection.execute(sa.select(BASES.c.source, BASES.c.name))) == {(BARE, BARE)}
        after = read_all(connection)
        after["jobs"] = [row for row in after["jobs"] if number not in row]
        assert SECRET not in str(after)
    database = Database(old_hub.url.render_as_string(hide_password=False), allow_insecure=True)
    database.upgrade()
    with database.read() as session:
        assert jobs.get(session, job_id or "").spec["base"]["source"] == BARE
    database.close()
